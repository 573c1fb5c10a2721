"""Times on a command line."""

import click
import pytest

from mesh.durations import DURATION, Duration, spelled


@pytest.mark.parametrize(
    ("text", "value"),
    [("90s", 90), ("15m", 900), ("24h", 86400), ("7d", 604800), ("5", 5), ("0.5", 0.5), ("1.5h", 5400), ("30.0", 30)],
)
def test_times(text, value):
    found = DURATION.convert(text, None, None)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("text", ["", "0", "0s", "-5", "1w", "h", "1h30m", "inf", "1e9", "9" * 10, "٣s", "5 s", "5s\n"])
def test_what_is_no_time(text):
    with pytest.raises(click.BadParameter):
        DURATION.convert(text, None, None)


def test_no_time_at_all_may_be_one():
    assert Duration(zero=True).convert("0", None, None) == 0


@pytest.mark.parametrize(("seconds", "text"), [(90, "90s"), (120, "2m"), (86400, "1d"), (0, "0s"), (0.5, "0.5s")])
def test_a_time_is_spelled_as_it_is_written(seconds, text):
    assert spelled(seconds) == text
    assert Duration(zero=True).convert(text, None, None) == seconds
