"""Lines that clients cause: ten of a kind in a minute, and how many more there were."""

import asyncio
import gc
import logging
import threading
import weakref

import pytest

from aiosocketserver.logs.client_log import ClientLog
from tests.clock_support import Clock
from tests.support import until


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock, caplog: pytest.LogCaptureFixture) -> ClientLog:
    caplog.set_level(logging.INFO, "aiosocketserver")
    return ClientLog(burst=3, interval=60.0, clock=clock.time)


def fail_here(log: ClientLog, error: Exception) -> None:
    try:
        raise error
    except Exception as raised:
        log.exception("exception while serving %r", raised, "somebody")


# --- what is logged when ---


def test_the_first_of_a_minute_are_logged_and_then_how_many_more_there_were(
    log: ClientLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(10):
        log.log("kind", logging.INFO, "line %d", number)
        clock.now += 1
    assert caplog.messages == ["line 0", "line 1", "line 2"]
    clock.now = 159.9
    log.log("kind", logging.INFO, "line %d", 10)
    assert len(caplog.messages) == 3
    clock.now = 160.0
    log.log("kind", logging.INFO, "line %d", 11)
    assert caplog.messages[3:] == ["8 more in 60 s, the last one: line 10", "line 11"]


def test_a_line_now_and_then_is_always_logged(
    log: ClientLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(20):
        log.log("kind", logging.INFO, "line %d", number)
        clock.now += 25
    assert caplog.messages == [f"line {number}" for number in range(20)]


def test_kinds_do_not_hide_one_another(log: ClientLog, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(50):
        log.log("flood", logging.INFO, "flood")
    log.log("other", logging.WARNING, "other")
    assert caplog.messages == ["flood"] * 3 + ["other"]
    log.end()
    assert caplog.messages[4:] == ["47 more in 0 s, the last one: flood"]
    assert caplog.records[-1].levelno == logging.INFO


def test_each_place_that_raises_has_its_tracebacks(
    log: ClientLog, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(10):
        fail_here(log, KeyError("x"))
        fail_here(log, ValueError("x"))
    try:
        raise KeyError("y")
    except KeyError as error:
        log.exception("exception while serving %r", error, "another")
    told = [record.exc_info[0] for record in caplog.records if record.exc_info]
    assert told == [KeyError, ValueError] * 3 + [KeyError]
    log.end()
    assert caplog.messages[7:] == [
        "7 more in 0 s, the last one: exception while serving 'somebody': KeyError",
        "7 more in 0 s, the last one: exception while serving 'somebody': ValueError",
    ]


def test_what_is_held_back_keeps_nothing_alive(log: ClientLog) -> None:
    class Error(Exception):
        pass

    for _ in range(5):
        error = Error()
        reference = weakref.ref(error)
        fail_here(log, error)
        del error
    # caplog has those that were logged.
    gc.collect()
    assert reference() is None


def test_a_level_that_is_not_logged_is_not_told_later(
    log: ClientLog, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(10):
        log.log("kind", logging.DEBUG, "line")
    caplog.set_level(logging.DEBUG, "aiosocketserver")
    log.end()
    assert caplog.messages == []


def test_a_record_tells_where_it_comes_from(
    log: ClientLog, caplog: pytest.LogCaptureFixture
) -> None:
    log.log("kind", logging.INFO, "line")
    fail_here(log, KeyError())
    assert [record.funcName for record in caplog.records] == [
        "test_a_record_tells_where_it_comes_from",
        "fail_here",
    ]


def test_lines_of_many_threads_are_all_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aiosocketserver")
    log = ClientLog()

    def flood() -> None:
        for _ in range(500):
            log.log("kind", logging.INFO, "line")

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.end()
    assert caplog.messages[:10] == ["line"] * 10
    assert caplog.messages[10].startswith("1990 more in ")


def test_memory_has_a_bound_also_for_kinds_without_end(
    log: ClientLog, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(5000):
        log.log(number, logging.INFO, "line")
    assert len(caplog.messages) < 1010
    log.end()
    assert (
        sum(int(m.split()[0]) for m in caplog.messages if " more in " in m)
        + sum(m == "line" for m in caplog.messages)
        == 5000
    )


async def test_a_timer_tells_when_nothing_more_happens(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aiosocketserver")
    now = 100.0
    log = ClientLog(burst=1, interval=0.05, clock=lambda: now)
    log.loop = asyncio.get_running_loop()
    for _ in range(3):
        await asyncio.to_thread(log.log, "kind", logging.INFO, "line")
    # However long the threads took.
    now += 0.05
    await until(lambda: len(caplog.messages) == 2)
    assert caplog.messages == ["line", "2 more in 0 s, the last one: line"]
