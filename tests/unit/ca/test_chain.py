"""What was signed is handed out only if it says exactly what was granted."""

import asyncio

import pytest
from cryptography import x509

from ca import verify
from ca.policy import Denied, Grant
from ca.signer.protocol import SignerRefused
from mesh import spiffe
from tests.fakes.lying_signer import LIES, LyingAuthority, LyingSigner
from tests.support.ca import DOMAIN, NOW, Clock, held_issuer, key_and_csr, make_authority, public, sans

GRANT = Grant(spiffe.workload(DOMAIN, "shop", "web"), (), 3600.0)
GATE = Grant(spiffe.node(DOMAIN, "vm-1"), ("gate.holdfast",), 3600.0)


@pytest.fixture
def authority(tmp_path):
    made = make_authority(tmp_path)
    asyncio.run(made.start())
    return made


@pytest.mark.parametrize("grant", [GRANT, GATE])
def test_an_honest_chain_passes_and_says_what_was_granted(authority, grant):
    key, _ = key_and_csr()
    chain = authority.issue(grant, public(key), NOW)
    leaf = verify.chain(chain, grant, public(key), held_issuer(authority), NOW)
    assert isinstance(leaf, verify.Leaf)
    assert sans(chain) == ([str(grant.spiffe_id)], list(grant.dns_names))
    assert (leaf.not_before, leaf.not_after) == (NOW - 300, NOW + 3600)
    assert leaf.serial == f"{x509.load_pem_x509_certificate(chain.encode()).serial_number:x}"


@pytest.mark.parametrize("lie", LIES)
def test_no_lie_of_a_signer_passes(authority, lie):
    key, _ = key_and_csr()
    chain = LyingAuthority(authority, lie).issue(GATE, public(key), NOW)
    assert isinstance(verify.chain(chain, GATE, public(key), held_issuer(authority), NOW), Denied)


def test_the_lying_signer_is_honest_without_a_lie(authority):
    """So that each lie is refused for itself."""
    key, _ = key_and_csr()
    chain = LyingAuthority(authority, "").issue(GATE, public(key), NOW)
    assert isinstance(verify.chain(chain, GATE, public(key), held_issuer(authority), NOW), verify.Leaf)


@pytest.mark.parametrize("lie", LyingSigner.LIES)
def test_an_intermediate_that_was_not_asked_for_is_never_used(tmp_path, lie):
    authority = make_authority(tmp_path, LyingSigner(DOMAIN, lie, clock=Clock()))
    with pytest.raises(SignerRefused, match="not what was asked for"):
        asyncio.run(authority.start())
    assert authority.issuer is None
    assert isinstance(authority.issue(GRANT, public(key_and_csr()[0]), NOW), Denied)


@pytest.mark.parametrize("skew", [-299, 299])
def test_clocks_five_minutes_apart_agree(authority, skew):
    """A leaf issued by a replica is valid on a host whose clock is five minutes behind, and still has its life."""
    key, _ = key_and_csr()
    chain = authority.issue(GRANT, public(key), NOW)
    leaf = verify.chain(chain, GRANT, public(key), held_issuer(authority), NOW)
    assert isinstance(leaf, verify.Leaf)
    assert leaf.not_before <= NOW + skew < leaf.not_after


def test_a_leaf_never_outlives_its_issuer(authority):
    key, _ = key_and_csr()
    issuer = held_issuer(authority)
    late = issuer.not_after - 100
    chain = authority.issue(GRANT, public(key), late)
    leaf = verify.chain(chain, GRANT, public(key), issuer, late)
    assert isinstance(leaf, verify.Leaf)
    assert leaf.not_after == issuer.not_after
    assert isinstance(authority.issue(GRANT, public(key), issuer.not_after), Denied)


def test_chains_are_bounded_before_they_are_parsed():
    assert isinstance(verify.certificates("A" * 1_000_000), Denied)
    block = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    assert isinstance(verify.certificates(block * 5), Denied)
    assert isinstance(verify.certificates(block), Denied)
    assert isinstance(verify.certificates("hello\n" + block), Denied)
