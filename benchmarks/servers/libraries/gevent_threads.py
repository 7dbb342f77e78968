"""socketserver's ThreadingTCPServer in a process that gevent has patched."""

from gevent import monkey

monkey.patch_all()

import benchmarks.servers.legacy  # noqa: E402, F401 - serves by being run
