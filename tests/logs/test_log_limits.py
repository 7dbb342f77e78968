"""Of many like events, one line for each minute."""

from aiosocketserver.logs.limits import LogLimit


def test_the_first_is_logged_at_once_and_later_ones_with_how_many_they_stand_for() -> None:
    times = [0.0, 1.0, 59.9, 60.0, 61.0, 500.0, 501.0]
    limit = LogLimit(60.0, clock=iter(times).__next__)
    assert [limit.count() for _ in times] == [1, 0, 0, 3, 0, 2, 0]
