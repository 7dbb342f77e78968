"""When a wait is too long, on a clock that stands still."""

import asyncio
import math
from typing import cast

from aiosocketserver.sockets.time_limits import BLOCKED
from aiosocketserver.sockets.timers import MessageTimeout, WaitTimeout
from tests.clock_support import Clock


class Waits:
    """One socket whose waits begin, end and last too long as the test says."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.waiting = False
        self.moved = 0
        self.late: list[str] = []
        loop = cast(asyncio.AbstractEventLoop, self.clock)
        arguments = {
            "is_waiting": lambda: self.waiting,
            "on_late": self.on_late,
            "moved": lambda: self.moved,
        }
        self.timeout = WaitTimeout(loop, **arguments)  # type: ignore[arg-type]
        self.message_timeout = MessageTimeout(loop, **arguments)  # type: ignore[arg-type]

    def on_late(self, option: str) -> None:
        self.late.append(option)
        self.waiting = False

    def begin(self, deadline: float, option: str = "", idle: float | None = None) -> None:
        self.timeout.start(deadline, option, idle)
        self.waiting = True

    def end(self) -> None:
        self.waiting = False


def test_a_wait_fails_at_its_deadline_and_not_before() -> None:
    waits = Waits()
    waits.begin(105)
    waits.clock.advance(104.9)
    assert not waits.late
    waits.clock.advance(105)
    assert waits.late == [""]


def test_each_wait_has_its_own_deadline_and_the_timer_is_armed_rarely() -> None:
    waits = Waits()
    clock = waits.clock
    for n in range(50):  # 50 waits of 0.1 s each, 5 s in all
        waits.begin(clock.now + 3)
        clock.advance(100 + n / 10)
        waits.end()
    waits.begin(clock.now + 3)
    assert clock.times_armed < 5
    clock.advance(106)
    clock.advance(107.8)
    assert not waits.late
    clock.advance(107.9)
    assert len(waits.late) == 1


def test_an_earlier_deadline_is_kept() -> None:
    waits = Waits()
    waits.begin(200)
    waits.end()
    waits.begin(101)
    assert waits.clock.pending() == [101]
    waits.clock.advance(101)
    assert len(waits.late) == 1


def test_a_timer_that_finds_nobody_waiting_is_not_armed_again() -> None:
    waits = Waits()
    waits.begin(101)
    waits.end()
    waits.clock.advance(102)
    assert (waits.late, waits.clock.pending()) == ([], [])
    waits.begin(103)
    waits.clock.advance(103)
    assert len(waits.late) == 1


def test_a_stopped_time_out_does_not_fire() -> None:
    waits = Waits()
    waits.timeout.stop()
    waits.begin(101)
    waits.timeout.stop()
    assert waits.clock.pending() == []


def test_a_timer_that_comes_a_clock_tick_early_counts() -> None:
    waits = Waits()
    clock = waits.clock
    waits.begin(101)
    clock.timers[0].callback()  # a second early: armed again
    assert not waits.late
    clock.now = 100.9995
    clock.timers[-1].callback()
    assert len(waits.late) == 1


def test_without_any_limit_no_timer_is_armed() -> None:
    waits = Waits()
    waits.begin(math.inf)
    assert waits.clock.pending() == []


def test_the_limit_that_comes_first_is_told() -> None:
    for deadline, idle, told in ((103, 5, "read_timeout"), (109, 5, "idle_timeout")):
        waits = Waits()
        waits.begin(deadline, "read_timeout", idle)
        assert waits.clock.pending() == [min(deadline, 105)]
        waits.clock.advance(min(deadline, 105))
        assert waits.late == [told]


def test_what_moves_the_other_way_keeps_a_connection_from_being_idle() -> None:
    waits = Waits()
    waits.begin(108, "read_timeout", 3)
    waits.moved += 1
    waits.clock.advance(103)
    assert (waits.late, waits.clock.pending()) == ([], [106])
    waits.moved += 1
    waits.clock.advance(106)
    # It does not keep it from its own deadline.
    assert (waits.late, waits.clock.pending()) == ([], [108])
    waits.moved += 1
    waits.clock.advance(108)
    assert waits.late == ["read_timeout"]


def test_a_connection_where_nothing_moves_any_more_is_idle() -> None:
    waits = Waits()
    waits.begin(math.inf, "", 3)
    waits.moved += 1
    waits.clock.advance(103)
    waits.clock.advance(106)
    assert waits.late == ["idle_timeout"]


def test_the_time_that_the_loop_was_blocked_is_given_back() -> None:
    for deadline, idle in ((105.0, None), (math.inf, 5.0)):
        waits = Waits()
        waits.begin(deadline, "read_timeout", idle)
        waits.clock.advance(110)
        assert (waits.late, waits.clock.pending()) == ([], [115])
        waits.clock.advance(115)
        assert waits.late == ["read_timeout" if idle is None else "idle_timeout"]


def test_a_time_out_of_the_handler_is_not_put_off() -> None:
    waits = Waits()
    waits.begin(105)
    waits.clock.advance(105 + 10 * BLOCKED)
    assert waits.late == [""]


def test_a_message_has_one_deadline_however_many_waits_it_takes() -> None:
    waits = Waits()
    assert waits.message_timeout.start_message(10, 5.0) == 105
    waits.clock.now = 103
    assert waits.message_timeout.start_message(10, 5.0) == 105
    # Something was read, so it is the next one.
    assert waits.message_timeout.start_message(11, 5.0) == 108


def test_a_message_gets_the_time_back_for_all_of_its_waits() -> None:
    waits = Waits()
    timeout, clock = waits.message_timeout, waits.clock
    timeout.start(timeout.start_message(0, 5.0), "read_timeout")
    waits.waiting = True
    clock.advance(110)
    assert (waits.late, timeout.start_message(0, 5.0)) == ([], 115)
    clock.advance(115)
    assert waits.late == ["read_timeout"]


def test_a_wait_that_begins_after_its_deadline_is_not_put_off() -> None:
    """Bytes that trickle begin a new wait each time."""
    waits = Waits()
    waits.clock.now = 110
    waits.begin(105, "read_timeout")
    waits.clock.advance(110)
    assert waits.late == ["read_timeout"]


def test_a_wait_without_a_limit_keeps_no_timer() -> None:
    waits = Waits()
    waits.begin(105, "read_timeout")
    waits.end()
    waits.begin(math.inf)
    waits.clock.advance(200)
    assert not waits.late
    # It would keep the context of a request, and with it the request.
    assert waits.clock.pending() == []
