"""Installs compat in the Python programs that a program under `--subprocesses` starts.

They find it on PYTHONPATH. Any Python may, so this file has the syntax of all of them.
"""

import os
import sys

_FOLDER = os.path.dirname(os.path.abspath(__file__))


def _import_the_hidden_one():
    # Python looks for one file of this name: that of the user's own environment.
    sys.path[:] = [p for p in sys.path if os.path.abspath(p) != _FOLDER]
    ours = sys.modules.pop("sitecustomize")
    try:
        import sitecustomize  # noqa: F401
    except ImportError as error:
        if getattr(error, "name", "sitecustomize") != "sitecustomize":
            raise
    finally:
        # Whoever imports this file looks for it there.
        sys.modules.setdefault("sitecustomize", ours)


def _install():
    # Where the package may not be installed: only while it is imported.
    root = os.path.dirname(os.path.dirname(os.path.dirname(_FOLDER)))
    sys.path.append(root)
    try:
        from aiosocketserver.compat import install
    finally:
        sys.path.remove(root)
    install()


_import_the_hidden_one()
if sys.version_info >= (3, 11):
    _install()
