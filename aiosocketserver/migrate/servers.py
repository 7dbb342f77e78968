"""The servers of a source, and what they mean for a handler that becomes a coroutine.

They stay what they are, on compat, where coroutine handlers run beside legacy ones. Here
is told what compat does otherwise for a coroutine handler (docs/migration.md).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import libcst as cst

from .findings import Finding
from .handlers import Family, bases, local_bases
from .io_calls import HARMLESS, LOGGING
from .names import Names, last_statement

# Servers of the standard library that do not stand on compat when socketserver's name does.
_FOREIGN = ("http.server.", "wsgiref.simple_server.", "xmlrpc.server.")

# Hooks that get the client's socket, or pass it on.
_SOCKET_HOOKS = frozenset(
    {
        "close_request",
        "finish_request",
        "handle_error",
        "process_request",
        "shutdown_request",
        "verify_request",
    }
)


# They make the right server for a handler of either kind.
SERVE_ANY = frozenset({"aiosocketserver.run", "aiosocketserver.serving"})


def is_server(imported: frozenset[str]) -> bool:
    """Whether these are names of a server class or mix-in, socketserver's or ours."""
    return any(
        name.startswith(("socketserver.", "aiosocketserver."))
        and name.endswith(("Server", "MixIn"))
        for name in imported
    )


def _difference(roots: frozenset[str]) -> str:
    """What is different for a handler on a server that comes from these classes."""
    if roots <= SERVE_ANY:
        return ""
    if not is_server(roots):
        modules = {root.partition(".")[0] for root in roots} - sys.stdlib_module_names
        called = ", ".join(sorted(roots))
        return f"is given to {called}, whose server has to be compat's" if modules else ""
    if any("Forking" in root for root in roots):
        return "was served in a process of its own each time, and now shares the server's"
    if any("Threading" in root for root in roots):
        return ""
    return "served one client at a time, and now serves all at the same time"


