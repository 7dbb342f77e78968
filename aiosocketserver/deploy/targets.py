"""What a service serves: a handler class, or a server class or factory of the user's."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import socketserver
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from .. import mixed_servers
from ..optional_ssl import has_ssl, ssl
from ..options.of_classes import options_of
from ..requests.handler_kinds import HandlerKind, handler_kind
from ..requests.handlers import DatagramRequestHandler, StreamRequestHandler
from ..requests.partials import without_arguments
from ..servers.base import BaseServer
from ..servers.datagram import UDPServer
from ..servers.socket_server import SocketServer
from ..servers.stream import TCPServer
from ..sockets.unix import AF_UNIX
from .binds import OpenSocket
from .errors import StartError

# What a target may be: said in errors.
_FORM = "module:Name, package.module:Name or path/to/file.py:Name"


class TargetError(StartError):
    """A target that cannot be found, or that cannot be served."""


class ImportFailed(TargetError):
    """A target whose module raises an error when it is imported: its cause."""

    shows_cause = True


def load_target(text: str) -> Any:
    """What `module:Name` names. Raises TargetError; what importing raises is its cause.

    Modules are found in the working directory too, as with `python -m`.
    """
    module_name, colon, name = text.rpartition(":")
    if not (colon and module_name and name):
        raise TargetError(f"the target {text!r} is not of the form {_FORM}")
    module = _import(module_name, text)
    found: Any = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise TargetError(
                f"the target {text!r}: there is no {name!r} in {module_name}; {_offers(module)}"
            ) from None
    return found


def _import(name: str, text: str) -> ModuleType:
    directory = os.getcwd()
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        if name.endswith(".py"):
            return _import_file(Path(name))
        return importlib.import_module(name)
    except TargetError:
        raise
    except ModuleNotFoundError as error:
        # Only what was asked for; a module that it imports in turn is its own failure.
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise TargetError(
                f"the target {text!r}: there is no module {error.name!r}, "
                f"looked for in {directory} and where Python looks"
            ) from None
        raise ImportFailed(f"the target {text!r} could not be imported: {error}") from error
    except Exception as error:
        raise ImportFailed(
            f"the target {text!r} could not be imported: {type(error).__name__}: {error}"
        ) from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise TargetError(f"there is no file {str(path)!r}")
    # As when the file is a script: modules beside it are found.
    directory = str(path.resolve().parent)
    if directory not in sys.path:
        sys.path.insert(0, directory)
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[path.stem] = module
    specification.loader.exec_module(module)
    return module


def _offers(module: ModuleType) -> str:
    """What of a module could be meant."""
    names = [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and value.__module__ == module.__name__
        and (issubclass(value, BaseServer) or hasattr(value, "handle"))
    ]
    return f"it has {', '.join(names)}" if names else "it has no handler and no server class"


def make_server(target: Any, opened: OpenSocket, options: Mapping[str, Any]) -> SocketServer:
    """A server on a socket that is open, with those of `options` that it has.

    Raises TargetError when the target is nothing that can be served there.
    """
    try:
        server = _made(target, opened, options)
    except (TypeError, ValueError) as error:
        raise TargetError(f"{_name(target)} cannot be served on {opened}: {error}") from error
    if not isinstance(server, SocketServer):
        raise TargetError(
            f"{_name(target)} gave {server!r} for {opened}, and not a server of aiosocketserver"
        )
    if isinstance(server, UDPServer) is opened.is_stream:
        server.server_close()
        kind = "datagrams" if opened.is_stream else "connections"
        raise TargetError(f"{_name(target)} is for {kind}, and cannot be served on {opened}")
    if server.socket is not opened.sock:
        if has_ssl() and isinstance(server.socket, ssl.SSLSocket):
            server.server_close()
            raise TargetError(
                f"{_name(target)} has wrapped its socket in TLS, and another one takes its place "
                f"for {opened}, on which nothing would be encrypted: leave it a plain socket, and "
                "give the server ssl_context=context, or the service a certfile"
            )
        server.socket.close()
        server._take_over(opened.sock)
    return server


def _made(target: Any, opened: OpenSocket, options: Mapping[str, Any]) -> object:
    if _is_handler(target):
        _check_handler(target, opened)
        server_class = _server_class(target, opened)
        given = _known(server_class, options)
        return server_class(None, target, bind_and_activate=False, sock=opened.sock, **given)
    if isinstance(target, type) and issubclass(target, BaseServer):
        return _called(target, opened, _known(target, options))
    if isinstance(target, type) or not callable(target):
        raise TypeError(
            "it is neither a handler class nor a server class, nor a function "
            "make(server_address, **options) that returns a server"
        )
    return _called(target, opened, _known(TCPServer if opened.is_stream else UDPServer, options))


def _called(make: Callable[..., object], opened: OpenSocket, options: Mapping[str, Any]) -> object:
    """What a server class or function of the user's makes for a socket."""
    given = {"bind_and_activate": False, **options}
    # Most have no place for it, or pass on only what they know: they get it afterwards.
    if _has_parameter(make, "sock"):
        given["sock"] = opened.sock
    return make(opened.address, **given)


def _has_parameter(function: Callable[..., object], name: str) -> bool:
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):
        # One that is written in C.
        return False


def _known(server_class: type[BaseServer], options: Mapping[str, Any]) -> dict[str, Any]:
    known = options_of(server_class)
    return {name: value for name, value in options.items() if name in known}


def _is_handler(target: Any) -> bool:
    target = without_arguments(target)
    return isinstance(target, type) and hasattr(target, "handle")


def _check_handler(handler: Any, opened: OpenSocket) -> None:
    """Raise TypeError for a handler of connections where datagrams come, and the reverse."""
    handler = without_arguments(handler)
    streams = (StreamRequestHandler, socketserver.StreamRequestHandler)
    datagrams = (DatagramRequestHandler, socketserver.DatagramRequestHandler)
    wrong, right = (datagrams, "Stream") if opened.is_stream else (streams, "Datagram")
    if issubclass(handler, wrong):
        kind = "connections" if opened.is_stream else "datagrams"
        raise TypeError(f"{kind} come there: derive it from {right}RequestHandler")


def _server_class(handler: Any, opened: OpenSocket) -> type[SocketServer]:
    """The server class for a handler: legacy ones run in threads."""
    legacy = handler_kind(handler, mix_in=True) is HandlerKind.LEGACY
    if opened.sock.family == AF_UNIX:
        kind = "UnixStreamServer" if opened.is_stream else "UnixDatagramServer"
    else:
        kind = "TCPServer" if opened.is_stream else "UDPServer"
    # Those without a mix-in are there too.
    found: type[SocketServer] = getattr(mixed_servers, f"Threading{kind}" if legacy else kind)
    return found


def _name(target: Any) -> str:
    name = getattr(target, "__qualname__", None)
    return f"{target.__module__}.{name}" if name else repr(target)
