"""Is the route past the rules as it should be, by what `ip` prints?"""

import pytest

from agent.hostd import sink

THERE = "127.64.0.0/10 dev holdfast0 scope link src 127.0.0.1 \n"


@pytest.mark.parametrize(
    ("shown", "localnet", "stands"),
    [
        (THERE, "1\n", True),
        ("127.64.0.0/10 dev holdfast0 scope link src 127.0.0.1 linkdown \n", "1\n", True),
        (THERE, "0\n", False),
        ("", "1\n", False),
        ("127.64.0.0/10 dev holdfast00 scope link \n", "1\n", False),
    ],
    ids=["as made", "a bridge without ports", "the kernel would refuse every call", "no route", "another device"],
)
def test_what_stands(shown: str, localnet: str, stands: bool) -> None:
    assert sink.stands(shown, localnet) is stands


def test_the_route_is_for_virtual_addresses_only_and_in_the_table_that_has_loopback() -> None:
    words = " ".join(sink.ROUTE)
    assert "127.64.0.0/10 dev holdfast0" in words
    assert words.endswith("src 127.0.0.1 table local")
