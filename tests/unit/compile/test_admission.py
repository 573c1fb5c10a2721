"""Who a handshake lets in: never fewer than the rules do, and no more than a list of names can say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import pb
from mesh.compile import project, tls
from mesh.compile.access import Admission, admission
from mesh.compile.compiler import compile as compile_anew
from mesh.compile.view import Access, Rule
from mesh.model import LocalPort
from tests.support.meshes import config, definition, local, policy, rule, service, world

BASE = "spiffe://east.test/ns/"
NAMESPACES = [f"{BASE}{n}/" for n in ("shop", "shopping", "ops")]
IDS = [f"{n}sa/{account}" for n in NAMESPACES for account in ("web", "webby")]


def allows(access: Access, spiffe_id: str) -> bool:
    """What the rules mean."""

    def hit(one: Rule) -> bool:
        return one.anyone or spiffe_id in one.principals or any(spiffe_id.startswith(n) for n in one.namespaces)

    if any(hit(one) for one in access.deny):
        return False
    return any(hit(one) for one in access.allow)


def lets_in(found: Admission | None, spiffe_id: str) -> bool:
    return found is None or spiffe_id in found.ids or any(spiffe_id.startswith(p) for p in found.prefixes)


rules = st.lists(
    st.builds(
        Rule,
        id=st.just("r"),
        principals=st.lists(st.sampled_from(IDS), max_size=2).map(tuple),
        namespaces=st.lists(st.sampled_from(NAMESPACES), max_size=1).map(tuple),
        anyone=st.sampled_from([False] * 5 + [True]),
    ),
    max_size=3,
).map(lambda those: tuple(Rule(f"r{n}", r.principals, r.namespaces, r.anyone) for n, r in enumerate(those)))


@given(st.builds(Access, deny=rules, allow=rules), st.sampled_from(IDS))
def test_the_handshake_agrees_with_the_rules(access: Access, spiffe_id: str):
    found = admission(access)
    if allows(access, spiffe_id):
        assert lets_in(found, spiffe_id)
    elif lets_in(found, spiffe_id):
        # The known limit, and nothing else: denied, and out of what a wider rule lets in.
        wide = found is None or any(spiffe_id.startswith(p) for p in found.prefixes)
        assert wide
        assert any(spiffe_id in one.principals or one.namespaces for one in access.deny)
    else:
        assert found is not None
        assert refuser(access, spiffe_id) in found.refusers


def refuser(access: Access, spiffe_id: str) -> str:
    """The rule that denies."""
    for one in access.deny:
        if one.anyone or spiffe_id in one.principals or any(spiffe_id.startswith(n) for n in one.namespaces):
            return one.id
    return "default-deny"


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ((), ["exact:nobody"]),
        ((policy("a", "db", rule("shop/web", "shop/bad")),), [f"exact:{BASE}shop/sa/bad", f"exact:{BASE}shop/sa/web"]),
        (
            (policy("a", "db", rule("shop/web", "shop/bad")), policy("b", "db", rule("shop/bad"), action="Deny")),
            [f"exact:{BASE}shop/sa/web"],
        ),
        (
            (policy("a", "db", rule("x/y", namespaces=["ops"])),),
            [f"exact:{BASE}x/sa/y", f"prefix:{BASE}ops/"],
        ),
        ((policy("a", "db", rule()), policy("b", "db", rule(), action="Deny")), ["exact:nobody"]),
        ((policy("a", "db", rule()),), ["prefix:spiffe://east.test/"]),
        ((policy("a", "db", rule("shop/web"), action="Deny"),), ["exact:nobody"]),
    ],
)
def test_names_of_a_tcp_chain(policies, expected):
    assert matchers(config(), *policies) == expected


def test_where_the_default_allows_only_rbac_denies():
    assert matchers(config("Allow"), policy("a", "db", rule("shop/web"))) == ["prefix:spiffe://east.test/"]


def matchers(*objects) -> list[str] | None:
    """Names in the TLS validation of a TCP chain; None: any."""
    here = definition("db", LocalPort(port=5432, name="tcp"))
    state = world(service("db", port=5432, protocol="tcp", target="tcp"), *objects)
    made = compile_anew(project(state, local(here))).resources[pb.LISTENER]["inbound"]
    listener = pb.decode(pb.LISTENER, made.body)
    context = pb.DownstreamTlsContext.FromString(listener.filter_chains[0].transport_socket.typed_config.value)
    assert context.require_client_certificate.value
    common = context.common_tls_context
    if not common.HasField("combined_validation_context"):
        assert common.validation_context_sds_secret_config.name == "bundle"
        return None
    combined = common.combined_validation_context
    assert combined.validation_context_sds_secret_config.name == "bundle|east.test"
    found = combined.default_validation_context.match_typed_subject_alt_names
    assert all(m.san_type == pb.SubjectAltNameMatcher.URI for m in found)
    return [f"{m.matcher.WhichOneof('match_pattern')}:{m.matcher.exact or m.matcher.prefix}" for m in found]


def test_an_empty_list_is_nobody():
    socket = tls.server("shop/db", callers=Admission((), (), ("default-deny",)))
    common = pb.DownstreamTlsContext.FromString(socket.typed_config.value).common_tls_context
    assert len(common.combined_validation_context.default_validation_context.match_typed_subject_alt_names) == 1


def test_a_policy_of_one_port_changes_its_chain_and_not_the_listener():
    """All else of the listener must stay: Envoy would close every connection of it."""
    here = definition("db", LocalPort(port=5432, name="tcp"))
    state = world(config(), service("db", port=5432, protocol="tcp", target="tcp"))
    newer = world(policy("a", "db", rule("shop/web"), rule(namespaces=["x"], name="x")), base=state, revision=2)

    def rest(which):
        made = compile_anew(project(which, local(here))).resources[pb.LISTENER]["inbound"]
        listener = pb.decode(pb.LISTENER, made.body)
        chain = pb.encode(listener.filter_chains[0])
        listener.ClearField("filter_chains")
        return pb.encode(listener), chain

    before, after = rest(state), rest(newer)
    assert before[0] == after[0]
    assert before[1] != after[1]