class Servers:
    """The server classes of a source, and where its handlers are given to servers."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._classes = [
            cls for cls in names.all_of(cst.ClassDef) if is_server(self._roots_of(cls))
        ]
        used = [names.imported(each) for each in names.all_of(cst.Attribute)]
        used += [names.imported(each) for each in names.all_of(cst.Name)]
        self._used = frozenset[str]().union(*filter(is_server, used))
        self._runs = any(each & SERVE_ANY for each in used)

    @property
    def are_here(self) -> bool:
        """Whether the source has to do with any server."""
        return bool(self._used) or self._runs

    @property
    def fork(self) -> bool:
        """Whether one of them serves in children."""
        return any("Forking" in name for name in self._used)

    def obstacles(self, family: Family, coroutines: frozenset[str]) -> Iterator[Finding]:
        """What keeps the handlers of a family from being coroutines on these servers."""
        for cls in self._classes:
            for statement in cls.body.body:
                if isinstance(statement, cst.FunctionDef):
                    yield from self._in_hook(cls, statement)
        for call in self._names.all_of(cst.Call):
            yield from self._in_call(call)
        for name in self._references(family):
            yield from self._in_reference(name, coroutines)

    def notes(self, family: Family) -> Iterator[Finding]:
        """What is different for the handlers of a family on these servers."""
        if not self.are_here:
            yield self._names.finding(
                family.classes[0].name,
                "no server here: whatever serves it has to be compat's or aiosocketserver's",
                "from aiosocketserver import compat as socketserver, where the server is made",
            )
        for name in self._references(family):
            what = _difference(self._server_of(name))
            if what:
                yield self._names.finding(name, f"{name.value} {what}")

    def _roots_of(self, cls: cst.ClassDef) -> frozenset[str]:
        """The classes from elsewhere that a class of this source comes from."""
        family = (cls, *local_bases(self._names, cls))
        found = (base.imported for each in family for base in bases(self._names, each))
        return frozenset[str]().union(*found)

    # Hooks of the server classes

    def _in_hook(self, cls: cst.ClassDef, function: cst.FunctionDef) -> Iterator[Finding]:
        name = function.name.value
        if name == "process_request_thread":
            what = "process_request_thread() is not called for coroutine handlers"
            yield self._names.finding(function.name, what)
        elif name == "process_request" and not self._passes_on(function):
            what = "this process_request() does not have the base class's serve the request"
            yield self._names.finding(function.name, what)
        elif name == "finish_request" and not self._ends_with_handler(function):
            what = "what finish_request() does after making the handler comes before that runs"
            yield self._names.finding(function.name, what, "setup() and finish() of the handler")
        elif name == "get_request":
            for call in self._names.all_of(cst.Call, function):
                if isinstance(call.func, cst.Attribute) and call.func.attr.value == "settimeout":
                    yield self._names.finding(call, *_LOST_TIMEOUT)
        # A datagram's `request` has no socket of its own.
        roots = self._roots_of(cls)
        datagrams = any("UDP" in root or "Datagram" in root for root in roots)
        if name in _SOCKET_HOOKS and len(function.params.params) > 1 and not datagrams:
            yield from self._kept(function, function.params.params[1].name.value)

    def _passes_on(self, function: cst.FunctionDef) -> bool:
        return any(
            isinstance(call.func, cst.Attribute) and call.func.attr.value == function.name.value
            for call in self._names.all_of(cst.Call, function)
        )

    def _ends_with_handler(self, function: cst.FunctionDef) -> bool:
        match last_statement(function):
            case cst.Expr(value=cst.Call(func=func)) | cst.Return(value=cst.Call(func=func)) if (
                self._makes_handler(func)
            ):
                return True
            case _:
                return False

    def _makes_handler(self, func: cst.BaseExpression) -> bool:
        if isinstance(func, cst.Attribute):
            return func.attr.value in ("finish_request", "RequestHandlerClass")
        return self._names.definition(func, cst.ClassDef) is not None

    def _kept(self, function: cst.FunctionDef, request: str) -> Iterator[Finding]:
        """Where a hook does more with the client's socket than to call its methods."""
        for name in self._names.all_of(cst.Name, function.body):
            if name.value != request or not self._names.is_loaded(name):
                continue
            parent = self._names.parent(name)
            if isinstance(parent, cst.Attribute | cst.Comparison):
                continue
            call = self._names.parent(parent)
            if isinstance(call, cst.Call) and self._is_harmless(call.func):
                continue
            what = f"{function.name.value}() keeps or hands on {request}, which the loop now uses"
            yield self._names.finding(name, what)

    def _is_harmless(self, func: cst.BaseExpression) -> bool:
        known = _SOCKET_HOOKS | LOGGING
        if isinstance(func, cst.Attribute) and func.attr.value in known:
            return True
        return self._makes_handler(func) or bool(self._names.imported(func) & HARMLESS)

    # Calls anywhere

    def _in_call(self, call: cst.Call) -> Iterator[Finding]:
        if "socket.setdefaulttimeout" in self._names.imported(call.func):
            yield self._names.finding(call, *_LOST_TIMEOUT)
        if not isinstance(call.func, cst.Attribute):
            return
        match call.func.attr.value:
            case "wrap_socket" if any(
                arg.keyword is not None
                and arg.keyword.value == "server_side"
                and self._names.code(arg.value) != "False"
                for arg in call.args
            ):
                yield self._names.finding(
                    call,
                    "a server with TLS sockets of its own cannot have coroutine handlers",
                    "aiosocketserver's own servers have ssl_context, see the README",
                )
            case "handle_request" if not call.args and self._is_repeated(call):
                what = "a loop of handle_request() serves coroutine handlers one after the other"
                yield self._names.finding(call, what, "serve_forever()")
            case _:
                pass

    def _is_repeated(self, call: cst.Call) -> bool:
        return any("Threading" in name or "Forking" in name for name in self._used) and any(
            isinstance(each, cst.While | cst.For) for each in self._names.ancestors(call)
        )

    # Uses of a handler class

    def _references(self, family: Family) -> list[cst.Name]:
        """Where the name of a handler is used outside of its own family."""
        return [
            name
            for name in self._names.all_of(cst.Name)
            if self._names.is_loaded(name)
            and self._names.definition(name, cst.ClassDef) in family.classes
            and not any(each in family.classes for each in self._names.ancestors(name))
        ]

    def _server_of(self, name: cst.Name) -> frozenset[str]:
        """Where the server class comes from that a handler is given to, if it is one."""
        arg = self._names.parent(name)
        call = self._names.parent(arg)
        if not isinstance(arg, cst.Arg) or not isinstance(call, cst.Call):
            return frozenset()
        func = call.func
        if isinstance(func, cst.Attribute) and func.attr.value == "__init__":
            # From the constructor of a server class.
            cls = self._names.enclosing(call, cst.ClassDef)
        else:
            cls = self._names.definition(func, cst.ClassDef)
        return self._names.imported(func) if cls is None else self._roots_of(cls)

    def _in_reference(self, name: cst.Name, coroutines: frozenset[str]) -> Iterator[Finding]:
        parent = self._names.parent(name)
        roots = self._server_of(name)
        if roots and not is_server(roots) and any(root.startswith(_FOREIGN) for root in roots):
            what = f"{', '.join(sorted(roots))} is not one of compat's, and does not await handlers"
            yield self._names.finding(name, what, "derive a class from compat's ThreadingMixIn")
        match parent:
            case cst.Call() if not self._is_in_finish_request(parent):
                yield self._names.finding(
                    parent,
                    f"{name.value}() makes a handler where nobody awaits it",
                    "give the class itself to the server, or a functools.partial of it",
                )
            case cst.Attribute(attr=cst.Name(value=method)) if method in coroutines:
                what = f"{self._names.code(parent)} waits for the client, and is used from outside"
                yield self._names.finding(parent, what)
            case _:
                pass

    def _is_in_finish_request(self, call: cst.Call) -> bool:
        function = self._names.enclosing(call, cst.FunctionDef)
        return function is not None and function.name.value == "finish_request"


_LOST_TIMEOUT = (
    "a time-out that the socket has when it is accepted does not come to a coroutine handler",
    "self.request.settimeout() in setup(), or `timeout` of a StreamRequestHandler",
)
