"""The block in /etc/hosts: ours changes, every other byte stays."""

from hypothesis import given
from hypothesis import strategies as st

from agent.hostd.block import BEGIN, END, rewrite
from agent.hostd.wanted import Name

API, DB = Name("api.shop.mesh", "127.64.3.7"), Name("db.shop.mesh", "127.64.0.9")
HOSTS = "127.0.0.1 localhost\n::1 localhost\n\n# mine\n10.0.0.4 nas\n"

names = st.lists(st.sampled_from([API, DB, Name("api.shop.west.mesh", "127.64.3.7")]), unique=True)
lines = st.sampled_from(["127.0.0.1 localhost", "", "# BEGIN something else", "10.0.0.4 nas", "  # END x", "\t::1  l"])
files = st.builds(
    lambda some, ending, last: ending.join(some) + (ending if last and some else ""),
    st.lists(lines),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)


def test_one_line_an_address():
    text = rewrite(HOSTS, (API, DB, Name("api.shop.west.mesh", "127.64.3.7")))
    assert text == f"{HOSTS}{BEGIN}\n127.64.0.9 db.shop.mesh\n127.64.3.7 api.shop.mesh api.shop.west.mesh\n{END}\n"


@given(files, names, names)
def test_other_bytes_stay(text: str, first: list[Name], second: list[Name]):
    once = rewrite(text, first)
    assert rewrite(once, first) == once
    assert rewrite(once, second) == rewrite(text, second)
    assert rewrite(once, ()) == text


def test_a_lost_end_takes_nobody_elses_line():
    damaged = rewrite(HOSTS, (API,)).replace(END + "\n", "") + "10.0.0.5 other\n"
    assert rewrite(damaged, ()) == HOSTS + "10.0.0.5 other\n"


def test_doubled_blocks_become_one():
    text = rewrite(HOSTS, (API,))
    assert rewrite(text + text.removeprefix(HOSTS), (DB,)) == rewrite(HOSTS, (DB,))


def test_lines_added_after_the_block_stay():
    assert rewrite(rewrite(HOSTS, (API,)) + "10.0.0.5 other\n", ()) == HOSTS + "10.0.0.5 other\n"


def test_a_line_added_after_the_block_stays_one_where_the_last_line_had_no_end():
    """Else `127.0.0.1 localhost` and the added line would become one, and neither name be known."""
    grown = rewrite("127.0.0.1 localhost", (API,)) + "10.0.0.5 other\n"
    assert rewrite(grown, ()) == "127.0.0.1 localhost\n10.0.0.5 other\n"
    assert rewrite(rewrite(grown, (DB,)), ()) == "127.0.0.1 localhost\n10.0.0.5 other\n"


def test_an_end_that_is_none_of_ours_stays():
    assert rewrite(rewrite("127.0.0.1 localhost\r", (API,)), ()) == "127.0.0.1 localhost\r"
