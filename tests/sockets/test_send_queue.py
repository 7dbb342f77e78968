"""The send queue against a plain model: every byte leaves once, in call order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiosocketserver.sockets.send_queue import JOIN_SIZE, SendQueue


class Kernel:
    """Takes what it has room for, and then raises BlockingIOError."""

    def __init__(self, *room: int) -> None:
        self.room = list(room)
        self.taken = bytearray()
        self.blocks: list[int] = []

    def send(self, data: bytes | memoryview) -> int:
        self.blocks.append(len(data))
        if not self.room:
            raise BlockingIOError
        count = min(self.room.pop(0), len(data))
        self.taken += data[:count]
        return count


def send(queue: SendQueue, kernel: Kernel) -> None:
    try:
        queue.send(kernel.send)
    except BlockingIOError:
        pass


sizes = st.one_of(st.integers(0, 20), st.sampled_from([JOIN_SIZE - 1, JOIN_SIZE, JOIN_SIZE + 1]))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), sizes),
        st.tuples(st.just("send"), st.one_of(st.integers(1, 30), st.just(10**6))),
        st.tuples(st.just("hold"), st.just(0)),
        st.tuples(st.just("release"), st.just(0)),
    ),
    max_size=40,
)


@given(steps)
def test_any_sequence_of_calls_matches_the_model(sequence: list[tuple[str, int]]) -> None:
    queue = SendQueue()
    kernel = Kernel()
    written = b""
    allowed: int | None = None
    for number, (name, size) in enumerate(sequence):
        if name == "append":
            data = bytes([number]) * size
            written += data
            assert queue.append(data) == len(written) - len(kernel.taken)
        elif name == "send":
            before = len(kernel.taken)
            kernel.room = [size]
            send(queue, kernel)
            may_leave = (len(written) if allowed is None else allowed) - before
            # One call takes `size` bytes or one block, whichever is less.
            assert len(kernel.taken) - before <= min(size, may_leave)
            assert len(kernel.taken) > before or not may_leave
        elif name == "hold":
            allowed = len(written) if allowed is None else allowed
            queue.hold()
        else:
            allowed = None
            queue.release()
        assert kernel.taken == written[: len(kernel.taken)]
        assert len(queue) == len(written) - len(kernel.taken) == queue.queued - queue.sent
        assert queue.limit == (len(written) if allowed is None else allowed)
    queue.release()
    kernel.room = [10**6] * len(sequence)
    queue.send(kernel.send)
    assert kernel.taken == written
    assert not queue


def test_small_writes_leave_as_one_block() -> None:
    queue = SendQueue()
    for number in range(16):
        queue.append(b"line %d\n" % number)
    kernel = Kernel(10**6)
    queue.send(kernel.send)
    assert kernel.taken == b"".join(b"line %d\n" % number for number in range(16))
    assert len(kernel.blocks) == 1


def test_large_write_leaves_alone() -> None:
    queue = SendQueue()
    large = bytes(JOIN_SIZE + 1)
    queue.append(large)
    queue.append(b"a")
    queue.append(b"b")
    kernel = Kernel(10**6, 10**6)
    queue.send(kernel.send)
    assert kernel.blocks == [len(large), 2]


def test_joined_blocks_are_no_larger_than_the_join_size() -> None:
    queue = SendQueue()
    for _ in range(5):
        queue.append(bytes(JOIN_SIZE // 2))
    kernel = Kernel(*[10**6] * 3)
    queue.send(kernel.send)
    assert kernel.blocks == [JOIN_SIZE, JOIN_SIZE, JOIN_SIZE // 2]


def test_what_is_written_while_held_does_not_join_what_may_leave() -> None:
    queue = SendQueue()
    queue.append(b"a")
    queue.append(b"b")
    queue.hold()
    queue.append(b"c")
    kernel = Kernel(10**6, 10**6)
    queue.send(kernel.send)
    assert kernel.taken == b"ab"
    assert (queue.sent, queue.limit, len(queue)) == (2, 2, 1)
    queue.release()
    queue.send(kernel.send)
    assert kernel.taken == b"abc"


def test_one_byte_at_a_time_copies_no_large_rest() -> None:
    size = 4 * JOIN_SIZE
    queue = SendQueue()
    queue.append(bytes(size))
    for _ in range(100):
        queue.append(b"x")
    kernel = Kernel(*[1] * 1000)
    send(queue, kernel)
    assert queue.sent == 1000
    # The rest is a view of the write itself, not a copy with what came behind it.
    assert kernel.blocks == [size - count for count in range(1001)]


def test_cleared_queue_is_empty_where_the_kernel_has_it() -> None:
    queue = SendQueue()
    queue.append(b"taken")
    queue.send(Kernel(10).send)
    queue.append(b"lost")
    queue.hold()
    queue.append(b"lost as well")
    queue.clear()
    assert len(queue) == 0
    assert queue.sent == queue.limit == queue.queued == len(b"taken")
    queue.release()
    queue.append(b"new")
    kernel = Kernel(10)
    queue.send(kernel.send)
    assert kernel.taken == b"new"


def test_other_errors_of_send_pass_through_and_keep_the_bytes() -> None:
    def broken(data: bytes | memoryview) -> int:
        raise BrokenPipeError

    queue = SendQueue()
    queue.append(b"kept")
    with pytest.raises(BrokenPipeError):
        queue.send(broken)
    assert len(queue) == 4
