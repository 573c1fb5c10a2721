"""SPIFFE ids. Source of the table: spiffe/spiffe, standards/SPIFFE-ID.md, sections 2.1 to 2.4."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mesh import spiffe
from mesh.spiffe import SpiffeError, SpiffeId

DOMAINS = st.text("abcdefghijklmnopqrstuvwxyz0123456789.-_", min_size=1, max_size=40)
SEGMENTS = st.text("abcXYZ0189.-_", min_size=1, max_size=12).filter(lambda s: s not in {".", ".."})


@pytest.mark.parametrize(
    ("text", "domain", "path"),
    [
        ("spiffe://staging.example.com/payments/mysql", "staging.example.com", "/payments/mysql"),
        (
            "spiffe://k8s-west.example.com/ns/staging/sa/default",
            "k8s-west.example.com",
            "/ns/staging/sa/default",
        ),
        (
            "spiffe://example.com/9eebccd2-12bf-40a6-b262-65fe0487d453",
            "example.com",
            "/9eebccd2-12bf-40a6-b262-65fe0487d453",
        ),
        ("spiffe://example.com", "example.com", ""),
        ("spiffe://1.2.3.4/service", "1.2.3.4", "/service"),
        ("spiffe://under_score/A-Z_a-z.0-9", "under_score", "/A-Z_a-z.0-9"),
        ("spiffe://a/...", "a", "/..."),
        ("spiffe://a/.b", "a", "/.b"),
        ("spiffe://" + "a" * 255 + "/x", "a" * 255, "/x"),
        ("spiffe://a/" + "b" * (2048 - 11), "a", "/" + "b" * (2048 - 11)),
    ],
    ids=range(10),
)
def test_ids_of_the_standard(text: str, domain: str, path: str):
    assert spiffe.parse(text) == SpiffeId(domain, path)
    assert str(spiffe.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "spiffe://"),
        ("https://example.com/x", "spiffe://"),
        ("SPIFFE://example.com/x", "spiffe://"),
        ("spiffe:/example.com/x", "spiffe://"),
        ("spiffe://", "empty"),
        ("spiffe:///path", "empty"),
        ("spiffe://Example.com/x", "only a-z"),
        ("spiffe://example.com:8443/x", "only a-z"),
        ("spiffe://user@example.com/x", "only a-z"),
        ("spiffe://user:pw@example.com/x", "only a-z"),
        ("spiffe://[::1]/x", "only a-z"),
        ("spiffe://exämple.com/x", "only a-z"),
        ("spiffe://example.com?x", "only a-z"),
        ("spiffe://example.com#x", "only a-z"),
        ("spiffe://" + "a" * 256, "longer than 255"),
        ("spiffe://example.com/", "empty segment"),
        ("spiffe://example.com/a/", "empty segment"),
        ("spiffe://example.com//a", "empty segment"),
        ("spiffe://example.com/a//b", "empty segment"),
        ("spiffe://example.com/.", "relative"),
        ("spiffe://example.com/a/../b", "relative"),
        ("spiffe://example.com/a/./b", "relative"),
        ("spiffe://example.com/%61", "may hold only"),
        ("spiffe://example.com/a%2fb", "may hold only"),
        ("spiffe://example.com/a b", "may hold only"),
        ("spiffe://example.com/a?b", "may hold only"),
        ("spiffe://example.com/a#b", "may hold only"),
        ("spiffe://example.com/a\n", "may hold only"),
        ("spiffe://example.com\n/a", "only a-z"),
        ("spiffe://example.com/é", "may hold only"),
        ("spiffe://example.com/\ud800", "may hold only"),
        (" spiffe://example.com/a", "spiffe://"),
        ("spiffe://a/" + "b" * (2049 - 11), "at most 2048"),
        ("spiffe://a/" + "é" * 1100, "at most 2048"),
    ],
    ids=range(34),
)
def test_what_is_no_id_is_refused_with_the_reason(text: str, words: str):
    with pytest.raises(SpiffeError, match=words) as caught:
        spiffe.parse(text)
    assert len(str(caught.value)) < 160


@given(DOMAINS, st.lists(SEGMENTS, max_size=5))
def test_what_was_built_parses_to_the_same(domain: str, segments: list[str]):
    built = spiffe.build(domain, *segments)
    assert spiffe.parse(str(built)) == built == SpiffeId(domain, "".join("/" + s for s in segments))


@given(st.text() | st.text("spife:/.%?#@[]aA0_-").map(lambda t: "spiffe://" + t))
def test_parsing_gives_an_id_that_reads_the_same_or_a_spiffe_error(text: str):
    try:
        parsed = spiffe.parse(text)
    except SpiffeError:
        return
    assert str(parsed) == text


@given(st.text(max_size=10), st.text(max_size=10))
@example("shop", "api/other")
def test_no_name_leaves_its_own_segment(namespace: str, account: str):
    """However hostile, a name gives the identity with exactly this name, or none."""
    try:
        built = spiffe.workload("mesh.test", namespace, account)
    except SpiffeError:
        return
    assert built.path.split("/") == ["", "ns", namespace, "sa", account]


def test_forms():
    assert str(spiffe.workload("mesh.test", "shop", "web")) == "spiffe://mesh.test/ns/shop/sa/web"
    assert str(spiffe.node("mesh.test", "vm-1")) == "spiffe://mesh.test/node/vm-1"
    assert str(spiffe.controlplane("mesh.test", "cp-1")) == "spiffe://mesh.test/controlplane/cp-1"
    with pytest.raises(SpiffeError):
        spiffe.node("mesh.test", "a/../b")
