"""The imports of a source before and after the migration of its handlers."""

import textwrap

import pytest

from tests.migrate_support import after, declined, migrated, told

# Each: the imports before, the class's base, whether a server is made with which name, and the
# imports after.
CASES = {
    "the module, with a server": (
        "import socketserver",
        "socketserver.BaseRequestHandler",
        "socketserver.TCPServer",
        """
        import aiosocketserver
        from aiosocketserver import compat as socketserver
        """,
    ),
    "the module, without a server": (
        "import socketserver",
        "socketserver.BaseRequestHandler",
        "",
        "import aiosocketserver",
    ),
    "the module under another name": (
        "import socketserver as ss  # the servers",
        "ss.BaseRequestHandler",
        "ss.TCPServer",
        """
        import aiosocketserver
        from aiosocketserver import compat as ss  # the servers
        """,
    ),
    "among others": (
        "import os, socketserver, sys",
        "socketserver.BaseRequestHandler",
        "socketserver.TCPServer",
        """
        import aiosocketserver
        import os, sys
        from aiosocketserver import compat as socketserver
        """,
    ),
    "last among others": (
        "import os, socketserver",
        "socketserver.BaseRequestHandler",
        "",
        """
        import aiosocketserver
        import os
        """,
    ),
    "names": (
        "from socketserver import BaseRequestHandler, TCPServer",
        "BaseRequestHandler",
        "TCPServer",
        """
        import aiosocketserver
        from aiosocketserver.compat import TCPServer
        """,
    ),
    "names in lines of their own": (
        """
        from socketserver import (
            TCPServer,  # serves
            BaseRequestHandler as Base,
        )
        """,
        "Base",
        "TCPServer",
        """
        import aiosocketserver
        from aiosocketserver.compat import (
            TCPServer,  # serves
            )
        """,
    ),
    "a name with a comment stays": (
        """
        from socketserver import (
            BaseRequestHandler,  # the base
            TCPServer,
        )
        """,
        "BaseRequestHandler",
        "TCPServer",
        """
        import aiosocketserver
        from aiosocketserver.compat import (
            BaseRequestHandler,  # the base
            TCPServer,
        )
        """,
    ),
    "only the base": (
        "from socketserver import BaseRequestHandler",
        "BaseRequestHandler",
        "",
        "import aiosocketserver",
    ),
    "all names": (
        "from socketserver import *",
        "BaseRequestHandler",
        "TCPServer",
        """
        import aiosocketserver
        from aiosocketserver.compat import *
        """,
    ),
    "what runs on Python 2, too": (
        """
        # both
        try:
            import SocketServer
        except ImportError:
            import socketserver as SocketServer
        """,
        "SocketServer.BaseRequestHandler",
        "SocketServer.TCPServer",
        """
        # both
        import aiosocketserver
        try:
            import SocketServer
        except ImportError:
            from aiosocketserver import compat as SocketServer
        """,
    ),
    "the same on one line each": (
        """
        try: import socketserver
        except ImportError: import SocketServer as socketserver
        """,
        "socketserver.BaseRequestHandler",
        "socketserver.TCPServer",
        """
        import aiosocketserver
        try: from aiosocketserver import compat as socketserver
        except ImportError: import SocketServer as socketserver
        """,
    ),
    "the only statement of a block stays": (
        """
        if True:
            import socketserver
        """,
        "socketserver.BaseRequestHandler",
        "",
        """
        import aiosocketserver
        if True:
            import socketserver
        """,
    ),
    "six": (
        "from six.moves import queue, socketserver",
        "socketserver.BaseRequestHandler",
        "socketserver.TCPServer",
        """
        import aiosocketserver
        from six.moves import queue
        from aiosocketserver import compat as socketserver
        """,
    ),
    "compat": (
        "from aiosocketserver import compat as socketserver",
        "socketserver.BaseRequestHandler",
        "socketserver.TCPServer",
        """
        import aiosocketserver
        from aiosocketserver import compat as socketserver
        """,
    ),
    "a comment before": (
        """
        import os
        # The servers.
        import socketserver
        """,
        "socketserver.BaseRequestHandler",
        "socketserver.TCPServer",
        """
        import os
        # The servers.
        import aiosocketserver
        from aiosocketserver import compat as socketserver
        """,
    ),
    "compat among others": (
        "from aiosocketserver import compat, run",
        "compat.BaseRequestHandler",
        "compat.TCPServer",
        """
        import aiosocketserver
        from aiosocketserver import compat, run
        """,
    ),
    "compat under its own name": (
        "from aiosocketserver import compat",
        "compat.BaseRequestHandler",
        "compat.TCPServer",
        """
        import aiosocketserver
        from aiosocketserver import compat
        """,
    ),
    "the package's own servers": (
        """
        import logging

        import socketserver
        import aiosocketserver
        """,
        "socketserver.BaseRequestHandler",
        "aiosocketserver.ThreadingTCPServer",
        """
        import logging

        import aiosocketserver
        """,
    ),
    "a comment keeps a line": (
        """
        import logging
        # The standard library's.
        import socketserver
        import aiosocketserver
        """,
        "socketserver.BaseRequestHandler",
        "aiosocketserver.ThreadingTCPServer",
        """
        import logging
        # The standard library's.
        import socketserver
        import aiosocketserver
        """,
    ),
    "two statements on a line": (
        "import os; import socketserver",
        "socketserver.BaseRequestHandler",
        "socketserver.TCPServer",
        """
        import aiosocketserver
        import os; from aiosocketserver import compat as socketserver
        """,
    ),
    "behind from __future__": (
        """
        from __future__ import annotations
        import socketserver
        """,
        "socketserver.BaseRequestHandler",
        "",
        """
        from __future__ import annotations
        import aiosocketserver
        """,
    ),
}


