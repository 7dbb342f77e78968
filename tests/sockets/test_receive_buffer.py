"""The receive buffer against a plain model: what is taken never depends on the segments."""

import functools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiosocketserver.sockets.receive_buffer import ReceiveBuffer

# Few different bytes, so that separators and their beginnings are frequent.
data_bytes = st.lists(st.sampled_from(b"ab\r\n"), max_size=60).map(bytes)
segments = st.lists(data_bytes, max_size=20)
separators = st.sampled_from([b"\n", b"\r\n", b"a", b"aa", b"\n\n", b"aba", b"\r\n\r\n"])
NO_LIMIT = 10**9


def split_by(data: bytes, separator: bytes) -> tuple[list[bytes], bytes]:
    *blocks, rest = data.split(separator)
    return [block + separator for block in blocks], rest


@given(segments, separators)
def test_blocks_are_the_same_however_the_bytes_were_split(
    parts: Sequence[bytes], separator: bytes
) -> None:
    buffer = ReceiveBuffer()
    blocks = []
    for part in parts:
        buffer.feed(part)
        while (block := buffer.take_until(separator, NO_LIMIT)) is not None:
            blocks.append(block)
    assert (blocks, buffer.take_all()) == split_by(b"".join(parts), separator)


@given(segments, separators, st.integers(1, 12))
def test_limit_is_exact_however_the_bytes_were_split(
    parts: Sequence[bytes], separator: bytes, limit: int
) -> None:
    blocks, rest = split_by(b"".join(parts), separator)
    buffer = ReceiveBuffer()
    taken: list[bytes] = []
    exceeded = False
    for part in parts:
        buffer.feed(part)
        try:
            while (block := buffer.take_until(separator, limit)) is not None:
                taken.append(block)
        except OverflowError:
            exceeded = True
    fitting = []
    for block in blocks:
        if len(block) > limit:
            break
        fitting.append(block)
    assert taken == fitting
    # Without its separator, a block is known to be too long once it has `limit` bytes.
    assert exceeded == (len(fitting) < len(blocks) or len(rest) >= limit)
    assert b"".join(taken) + buffer.take_all() == b"".join(parts)


Step = tuple[str, bytes, int]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("feed"), data_bytes, st.just(0)),
        # After one of its separators, what is fed and then taken up to it.
        st.tuples(st.just("feed_until"), data_bytes.filter(bool), st.integers(1, 20)),
        st.tuples(st.just("take"), st.just(b""), st.integers(0, 20)),
        st.tuples(st.just("take_exactly"), st.just(b""), st.integers(0, 20)),
        st.tuples(st.just("take_until"), separators, st.integers(1, 20)),
        st.tuples(st.just("take_all"), st.just(b""), st.just(0)),
    ),
    max_size=40,
)


@given(steps)
def test_any_sequence_of_calls_matches_the_model(sequence: list[Step]) -> None:
    buffer = ReceiveBuffer()
    model = b""
    for name, argument, size in sequence:
        if name == "feed":
            assert buffer.feed(argument) == bool(argument)
            model += argument
        elif name in ("take_until", "feed_until"):
            separator = argument
            take = functools.partial(buffer.take_until, separator, size)
            if name == "feed_until":
                separator = argument[-2:]
                model += argument
                take = functools.partial(buffer.feed_until, argument, separator, size)
            end = model.find(separator)
            end = end + len(separator) if end >= 0 else -1
            if end > size or (end < 0 and model and len(model) >= size):
                with pytest.raises(OverflowError):
                    take()
            elif end < 0:
                assert take() is None
            else:
                assert take() == model[:end]
                model = model[end:]
        elif name == "take_exactly" and len(model) < size:
            assert buffer.take_exactly(size) is None
        else:
            size = len(model) if name == "take_all" else size
            taken = buffer.take_all() if name == "take_all" else getattr(buffer, name)(size)
            assert type(taken) is bytes
            assert taken == model[:size]
            model = model[size:]
        assert len(buffer) == len(model)
        assert bool(buffer) == bool(model)


def test_another_separator_is_looked_for_from_the_start() -> None:
    buffer = ReceiveBuffer()
    buffer.feed(b"name: value; more")
    assert buffer.take_until(b"\n", NO_LIMIT) is None
    assert buffer.take_until(b";", NO_LIMIT) == b"name: value;"


def test_longer_separator_that_begins_before_what_was_searched_is_found() -> None:
    buffer = ReceiveBuffer()
    buffer.feed(b"line\r")
    assert buffer.take_until(b"\n", NO_LIMIT) is None
    buffer.feed(b"\n")
    assert buffer.take_until(b"\r\n", NO_LIMIT) == b"line\r\n"


def test_feeding_the_end_is_told_and_changes_nothing() -> None:
    buffer = ReceiveBuffer()
    assert buffer.feed(b"rest")
    assert not buffer.feed(b"")
    assert buffer.take_all() == b"rest"
    assert not buffer.feed(b"")
    assert buffer.take_all() == b""


class CountingBytes(bytearray):
    """Counts how many bytes `find` looks at."""

    looked_at = 0

    def find(self, separator: bytes, start: int, end: int) -> int:  # type: ignore[override]
        type(self).looked_at += min(end, len(self)) - start
        return super().find(separator, start, end)


@pytest.mark.parametrize("separator", [b"\n", b"\r\n\r\n"])
def test_one_byte_segments_are_searched_once_each(
    separator: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CountingBytes, "looked_at", 0)
    monkeypatch.setattr(
        "aiosocketserver.sockets.receive_buffer.bytearray", CountingBytes, raising=False
    )
    length = 64 * 1024
    buffer = ReceiveBuffer()
    for _ in range(length):
        buffer.feed(b"x")
        assert buffer.take_until(separator, NO_LIMIT) is None
    buffer.feed(separator)
    assert buffer.take_until(separator, NO_LIMIT) == b"x" * length + separator
    assert length / 2 < CountingBytes.looked_at < length * (len(separator) + 1)


def test_lines_of_one_segment_are_taken_without_copying_the_rest() -> None:
    segment = b"line\n" * 1000
    buffer = ReceiveBuffer()
    buffer.feed(segment)
    for _ in range(999):
        assert buffer.take_until(b"\n", NO_LIMIT) == b"line\n"
    assert buffer._data is segment
    assert buffer.take_until(b"\n", NO_LIMIT) == b"line\n"
    assert len(buffer) == 0
