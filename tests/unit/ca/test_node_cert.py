"""Renewal by proof of the old key: hostile chains cost little and never raise."""

import asyncio
import base64
import dataclasses
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from ca import keys, template, verify
from ca.attest.node_cert import GRACE, prove_expired
from ca.policy import Claims, Denied, Grant
from ca.signer.memory import to_pem
from ca.wire import RenewRequest
from mesh import spiffe
from tests.support.ca import DOMAIN, NOW, held_issuer, key_and_csr, make_authority, private, public

GRANT = Grant(spiffe.node(DOMAIN, "vm-1"), (), 3600.0)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    made = make_authority(tmp_path_factory.mktemp("ca"))
    asyncio.run(made.start())
    return made


@pytest.fixture(scope="module")
def held(authority):
    """A node's key and chain."""
    key = keys.new_key()
    return key, authority.issue(GRANT, public(key), NOW)


def request_with(chain: str, key: str) -> RenewRequest:
    _, csr = key_and_csr()
    return RenewRequest(chain=chain, csr=csr, proof=keys.prove(key, csr))


@pytest.mark.parametrize(
    ("when", "method"),
    [
        (NOW, "node_certificate"),
        (NOW + 3599, "node_certificate"),
        (NOW + 3600, "expired_certificate"),
        (NOW + 3600 + GRACE, "expired_certificate"),
    ],
)
def test_who_and_how(authority, held, when, method):
    key, chain = held
    proved = prove_expired(request_with(chain, key), authority.roots, DOMAIN, when)
    assert not isinstance(proved, Denied)
    assert proved[0] == Claims("vm-1", method, NOW)


@pytest.mark.parametrize("when", [NOW + 3601 + GRACE, NOW - 601])
def test_too_late_and_too_early(authority, held, when):
    key, chain = held
    assert isinstance(prove_expired(request_with(chain, key), authority.roots, DOMAIN, when), Denied)


def test_the_key_of_an_expired_intermediate_makes_no_new_nodes(authority):
    """Its own end is not looked at, since an outage may outlast it; so no certificate of its may last longer."""
    stolen, later = authority._current, NOW + 31 * 86400
    assert stolen.issuer.not_after < later
    key = keys.new_key()
    grant, parent = dataclasses.replace(GRANT, ttl=86400.0), dataclasses.replace(stolen.parent, not_after=later * 2)
    forged = template.leaf(grant, public(key), parent, later, 7).sign(stolen.key, hashes.SHA256())
    request = request_with(to_pem(forged) + stolen.issuer.chain_pem, key)
    refused = prove_expired(request, authority.roots, DOMAIN, later)
    assert isinstance(refused, Denied)
    assert "outlives" in refused.reason


def huge_rsa() -> rsa.RSAPublicKey:
    """16,384 bits; nobody needs its private half to make us work with it."""
    return rsa.RSAPublicNumbers(65537, (1 << 16383) + 1).public_key()


def test_a_chain_built_to_burn_time_is_refused_before_any_signature(authority, held):
    key, chain = held
    parent = template.Parent.of(held_issuer(authority).certificate)
    own = ec.generate_private_key(ec.SECP256R1())
    template_of_ca = x509.CertificateBuilder(
        issuer_name=parent.subject,
        subject_name=parent.subject,
        public_key=huge_rsa(),
        serial_number=1,
        not_valid_before=template.moment(NOW - 300),
        not_valid_after=template.moment(NOW + 300),
    )
    giant = to_pem(template_of_ca.sign(own, hashes.SHA256()))
    leaf, _ = verify.parts(chain)
    started = time.process_time()
    for _ in range(20):
        refused = prove_expired(request_with(leaf + giant * 3, key), authority.roots, DOMAIN, NOW)
        assert isinstance(refused, Denied)
        assert "4096" in refused.reason
    assert (time.process_time() - started) / 20 < 0.02


def test_a_node_cannot_sign_for_another_node(authority, held):
    """A leaf is no issuer, even if it signs in good form."""
    key, chain = held
    parent = template.Parent(
        x509.load_pem_x509_certificate(chain.encode()).subject,
        template.Parent.of(held_issuer(authority).certificate).key_id,
        NOW + 1e6,
    )
    forged_key = keys.new_key()
    grant = Grant(spiffe.node(DOMAIN, "vm-2"), (), 3600.0)
    forged = template.leaf(grant, public(forged_key), parent, NOW, 5).sign(private(key), hashes.SHA256())
    outcome = prove_expired(request_with(to_pem(forged) + chain, forged_key), authority.roots, DOMAIN, NOW)
    assert isinstance(outcome, Denied)


def test_an_intermediate_cannot_make_another(authority):
    """Its path length is 0: whoever steals one cannot hide below it."""
    issuer, key = authority._current.issuer, authority._current.key
    below_key, node_key = ec.generate_private_key(ec.SECP256R1()), keys.new_key()
    below = template.intermediate(
        "below", below_key.public_key(), template.Parent.of(issuer.certificate), NOW, 3600, 7
    ).sign(key, hashes.SHA256())
    leaf = template.leaf(GRANT, public(node_key), template.Parent.of(below), NOW, 8).sign(below_key, hashes.SHA256())
    chain = to_pem(leaf) + to_pem(below) + issuer.chain_pem
    assert isinstance(prove_expired(request_with(chain, node_key), authority.roots, DOMAIN, NOW), Denied)
    assert isinstance(verify.issuer(to_pem(below) + issuer.chain_pem, authority.roots, None, NOW), Denied)


@given(place=st.integers(0, 100_000), change=st.integers(1, 255))
def test_no_flipped_byte_of_the_chain_passes_as_another_node_or_raises(authority, held, place, change):
    key, chain = held
    blocks = []
    for block in verify.split(chain):
        der = bytearray(base64.b64decode("".join(block.splitlines()[1:-1])))
        if 0 <= place < len(der):
            der[place] ^= change
        place -= len(der)
        text = base64.encodebytes(bytes(der)).decode()
        blocks.append(f"-----BEGIN CERTIFICATE-----\n{text}-----END CERTIFICATE-----\n")
    outcome = prove_expired(request_with("".join(blocks), key), authority.roots, DOMAIN, NOW)
    assert isinstance(outcome, Denied) or outcome[0].node == "vm-1"
