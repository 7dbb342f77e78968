"""What compat replaces of socketserver: how a server waits for requests, and how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import socketserver
import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from aiosocketserver.options.of_classes import check_options, options_of
from aiosocketserver.requests.awaiting import made_to_await
from aiosocketserver.servers.datagram import UDPServer
from aiosocketserver.servers.stream import TCPServer

from .coroutines import requests_of, serve_coroutine
from .loops import LoopFactory, loop_factory_of, new_loop
from .serving import Serving
from .state import State

if TYPE_CHECKING:

    class _Base(socketserver.BaseServer):
        def fileno(self) -> int: ...
else:
    _Base = object

P = ParamSpec("P")
R = TypeVar("R")

_STATE = "_aiosocketserver_state"

# Those of the core's servers that coroutine handlers have here.
_OF_CORE = {**options_of(TCPServer), **options_of(UDPServer)}
COROUTINE_OPTIONS = {
    name: _OF_CORE[name]
    for name in (
        "shutdown_timeout",
        "max_line_size",
        "max_block_size",
        "linger_timeout",
        "max_concurrency",
    )
}


class _Stopped(threading.Event):
    """socketserver's `__is_shut_down`, which also tells whether a `serve_forever` has ever begun.

    That may be somebody's own one, made after socketserver's. `thread` is where it runs.
    """

    begun = False
    thread: int | None = None

    def clear(self) -> None:
        self.begun = True
        self.thread = threading.get_ident()
        super().clear()

    def set(self) -> None:
        self.thread = None
        super().set()


class Engine(_Base):
    """Serves on an event loop what a socketserver class with all its hooks is.

    It is a base of all server classes of compat. A class made of a mix-in of compat and a
    server class of the standard library has it as well (see `give_engine`). Hooks and plain
    handlers are called in the thread that called `serve_forever`, as in socketserver;
    handlers of a mix-in in their threads and children, with finish_request,
    handle_error, shutdown_request and close_request; coroutine handlers in tasks on the
    loop.

    Methods for the caller, beside socketserver's:

    - serve_async(poll_interval=0.5): a coroutine, to serve on a loop that runs already,
      beside other servers

    Methods for coroutine handlers: `run_in_thread(function, *args)`.

    Class variables that may be overridden, beside socketserver's:

    - loop_factory: "asyncio", "uvloop", or a function that makes an event loop; None,
      the default, for what the environment variable AIOSOCKETSERVER_LOOP says, and
      "asyncio" without one. Looked at when `serve_forever` begins, and for the first
      `handle_request` that needs a loop
    - shutdown_timeout: seconds that coroutine handlers have to end when `serve_forever`
      ends, before they are cancelled; 5. None for ever
    - max_line_size, max_block_size, linger_timeout, max_concurrency: for coroutine
      handlers, as in `aiosocketserver.TCPServer` and `aiosocketserver.UDPServer`
    """

    loop_factory: LoopFactory | str | None = None
    shutdown_timeout: float | None = 5.0
    max_line_size: int = 64 * 1024
    max_block_size: int = 16 * 1024 * 1024
    linger_timeout: float = 2.0
    max_concurrency: int = 1024

    @property
    def _aiosocketserver(self) -> State:
        # Made when it is asked for: the constructors of mixed classes call one another
        # by name, so that one of the engine's own would be left out.
        attributes: dict[str, Any] = vars(self)
        state: State = attributes.get(_STATE) or attributes.setdefault(_STATE, State())
        return state

    # Serving

    def serve_forever(self, poll_interval: float | None = 0.5) -> None:
        """Serve until `shutdown`, on an event loop of its own in the calling thread.

        Calls `service_actions` after each request and every `poll_interval` seconds; no
        timer runs unless that is overridden. In a thread whose event loop is running it
        blocks that loop, as socketserver's does.
        """
        serving: Serving | None = None
        self._BaseServer__is_shut_down.clear()
        try:
            with contextlib.ExitStack() as after, new_loop(loop_factory_of(self)) as loop:
                serving = Serving(self, loop, poll_interval, owns_loop=True)
                after.callback(serving.signals.restore)
                loop.set_exception_handler(serving.on_loop_error)
                loop.run_until_complete(self.__serve(serving))
        finally:
            self.__tell_stopped()
        if serving.error is not None:
            raise serving.error

    async def serve_async(self, poll_interval: float | None = 0.5) -> None:
        """Serve until `shutdown`, or until it is cancelled, on the running loop.

        The hooks run on the loop's thread, and so do plain handlers, which block it: a
        server with ThreadingMixIn or ForkingMixIn does not.
        """
        self._BaseServer__is_shut_down.clear()
        try:
            loop = asyncio.get_running_loop()
            serving = Serving(self, loop, poll_interval, owns_loop=False)
            await self.__serve(serving)
        finally:
            self.__tell_stopped()
        if serving.error is not None:
            raise serving.error

    async def __serve(self, serving: Serving) -> None:
        self.__check_handler()
        servings = self._aiosocketserver.servings
        servings.add(serving)
        try:
            await serving.run()
        finally:
            servings.discard(serving)
            if serving.coroutines is not None:
                # One of them may have left a shutdown() to the loop's executor, for
                # which closing the loop waits.
                self.__tell_stopped()

    def __tell_stopped(self) -> None:
        self._BaseServer__shutdown_request = False
        if not self._aiosocketserver.servings:
            # Many programs never call server_close(), or override it without ours.
            self._aiosocketserver.threads.end_idle()
            self._BaseServer__is_shut_down.set()

    def shutdown(self) -> None:
        """Stop `serve_forever`, from another thread, and return when it has ended.

        Before `serve_forever` has begun it returns at once, and `serve_forever` ends as
        it begins. Raises RuntimeError in the thread that serves, where socketserver's
        would wait for itself for ever.
        """
        stopped = self._BaseServer__is_shut_down
        runs_here = stopped.thread == threading.get_ident()
        # There may be two of them.
        if runs_here or self._aiosocketserver.serving_here() is not None:
            raise RuntimeError(
                "shutdown() waits for the end of serve_forever(), which runs in this very "
                "thread: call it in another one, threading.Thread(target=server.shutdown).start()"
            )
        self._BaseServer__shutdown_request = True
        if stopped.begun:
            stopped.wait()

    # socketserver's own attributes, which programs reach into: one that sets the first
    # ends serve_forever() without a poll.

    @property
    def _BaseServer__shutdown_request(self) -> bool:  # noqa: N802
        try:
            return bool(vars(self)["_BaseServer__shutdown_request"])
        except KeyError:
            raise self.__without("_BaseServer__shutdown_request") from None

    @_BaseServer__shutdown_request.setter
    def _BaseServer__shutdown_request(self, value: bool) -> None:  # noqa: N802
        vars(self)["_BaseServer__shutdown_request"] = value
        if value:
            self._aiosocketserver.stop_servings()

    @property
    def _BaseServer__is_shut_down(self) -> _Stopped:  # noqa: N802
        try:
            event: _Stopped = vars(self)["_BaseServer__is_shut_down"]
        except KeyError:
            raise self.__without("_BaseServer__is_shut_down") from None
        return event

    @_BaseServer__is_shut_down.setter
    def _BaseServer__is_shut_down(self, value: threading.Event) -> None:  # noqa: N802
        vars(self)["_BaseServer__is_shut_down"] = _Stopped()

    def __without(self, name: str) -> AttributeError:
        """What Python raises where the constructor has not been called, for a fake as a rule."""
        message = f"{type(self).__name__!r} object has no attribute {name!r}"
        return AttributeError(message, name=name, obj=self)

    def server_close(self) -> None:
        """Close the server. A `serve_forever` that runs ends. May be overridden."""
        self._aiosocketserver.stop_servings()
        super().server_close()

    # Requests

    def handle_request(self) -> None:
        """Serve one request; a coroutine handler's has been served when it returns."""
        self.__check_handler()
        super().handle_request()

    def __check_handler(self) -> None:
        """Tell what cannot work before anybody has connected."""
        if self._aiosocketserver.is_coroutine_handler(self.RequestHandlerClass):
            check_options(self, {**COROUTINE_OPTIONS, "max_threads": _OF_CORE["max_threads"]})

    def _handle_request_noblock(self) -> None:
        # A copy of socketserver's method that keeps the OSError of get_request().
        # socketserver drops it, and at EMFILE its loop spins; a MemoryError ends it.
        serving = self._aiosocketserver.serving_here()
        try:
            self._aiosocketserver.look_at_datagram(self)
            get_request = self.get_request if serving is None else serving.get_request
            request, client_address = get_request()
        except OSError as error:
            self._aiosocketserver.accept_error = error
            return
        except MemoryError as error:
            if serving is None:
                raise
            self._aiosocketserver.accept_error = error
            return
        if self.verify_request(request, client_address):
            try:
                self.process_request(request, client_address)
            except Exception:  # noqa: BLE001 - handle_error() reports it
                self.handle_error(request, client_address)
                self.shutdown_request(request)
            except:
                self.shutdown_request(request)
                raise
            fatal, self._aiosocketserver.fatal = self._aiosocketserver.fatal, None
            if fatal is not None:
                raise fatal
        else:
            self.shutdown_request(request)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Call finish_request; have a coroutine handler serve in a task. May be overridden."""
        if not serve_coroutine(self, request, client_address):
            super().process_request(request, client_address)

    def _aiosocketserver_has_room(self) -> bool:
        """Whether one more request may be taken. The mix-ins have limits."""
        return True

    # What the core's coroutine handlers ask of their server

    _checks_awaiting = True

    def _made_to_await(self, handler: Any) -> None:
        made = made_to_await()
        if made is None:
            if self._aiosocketserver.is_coroutine_handler(self.RequestHandlerClass):
                advice = (
                    "its process_request() has to call that of compat's own ThreadingMixIn, "
                    "ForkingMixIn or server class, which has it served on the loop"
                )
            else:
                advice = (
                    "give the class itself, or a functools.partial of it, to the server as its "
                    "RequestHandlerClass"
                )
            raise TypeError(
                f"{type(handler).__qualname__} is a coroutine handler, and "
                f"{type(self).__qualname__} made it where nobody awaits it: {advice}"
            )
        made.append(handler)

    def run_in_thread(
        self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]:
        """Run a blocking function in a thread: see `aiosocketserver.BaseServer`."""
        requests = requests_of(self)
        if requests is None:
            raise RuntimeError("run_in_thread() is for a coroutine handler of this server")
        return requests.run_in_thread(function, *args, **kwargs)


def with_engine(server: object) -> Engine | None:
    """The server itself, if its class has the engine; None for one without.

    A mix-in may be over nothing, or over a program's own class, and its methods be
    called with a mock as `self`, which passes isinstance() for whatever it stands for.
    """
    return cast("Engine", server) if issubclass(type(server), Engine) else None
