"""What a CSR may be: a proof of possession and nothing else."""

import base64
import time

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from ca import verify
from ca.policy import Denied
from tests.support.ca import csr_with, hostile_csrs, key_and_csr, public

HOSTILE = hostile_csrs()
WORDS = {
    "two uri sans": "subject alternative names",
    "one own uri san": "subject alternative names",
    "dns san": "subject alternative names",
    "email san": "subject alternative names",
    "ca true": "basic constraints",
    "key usage": "key usage",
    "extended key usage": "extended key usage",
    "unknown extension": "extension 1.2.3.4",
    "attribute": "attributes",
    "rsa 1024": "RSA",
    "rsa 2048": "RSA",
    "p-521": "secp521r1",
    "ed25519": "Ed25519",
    "broken signature": "signature",
    "signed by another key": "signature",
    "1 MB": "larger than",
    "1 MB of one block": "larger than",
    "garbage": "cannot be read",
    "two blocks": "one PEM block",
    "empty": "one PEM block",
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_csrs_are_refused_with_their_reason(name):
    outcome = verify.csr(HOSTILE[name])
    assert isinstance(outcome, Denied)
    assert WORDS.get(name, "") in outcome.reason
    assert outcome.reason.isprintable()
    assert len(outcome.reason) < 300


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
def test_a_plain_csr_gives_its_key(curve):
    key = ec.generate_private_key(curve)
    assert verify.csr(csr_with(key=key)) == key.public_key()


def test_ours_is_accepted():
    key, csr = key_and_csr()
    assert verify.csr(csr) == public(key)


def test_the_largest_hostile_ones_cost_no_more_than_a_good_one():
    """The work is bounded by the size limit, and keys are judged before any arithmetic."""
    _, good = key_and_csr()
    costs = {}
    for name, text in {"good": good, **HOSTILE}.items():
        started = time.process_time()
        for _ in range(20):
            verify.csr(text)
        costs[name] = (time.process_time() - started) / 20
    # Generous: shared machine. A parser gone quadratic, or RSA work, would be seconds.
    assert max(costs.values()) < 0.02, costs


@settings(deadline=None)
@given(st.binary(max_size=2000))
def test_any_bytes_are_refused_without_an_exception(junk):
    body = base64.b64encode(junk).decode()
    text = f"-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n"
    assert isinstance(verify.csr(text), Denied)


KEY, CSR = key_and_csr()


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_any_flipped_byte_is_refused(place, change):
    """What was proved is what is used: no change of a CSR leaves it valid with another key."""
    der = bytearray(base64.b64decode("".join(CSR.splitlines()[1:-1])))
    der[place % len(der)] ^= change
    body = base64.b64encode(bytes(der)).decode()
    outcome = verify.csr(f"-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")
    assert isinstance(outcome, Denied) or outcome == public(KEY)
