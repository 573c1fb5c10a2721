"""The moment of a join: later than everything that was issued before it, whatever the clocks say."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca import joins
from ca.joins import LEEWAY, Join
from ca.template import BACKDATE
from mesh import codec
from tests.support.ca import NOW


def dated(moment: float) -> float:
    """What a certificate says that was made at this moment: whole seconds."""
    return float(int(moment - BACKDATE)) + BACKDATE


@given(now=st.floats(1e9, 3e9), earlier=st.floats(0, 1e6), off=st.floats(-LEEWAY, LEEWAY))
def test_no_certificate_from_before_counts_if_clocks_differ_by_less_than_the_leeway(now, earlier, off):
    join = joins.next_join(None, "t", now)
    assert dated(now - earlier + off) < join.at


@given(now=st.floats(1e9, 3e9), off=st.floats(-BACKDATE / 2, BACKDATE / 2))
def test_each_join_is_later_than_the_one_before(now, off):
    first = joins.next_join(None, "one", now)
    assert joins.next_join(first, "two", now + off).at > first.at


def test_a_record_from_a_clock_that_is_years_ahead_is_not_waited_for():
    ahead = joins.next_join(None, "one", NOW + 1e8)
    assert joins.next_join(ahead, "two", NOW) == joins.next_join(None, "two", NOW)


@pytest.mark.parametrize(
    "value", [b"", b"{}", b"[]", b"\xff", b'{"at": "soon"}', b'{"at": null, "token": ""}', b"1e999"]
)
def test_a_record_that_cannot_be_read_lets_nobody_in(value):
    assert joins.read(value) is None
    assert joins.since(value) == math.inf


def test_without_a_record_nothing_is_void():
    assert joins.since(None) == 0.0


def test_a_newer_versions_record_is_read():
    value = codec.encode_struct(Join(at=NOW, token="t", expires=NOW)).replace(b"{", b'{"more": [1], ', 1)
    assert joins.since(value) == NOW
