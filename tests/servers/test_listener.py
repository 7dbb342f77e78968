"""The accept loop: batches, shortages, pauses, and how it takes the backlog at the end."""

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from aiosocketserver.servers.listener import ACCEPT_BATCH, Listener
from tests.clock_support import Clock


class Backlog:
    """A listener on a script of what `get_request` does, one entry for each call."""

    def __init__(self, sock: socket.socket) -> None:
        self.clock = Clock()
        self.script: list[BaseException | int] = []
        self.taken: list[int] = []
        self.fatal: list[BaseException] = []
        self.pauses = 0
        self.room = True
        # What serves a request.
        self.serve: Callable[[Any], object] = lambda request: None
        self.listener = Listener(
            self.clock,  # type: ignore[arg-type]
            sock,
            get_request=self.get_request,
            may_accept=lambda: self.room,
            on_request=self.on_request,
            ends_server=self.ends_server,
            on_pause=self.count_pause,
        )

    def ends_server(self, error: BaseException) -> bool:
        if not isinstance(error, SystemExit | KeyboardInterrupt):
            return False
        self.fatal.append(error)
        return True

    def count_pause(self) -> None:
        self.pauses += 1

    def get_request(self) -> tuple[Any, Any]:
        if not self.script:
            raise BlockingIOError
        entry = self.script.pop(0)
        if isinstance(entry, BaseException):
            raise entry
        return entry, ("client", entry)

    def on_request(self, request: Any, client_address: Any) -> None:
        self.taken.append(request)
        self.serve(request)


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def backlog(listening: socket.socket) -> Backlog:
    made = Backlog(listening)
    made.listener.start()
    return made


def no_descriptors() -> OSError:
    return OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def errors_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]


def test_others_on_the_loop_have_their_turn_after_a_batch(backlog: Backlog) -> None:
    backlog.script = list(range(ACCEPT_BATCH + 5))
    backlog.clock.readable()
    assert len(backlog.taken) == ACCEPT_BATCH
    backlog.clock.readable()
    assert backlog.taken == list(range(ACCEPT_BATCH + 5))


def test_want_of_memory_is_a_shortage(backlog: Backlog, caplog: pytest.LogCaptureFixture) -> None:
    backlog.script = [1, MemoryError(), MemoryError(), 2]
    backlog.clock.readable()
    assert (backlog.taken, backlog.pauses) == ([1], 1)
    assert backlog.clock.next_timer() == 0.05
    backlog.clock.readable()
    assert backlog.clock.next_timer() == 0.1
    backlog.clock.readable()
    assert backlog.taken == [1, 2]
    assert errors_in(caplog) == [
        "accepting is paused, and goes on as soon as it can: out of memory"
    ]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_accepting_backs_off_at_a_shortage_twice_as_long_each_time(
    backlog: Backlog, number: int
) -> None:
    backlog.script = [OSError(number, "short") for _ in range(7)]
    backlog.clock.readable()
    delays = []
    for _ in range(6):
        assert backlog.clock.reader is None, "must not be woken up while it waits"
        delays.append(backlog.clock.next_timer())
        backlog.clock.readable()
    assert delays == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0]


def test_accepting_goes_on_after_a_shortage_and_starts_from_the_first_delay(
    backlog: Backlog,
) -> None:
    backlog.script = [no_descriptors(), no_descriptors(), 1, 2]
    backlog.clock.readable()
    backlog.clock.next_timer()
    backlog.clock.readable()
    assert backlog.clock.next_timer() == 0.1
    backlog.clock.readable()
    assert backlog.taken == [1, 2]
    backlog.script = [no_descriptors()]
    backlog.clock.readable()
    assert backlog.clock.next_timer() == 0.05


def test_one_line_is_logged_for_one_shortage(
    backlog: Backlog, caplog: pytest.LogCaptureFixture
) -> None:
    # Between the tries a connection ends here and there, which lets in as many.
    backlog.script = [no_descriptors(), no_descriptors(), 1, no_descriptors(), 2, no_descriptors()]
    backlog.clock.readable()
    while backlog.script:
        backlog.clock.next_timer()
        backlog.clock.readable()
    assert backlog.taken == [1, 2]
    (line,) = errors_in(caplog)
    assert os.strerror(errno.EMFILE) in line
    assert str(errno.EMFILE) in line


