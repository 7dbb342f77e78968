"""The one fake clock: a loop whose time only the test moves, for what must be exact."""

import asyncio
from collections.abc import Callable


class Timer:
    """What `call_at` and `call_later` return."""

    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self._when = when
        self.callback = callback
        self.cancelled = False

    def when(self) -> float:
        return self._when

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """The part of a loop that has to do with time, and one descriptor that is watched."""

    def __init__(self) -> None:
        self.now = 100.0
        # All timers that were made and are not over, those included that were cancelled.
        self.timers: list[Timer] = []
        self.times_armed = 0
        self.soon: list[Callable[[], object]] = []
        self.reader: Callable[[], object] | None = None

    # What the code under test calls.

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        timer = Timer(when, callback)
        self.timers.append(timer)
        self.times_armed += 1
        return timer

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        return self.call_at(self.now + delay, callback)

    def call_soon(self, callback: Callable[[], object]) -> None:
        self.soon.append(callback)

    def add_reader(self, _: int, callback: Callable[[], object]) -> None:
        self.reader = callback

    def remove_reader(self, _: int) -> None:
        self.reader = None

    def create_future(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    # What the test does.

    def pending(self) -> list[float]:
        """When the timers are due that were not cancelled."""
        return [timer.when() for timer in self.timers if not timer.cancelled]

    def advance(self, to: float) -> None:
        """Let it be later, and whatever is due by then be called."""
        self.now = to
        due = [timer for timer in self.timers if timer.when() <= to and not timer.cancelled]
        self.timers = [timer for timer in self.timers if timer not in due]
        for timer in due:
            timer.callback()

    def next_timer(self) -> float:
        """Let it be as late as the only timer is due; after how many seconds."""
        (when,) = self.pending()
        # The same number that was asked for, in spite of the sum.
        delay = round(when - self.now, 9)
        self.advance(when)
        return delay

    def readable(self) -> None:
        """Tell that there is input."""
        assert self.reader is not None
        self.reader()
