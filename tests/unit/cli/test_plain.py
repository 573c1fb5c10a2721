"""What agents and hosts say cannot steer the terminal that shows it."""

import pytest

from controlplane.cli.errors import CliError
from controlplane.cli.output import say, table
from controlplane.cli.plain import plain

HOSTILE = ["\x1b[2Jgone", "\x9b31m", "\x1b]0;title\x07", "a\rb", "\u202etxt.exe", "\x00", "\x7f", "\ud800"]


def fine(text: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in text)


@pytest.mark.parametrize("text", ["web-1 -> api.shop", "größer, 東京", "", "two\nlines"])
def test_text_stays_as_it_is(text):
    assert plain(text) == text


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_that_steers_comes_through(text, capsys):
    assert fine(plain(text))
    table(["NODE", "PHASE"], [["web-1", text]])
    say(text)
    CliError(text, details=(text,), hint=text).show()
    shown = capsys.readouterr()
    assert fine(shown.out)
    assert fine(shown.err)
    assert "web-1" in shown.out
