"""The program's signal handlers, while coroutines or greenlets serve on the main thread.

Python calls them wherever that thread is: in somebody's handler, in a callback, inside
the loop itself. What one of them raises would be that request's error there, or be
logged by the loop, or be lost; under socketserver it ends serve_forever().
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from aiosocketserver.requests.children import is_from_loop


class SignalHandlers:
    """The program's handlers, with what they raise given to `on_error`, until `restore`.

    `is_hook` tells for the frame that a signal has struck, and the error, whether it is
    the program's own code, in which it is raised as ever.
    """

    def __init__(
        self,
        on_error: Callable[[BaseException], object],
        is_hook: Callable[[FrameType | None, BaseException], bool],
    ) -> None:
        self.on_error = on_error
        self.is_hook = is_hook
        self._process = os.getpid()
        self._installed = False

    def install(self) -> None:
        """Take the place of the handlers that there are now. Again, it does nothing."""
        if self._installed or threading.current_thread() is not threading.main_thread():
            return
        self._installed = True
        for number in signal.valid_signals():
            handler: Any = signal.getsignal(number)
            if callable(handler) and not is_from_loop(handler):
                signal.signal(number, _Handler(self, handler))

    def restore(self) -> None:
        """Put back what the program has not replaced itself."""
        if not self._installed:
            return
        self._installed = False
        for number in signal.valid_signals():
            handler = signal.getsignal(number)
            if isinstance(handler, _Handler) and handler.signals is self:
                signal.signal(number, handler.function)

    def are_held(self) -> bool:
        """Whether errors are to be held, here and now."""
        return self._installed and self._process == os.getpid()


class _Handler:
    """A signal handler in the place of the program's, which it equals."""

    def __init__(self, signals: SignalHandlers, function: Callable[..., Any]) -> None:
        self.signals = signals
        self.function = function

    def __call__(self, number: int, frame: FrameType | None) -> Any:
        try:
            return self.function(number, frame)
        except BaseException as error:
            # Another caller than the interpreter is a handler that goes on to this one.
            is_interpreter = sys._getframe(1) is frame
            held = is_interpreter and self.signals.are_held()
            if not held or self.signals.is_hook(frame, error):
                raise
            self.signals.on_error(error)

    def __eq__(self, other: object) -> bool:
        return self.function == (other.function if isinstance(other, _Handler) else other)

    def __hash__(self) -> int:
        return hash(self.function)

    def __repr__(self) -> str:
        return repr(self.function)