def source(imports: str, base: str, server: str, *, coroutine: bool) -> str:
    call = f'\n\nserver = {server}(("", 0), Handler)' if server else ""
    return (
        f"{textwrap.dedent(imports).strip()}\n\n\nclass Handler({base}):\n"
        f"    {'async ' if coroutine else ''}def handle(self):\n        pass{call}\n"
    )


@pytest.mark.parametrize("name", CASES)
def test_imports(name: str) -> None:
    before, base, server, expected = CASES[name]
    assert after(source(before, base, server, coroutine=False)) == source(
        expected, "aiosocketserver.BaseRequestHandler", server, coroutine=True
    )


def test_a_legacy_handler_beside_keeps_its_base() -> None:
    before = """
        from socketserver import StreamRequestHandler, ThreadingTCPServer
        import time

        class Quick(StreamRequestHandler):
            def handle(self):
                self.wfile.write(b"x")

        class Slow(StreamRequestHandler):
            def handle(self):
                time.sleep(1)

        servers = ThreadingTCPServer(("", 0), Quick), ThreadingTCPServer(("", 0), Slow)
        """
    expected = """
        import aiosocketserver
        from aiosocketserver.compat import StreamRequestHandler, ThreadingTCPServer
        import time

        class Quick(aiosocketserver.StreamRequestHandler):
            async def handle(self):
                await self.wfile.write(b"x")

        class Slow(StreamRequestHandler):
            def handle(self):
                time.sleep(1)

        servers = ThreadingTCPServer(("", 0), Quick), ThreadingTCPServer(("", 0), Slow)
        """
    assert migrated(before).source.decode() == textwrap.dedent(expected)


@pytest.mark.parametrize(
    ("imports", "base"),
    [
        ("import socketserver, time", "socketserver.StreamRequestHandler"),
        ("import time; from socketserver import StreamRequestHandler", "StreamRequestHandler"),
    ],
)
def test_a_legacy_handler_without_a_server_keeps_its_import(imports: str, base: str) -> None:
    before = f"""
        {imports}

        class Quick({base}):
            def handle(self):
                self.wfile.write(b"x")

        class Slow({base}):
            def handle(self):
                time.sleep(1)
        """
    text = migrated(before).source.decode()
    assert text.startswith(f"\nimport aiosocketserver\n{imports}\n")


def test_other_modules_that_are_called_alike() -> None:
    before = """
        from socketserver import StreamRequestHandler
        from . import socketserver
        from .socketserver import TCPServer
        from aiosocketserver.compat.engine import Engine

        class Handler(StreamRequestHandler):
            def handle(self):
                self.wfile.write(b"x")

        server = socketserver.make(TCPServer, Handler, Engine)
        """
    expected = """
        import aiosocketserver
        from . import socketserver
        from .socketserver import TCPServer
        from aiosocketserver.compat.engine import Engine
        """
    text = migrated(before).source.decode()
    assert text.startswith(textwrap.dedent(expected))


def test_the_name_of_the_package_may_be_taken() -> None:
    report = declined("""
        import socketserver
        import something as aiosocketserver

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                self.wfile.write(b"x")
        """)
    assert told(report.obstacles) == [
        "1: the name aiosocketserver stands for something else in this source"
    ]
