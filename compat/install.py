"""compat in the place of socketserver, for programs whose imports stay as they are."""

from __future__ import annotations

import importlib
import socketserver
import sys
import warnings
from types import ModuleType

from . import mix_ins
from .engine import Engine
from .greenlets import check_installed

# Python 2's name, which many old texts use, comes with it.
_NAMES = ("socketserver", "SocketServer")

_PACKAGE = __name__.rpartition(".")[0]

# What was there before install(), by name; None for nothing.
_before: dict[str, ModuleType | None] = {}
_reimported: list[str] = []


def install(*, reimport: bool = False, greenlets: bool = False) -> list[str]:
    """Put compat in the place of `socketserver` for everything that is imported from now on.

    `SocketServer`, the name in Python 2, can be imported as well.

    A module that has imported the standard library's own before goes on with it. Such
    modules are named in a RuntimeWarning, and their names returned. With `reimport`,
    those of them that belong to the standard library (`http.server` and the like) are
    imported again first, in place; what other modules have taken out of them stays as
    it was. Called again, it does nothing but look.

    With `greenlets`, what asks for ThreadingMixIn gets greenlets (see `GreenletMixIn`,
    and which programs must not have them); ImportError where greenlet is not installed.
    """
    if greenlets:
        check_installed()
        mix_ins.ThreadingMixIn.greenlets = True
    for name in _NAMES:
        if sys.modules.get(name) is not _compat():
            _before[name] = sys.modules.get(name)
            sys.modules[name] = _compat()
    if reimport:
        standard = [name for name in _users_of(socketserver) if _is_standard(name)]
        _reimport(standard)
        _reimported.extend(standard)
    left = _users_of(socketserver)
    if left:
        hint = "" if reimport else "; with reimport=True those of the standard library follow"
        warnings.warn(
            "these modules had imported socketserver before install(), and go on with it: "
            f"{', '.join(left)}. Call install() before they are imported{hint}",
            RuntimeWarning,
            stacklevel=2,
        )
    return left


def uninstall() -> list[str]:
    """Put the standard library's `socketserver` back for what is imported from now on.

    What `install` has imported again is so once more. Returns the names of the modules
    that have imported compat meanwhile, which go on with it.
    """
    for name, module in _before.items():
        if module is None:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = module
    _before.clear()
    mix_ins.ThreadingMixIn.greenlets = None
    _reimport(_reimported)
    _reimported.clear()
    return _users_of(_compat())


def _compat() -> ModuleType:
    return sys.modules[_PACKAGE]


def _users_of(module: ModuleType) -> list[str]:
    """The modules that hold `module`, or a server class that is made with it."""
    ours = _PACKAGE.partition(".")[0]
    found: list[str] = []
    for name, user in list(sys.modules.items()):
        if user is module or name in _NAMES or name.partition(".")[0] == ours:
            continue
        # Not by dir() or getattr(), which may import what is imported when it is used.
        values = list(getattr(user, "__dict__", {}).values())
        if any(value is module or _module_of(value) is module for value in values):
            found.append(name)
    return found


def _module_of(value: object) -> ModuleType | None:
    """compat or socketserver, for a server class or a mix-in that is made with it."""
    if not isinstance(value, type) or not issubclass(value, _SERVERS_AND_MIX_INS):
        return None
    return _compat() if issubclass(value, _OF_COMPAT) else socketserver


_MIX_INS = [name for name in ("ThreadingMixIn", "ForkingMixIn") if hasattr(socketserver, name)]
_SERVERS_AND_MIX_INS = (
    socketserver.BaseServer,
    *(getattr(socketserver, name) for name in _MIX_INS),
)
_OF_COMPAT = Engine, *(getattr(mix_ins, name) for name in _MIX_INS)


def _is_standard(name: str) -> bool:
    top = name.partition(".")[0]
    # The tests of the standard library are somebody's program, like any other.
    return top in sys.stdlib_module_names and top != "test"


def _reimport(names: list[str]) -> None:
    """Import modules again, in place, each after those that its server classes come from."""
    # One may have been taken out since.
    waiting = dict.fromkeys(name for name in names if name in sys.modules)

    def reimport(name: str) -> None:
        del waiting[name]
        module = sys.modules[name]
        for value in list(vars(module).values()):
            for base in value.__mro__ if isinstance(value, type) else ():
                if base.__module__ in waiting:
                    reimport(base.__module__)
        importlib.reload(module)

    while waiting:
        reimport(next(iter(waiting)))
