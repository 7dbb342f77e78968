"""`socketserver` on an event loop: from aiosocketserver import compat as socketserver.

All names of the standard library's module, with their behaviour; see docs/migration.md
for the few differences. Other attributes of that module are found here as well.
"""

from __future__ import annotations

import socketserver as _socketserver
import warnings as _warnings
from typing import Any

from .install import install as install
from .install import uninstall as uninstall
from .mix_ins import GreenletMixIn as GreenletMixIn
from .mixed_servers import GreenletTCPServer as GreenletTCPServer
from .mixed_servers import public_names as _public_names

if hasattr(_socketserver, "UnixStreamServer"):
    from .mixed_servers import GreenletUnixStreamServer as GreenletUnixStreamServer

_names = _public_names()
globals().update(_names)
# install() and uninstall() are not for `from socketserver import *` to take along.
__all__ = list(_names)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    attributes = vars(_socketserver)
    if name in attributes:
        return attributes[name]
    try:
        # What it computes it may warn of, as of __version__ from Python 3.15 on.
        with _warnings.catch_warnings(record=True) as caught:
            _warnings.simplefilter("always")
            attribute = attributes["__getattr__"](name)
    except (KeyError, AttributeError):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    for each in caught:
        # The line to change is the caller's.
        _warnings.warn(each.message, each.category, stacklevel=2)
    return attribute


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(_socketserver)})