def test_the_next_shortage_is_logged_again(
    backlog: Backlog, caplog: pytest.LogCaptureFixture
) -> None:
    for connection in range(3):
        backlog.script = [no_descriptors(), connection]
        backlog.clock.readable()
        backlog.clock.next_timer()
        backlog.clock.readable()
    assert len(errors_in(caplog)) == 3


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ECONNABORTED, "aborted"),
        OSError(errno.EPROTO, "protocol"),
        OSError(errno.EPERM, "firewall"),
        OSError(errno.ENETDOWN, "network"),
        InterruptedError(errno.EINTR, "signal"),
        OSError("no errno at all"),
    ],
    ids=repr,
)
def test_a_connection_that_went_before_it_was_taken_is_passed_over(
    backlog: Backlog, caplog: pytest.LogCaptureFixture, error: OSError
) -> None:
    backlog.script = [1, error, 2]
    backlog.clock.readable()
    assert backlog.taken == [1, 2]
    assert backlog.clock.pending() == []
    assert errors_in(caplog) == []


def test_an_exception_in_get_request_is_reported_and_tried_again_later(
    backlog: Backlog, caplog: pytest.LogCaptureFixture
) -> None:
    backlog.script = [LookupError("a bug in an override"), 1]
    backlog.clock.readable()
    (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert record.exc_info[0] is LookupError
    assert backlog.clock.next_timer() == 0.05
    backlog.clock.readable()
    assert backlog.taken == [1]


def test_sys_exit_in_get_request_is_handed_on_and_does_not_reach_the_loop(
    backlog: Backlog,
) -> None:
    leaving = SystemExit(3)
    backlog.script = [leaving, 1]
    backlog.clock.readable()
    assert backlog.fatal == [leaving]
    assert backlog.taken == []


def test_a_listening_socket_that_broke_is_told_and_does_not_spin(
    backlog: Backlog, listening: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    listening.shutdown(socket.SHUT_RDWR)
    backlog.script = [OSError(errno.EINVAL, "not listening") for _ in range(3)]
    backlog.clock.readable()
    assert backlog.clock.reader is None
    assert backlog.clock.next_timer() == 0.05
    backlog.clock.readable()
    assert len(errors_in(caplog)) == 1


def test_a_closed_listening_socket_does_not_spin(
    backlog: Backlog, listening: socket.socket
) -> None:
    listening.close()
    backlog.script = [OSError(errno.EBADF, "closed")]
    backlog.clock.readable()
    assert len(backlog.clock.pending()) == 1


# Room


def test_accepting_pauses_without_room_and_resumes_with_it(backlog: Backlog) -> None:
    backlog.script = [1, 2]
    backlog.room = False
    backlog.clock.readable()
    assert backlog.taken == []
    assert backlog.clock.reader is None
    backlog.listener.resume()
    assert backlog.clock.reader is None, "there still is no room"
    backlog.room = True
    backlog.listener.resume()
    backlog.clock.readable()
    assert backlog.taken == [1, 2]


def test_room_does_not_end_a_suspension(backlog: Backlog) -> None:
    backlog.listener.suspend()
    backlog.listener.resume()
    assert backlog.clock.reader is None
    backlog.listener.start()
    assert backlog.clock.reader is not None


def test_room_does_not_cut_a_back_off_short(backlog: Backlog) -> None:
    backlog.script = [no_descriptors()]
    backlog.clock.readable()
    backlog.listener.resume()
    assert backlog.clock.reader is None
    backlog.clock.next_timer()
    assert backlog.clock.reader is not None


def test_nothing_is_accepted_after_the_request_that_stopped_it(backlog: Backlog) -> None:
    # A task that starts eagerly can run a whole shutdown in the middle of a batch, and the
    # listening socket blocks again when that returns.
    backlog.script = [1, 2]
    backlog.serve = lambda request: backlog.listener.stop()
    backlog.clock.readable()
    assert backlog.taken == [1]


def test_stop_ends_a_back_off(backlog: Backlog) -> None:
    backlog.script = [no_descriptors()]
    backlog.clock.readable()
    backlog.listener.stop()
    assert backlog.clock.pending() == []
    backlog.listener.start()
    assert backlog.clock.reader is None, "a stopped listener stays stopped"


# Drain


async def test_drain_takes_all_that_waits_and_stops(backlog: Backlog) -> None:
    backlog.script = list(range(ACCEPT_BATCH * 3))
    await backlog.listener.drain(ACCEPT_BATCH * 3)
    assert backlog.taken == list(range(ACCEPT_BATCH * 3))
    assert backlog.clock.reader is None
    await backlog.listener.drain(1)


async def test_drain_ends_though_new_connections_keep_coming(backlog: Backlog) -> None:
    backlog.script = list(range(100))
    await backlog.listener.drain(10)
    # listen(10) queues 11 on Linux.
    assert backlog.taken == list(range(11))


async def test_drain_waits_for_room(backlog: Backlog) -> None:
    backlog.script = [1, 2]
    backlog.room = False
    draining = asyncio.create_task(backlog.listener.drain(5))
    await asyncio.sleep(0)
    backlog.listener.suspend()
    backlog.room = True
    backlog.listener.resume()
    assert backlog.clock.reader is None, "it drains, and does not wait for more"
    for callback in backlog.clock.soon:
        callback()
    await draining
    assert backlog.taken == [1, 2]


async def test_drain_waits_for_the_end_of_a_back_off(backlog: Backlog) -> None:
    backlog.script = [no_descriptors(), 1]
    backlog.clock.readable()
    draining = asyncio.create_task(backlog.listener.drain(5))
    await asyncio.sleep(0)
    assert backlog.taken == []
    backlog.clock.next_timer()
    for callback in backlog.clock.soon:
        callback()
    await draining
    assert backlog.taken == [1]


async def test_drain_counts_who_was_given_up_for_want_of_memory(backlog: Backlog) -> None:
    def take(request: Any) -> None:
        if request == 1:
            raise MemoryError

    backlog.script = list(range(10))
    backlog.serve = take
    draining = asyncio.create_task(backlog.listener.drain(3))
    await asyncio.sleep(0)
    assert backlog.taken == [0, 1]
    backlog.clock.next_timer()
    for callback in backlog.clock.soon:
        callback()
    await draining
    # listen(3) queues four on Linux.
    assert backlog.taken == [0, 1, 2, 3]


async def test_drain_of_a_suspended_listener_takes_what_waits(backlog: Backlog) -> None:
    backlog.script = [1, 2]
    backlog.listener.suspend()
    await backlog.listener.drain(5)
    assert backlog.taken == [1, 2]


async def test_drain_ends_when_nobody_listens_any_more(
    backlog: Backlog, listening: socket.socket
) -> None:
    listening.close()
    backlog.script = [OSError(errno.EBADF, "closed"), 1]
    await backlog.listener.drain(5)
    assert backlog.taken == []


async def test_drain_ends_at_sys_exit_in_get_request(backlog: Backlog) -> None:
    backlog.script = [1, SystemExit(), 2]
    await backlog.listener.drain(5)
    assert backlog.taken == [1]
    assert len(backlog.fatal) == 1


async def test_two_drains_at_once_end_together(backlog: Backlog) -> None:
    backlog.room = False
    drains = [asyncio.create_task(backlog.listener.drain(5)) for _ in range(2)]
    await asyncio.sleep(0)
    drains[0].cancel()
    await asyncio.wait(drains)
    assert drains[0].cancelled()
    assert drains[1].exception() is None


# On a real loop


variable: ContextVar[str] = ContextVar("variable", default="of nobody")


async def test_connections_see_the_context_of_who_started_never_of_who_made_room(
    listening: socket.socket,
) -> None:
    listening.setblocking(False)
    seen: list[str] = []
    taken, paused = asyncio.Event(), asyncio.Event()
    room = True

    def take(request: socket.socket, client_address: Any) -> None:
        request.close()
        seen.append(variable.get())
        taken.set()

    variable.set("of the starter")
    listener = Listener(
        asyncio.get_running_loop(),
        listening,
        get_request=listening.accept,
        may_accept=lambda: room,
        on_request=take,
        ends_server=lambda error: False,
        on_pause=paused.set,
    )
    listener.start()
    try:
        for of in ("of a request", "of another request"):
            variable.set(of)
            room = False
            with socket.create_connection(listening.getsockname()):
                await asyncio.wait_for(paused.wait(), 10)
                paused.clear()
                room = True
                listener.resume()
                await asyncio.wait_for(taken.wait(), 10)
            taken.clear()
        with socket.create_connection(listening.getsockname()):
            variable.set("of who shuts down")
            await listener.drain(5)
    finally:
        listener.stop()
    assert seen == ["of the starter"] * 3
