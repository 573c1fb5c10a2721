"""Which bundle of whose trust domain is believed."""

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from mesh.model import TrustBundle
from multicluster import trust
from multicluster.trust import Bundle, Refused
from tests.unit.multicluster.roots import root, rsa_key

ONE, TWO = root(), root("")
OURS = ("west.test", "north.test")


def known(sequence, *roots):
    return trust.accept(None, Bundle(sequence, 0, roots), "east.test", OURS)


def document(**changes):
    return msgspec.json.encode(msgspec.json.decode(trust.document(3, [ONE])) | changes)


def test_a_bundle_is_read_as_it_was_written():
    raw = trust.document(7, [ONE, TWO, root(key=rsa_key())], 90)
    found = trust.read(raw, "east.test")
    assert (found.sequence, found.refresh_hint, len(found.roots)) == (7, 90, 3)
    assert found.roots[:2] == (ONE, TWO)


def test_keys_of_another_use_are_ignored():
    keys = [
        *msgspec.json.decode(trust.document(3, [ONE]))["keys"],
        {"kty": "EC", "use": "jwt-svid", "kid": "k"},
        {"kty": "oct"},
    ]
    assert trust.read(document(keys=keys), "east.test").roots == (ONE,)


def key(**changes):
    return [msgspec.json.decode(trust.document(3, [ONE]))["keys"][0] | changes]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "not a SPIFFE bundle"),
        (b"[" * 100_000, "not a SPIFFE bundle"),
        (b" " * 300_000, "bytes"),
        (document(keys=[]), "0 roots"),
        (document(keys=key() * 100), "keys"),
        (document(spiffe_sequence=-1), "spiffe_sequence"),
        (document(spiffe_sequence=2**60), "spiffe_sequence"),
        (document(keys=key(x5c=[])), "certificates"),
        (document(keys=key(x5c=["AAAA", "AAAA"])), "certificates"),
        (document(keys=key(x5c=["AAAA"])), "cannot be used"),
        (document(keys=key(x5c=["%%"])), "cannot be used"),
        (trust.document(1, [root(authority=False)]), "authority"),
        (trust.document(1, [ONE, root("west.test")]), "west.test"),
    ],
)
def test_what_is_no_bundle_of_the_peer_is_refused(raw, reason):
    with pytest.raises(Refused, match=reason):
        trust.read(raw, "east.test")


def test_a_newer_bundle_replaces_and_an_equal_one_changes_nothing():
    first = known(3, ONE)
    assert trust.accept(first, Bundle(3, 0, (ONE,)), "east.test", OURS) is first
    second = trust.accept(first, Bundle(4, 0, (TWO,)), "east.test", OURS)
    assert isinstance(second, TrustBundle)
    assert second.spec.roots == (TWO,)  # replaced, never merged


@pytest.mark.parametrize("offered", [Bundle(2, 0, (ONE,)), Bundle(3, 0, (TWO,)), Bundle(3, 0, (ONE, TWO))])
def test_the_sequence_never_goes_back(offered):
    with pytest.raises(Refused, match="sequence"):
        trust.accept(known(3, ONE), offered, "east.test", OURS)


@pytest.mark.parametrize("domain", OURS)
def test_nobody_speaks_for_our_trust_domain_or_another_peers(domain):
    with pytest.raises(Refused, match="another's"):
        trust.accept(None, Bundle(9, 0, (ONE,)), domain, OURS)


def test_a_digest_names_a_bundle_whatever_its_order():
    assert trust.digest(1, [ONE, TWO]) == trust.digest(1, [TWO, ONE]) != trust.digest(2, [ONE, TWO])


def der(pem):
    return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "control-plane"),
        ("/node/n1", "control-plane"),
        ("/controlplane/a/b", "control-plane"),
        ("/ns/shop/sa/web", "control-plane"),
    ],
)
def test_only_control_plane_nodes_speak_for_a_peer(path, reason):
    assert trust.speaker(der(root("east.test/controlplane/cp1")), "east.test") == "cp1"
    with pytest.raises(Refused, match=reason):
        trust.speaker(der(root("east.test" + path)), "east.test")


def test_a_name_of_another_trust_domain_is_nobodys():
    with pytest.raises(Refused, match="trust domain"):
        trust.speaker(der(root("west.test/controlplane/cp1")), "east.test")
    with pytest.raises(Refused, match="0 URIs"):
        trust.speaker(der(root("")), "east.test")
