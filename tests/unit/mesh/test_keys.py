"""The key layout: every object has one place, and no name leaves it."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mesh import keys
from mesh.keys import BadKeyError, EndpointKey
from mesh.model import KINDS, Ref, ServiceRef

LABELS = st.from_regex(r"\A[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?\Z")


@st.composite
def refs(draw: st.DrawFn) -> tuple[Ref, str]:
    """A Ref, and the Service that an Endpoint needs besides."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    name = f"{draw(LABELS)}.{draw(LABELS)}" if kind == "ImportedService" else draw(LABELS)
    service = draw(st.one_of(LABELS, st.builds("{}.{}".format, LABELS, LABELS)))
    return Ref(kind, draw(LABELS) if KINDS[kind].namespaced else "", name), service


@given(refs())
def test_what_a_key_says_is_what_it_was_made_of(case: tuple[Ref, str]):
    ref, service = case
    expected = EndpointKey(ServiceRef(ref.namespace, service), ref.name) if ref.kind == "Endpoint" else ref
    assert keys.parse(keys.key_for(ref, service=service)) == expected


@given(refs(), refs())
def test_two_objects_never_share_a_key(one: tuple[Ref, str], two: tuple[Ref, str]):
    def place(case: tuple[Ref, str]) -> tuple[object, ...]:
        return case if case[0].kind == "Endpoint" else (case[0],)

    assume(place(one) != place(two))
    assert keys.key_for(one[0], service=one[1]) != keys.key_for(two[0], service=two[1])


@given(refs())
def test_a_key_lies_in_the_ranges_of_its_kind_and_namespace_and_in_no_other(case: tuple[Ref, str]):
    ref, service = case
    key = keys.key_for(ref, service=service)
    if ref.kind == "Endpoint" and (peer := ServiceRef(ref.namespace, service).peer):
        assert key.startswith(keys.imports_of(peer))
        return
    for kind, row in KINDS.items():
        assert key.startswith(keys.prefix_for(kind)) == (kind == ref.kind)
        if row.namespaced and row.area != "imports":
            other = ref.namespace + "0"
            assert not key.startswith(keys.prefix_for(kind, other))
    assert key.startswith(keys.prefix_for(ref.kind, ref.namespace))
    private = KINDS[ref.kind].area == "private"
    assert key.startswith(keys.PRIVATE) == private
    assert key.startswith(keys.MESH) != private


@given(st.sampled_from(sorted(KINDS)), st.text(max_size=6), st.text(max_size=6), st.text(max_size=6))
def test_no_name_leaves_its_own_place(kind: str, namespace: str, name: str, service: str):
    try:
        key = keys.key_for(Ref(kind, namespace, name), service=service)
    except BadKeyError:
        return
    imported = kind == "ImportedService" or (kind == "Endpoint" and "." in service)
    rest = key.removeprefix(keys.IMPORTS if imported else keys.prefix_for(kind))
    assert rest != key
    assert rest.split("/")[-1] == (name.partition(".")[0] if kind == "ImportedService" else name)
    depth = {"objects": 1, "private": 1, "bundles": 0, "endpoints": 2, "imports": 3}[KINDS[kind].area]
    assert rest.count("/") == (4 if imported and kind == "Endpoint" else depth)
    assert not {"", ".", ".."} & set(rest.split("/"))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "a\nb", "a\0", "\x7f"])
def test_hostile_parts_are_refused(name: str):
    for ref in (Ref("Service", "shop", name), Ref("Service", name, "api"), Ref("TrustBundle", "", name)):
        with pytest.raises(BadKeyError):
            keys.key_for(ref)
    with pytest.raises(BadKeyError):
        keys.key_for(Ref("Endpoint", "shop", "api-1"), service=name)
    with pytest.raises(BadKeyError):
        keys.endpoints_of(ServiceRef("shop", name))


def test_an_unknown_kind_is_refused_in_short_words():
    with pytest.raises(BadKeyError) as caught:
        keys.key_for(Ref("X" * 10_000, "", "a"))
    assert len(str(caught.value)) < 150


def test_keys_that_hold_no_object():
    for key in (
        keys.EPOCH,
        keys.COMMIT,
        keys.DELETIONS,
        keys.total_of("west"),
        keys.TOKENS + "x",
        keys.OBJECTS,
        keys.OBJECTS + "a/b",
        "",
        "/",
    ):
        assert keys.parse(key) is None, key
    assert keys.parse(keys.ENDPOINTS + "shop/api") is None
    assert keys.parse(keys.ENDPOINTS + "shop/api/x/y") is None


def test_one_services_endpoints_are_a_range_that_holds_no_others():
    assert keys.endpoints_of(ServiceRef("shop", "api")) == "/holdfast/v1/mesh/endpoints/shop/api/"
    other = keys.key_for(Ref("Endpoint", "shop", "x"), service="api2")
    assert not other.startswith(keys.endpoints_of(ServiceRef("shop", "api")))


@given(st.text(max_size=8), st.text(max_size=8))
def test_the_end_of_a_range_bounds_exactly_its_prefix(prefix: str, text: str):
    assume(prefix)
    end, start = keys.prefix_end(prefix), prefix.encode()
    assert start <= (prefix + text).encode() < end
    assert (start <= text.encode() < end) == text.encode().startswith(start)


def test_the_end_of_everything():
    assert keys.prefix_end("") == b"\0"


def test_what_a_peer_told_is_its_own_and_all_else_is_ours():
    assert keys.peer_of(keys.imported_services_of("west")) == "west"
    assert keys.peer_of(keys.endpoints_of(ServiceRef("shop", "api.west"))) == "west"
    for ours in (keys.OBJECTS, keys.endpoints_of(ServiceRef("shop", "api")), keys.BUNDLES, keys.total_of("west")):
        assert keys.peer_of(ours) == ""
    assert keys.total_of("") == keys.DELETIONS != keys.total_of("west") == keys.WITHDRAWALS + "west"
    with pytest.raises(BadKeyError):
        keys.total_of("a/b")
