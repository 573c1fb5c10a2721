import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.identity import rotation
from agent.identity.leaf import serial
from ca.signer.memory import MemorySigner
from mesh.model import Identity

DAY = 86400.0


def held(not_before: float = 0.0, not_after: float = 3 * DAY) -> Identity:
    return Identity(spiffe_id="spiffe://d/x", chain_pem="", key_pem="", not_before=not_before, not_after=not_after)


@given(start=st.floats(0, 1e10), life=st.floats(1, 1e8), jitter=st.floats(0, 1, exclude_max=True))
def test_renewal_leaves_two_thirds_of_the_life_as_runway(start, life, jitter):
    at = rotation.renew_at(start, start + life, jitter)
    assert start < at <= start + life / 3 + 1e-3
    assert at >= start + life * (1 / 3 - 0.05) - 1e-3


def test_hosts_made_together_drift_apart():
    times = {rotation.renew_at(0, DAY, jitter / 10) for jitter in range(10)}
    assert len(times) == 10


def test_missing_and_due_ones_are_asked_for_together_with_those_that_soon_will_be():
    now = DAY * 0.99
    fresh, soon, due = held(now - 60, now + 3 * DAY), held(0, DAY * 3.03), held(0, DAY)
    have = {"a/fresh": fresh, "a/soon": soon, "a/due": due}
    jitter = dict.fromkeys([*have, "a/new"], 1.0 - 1e-9)
    assert rotation.due(have, {k: have[k] for k in ("a/fresh", "a/soon")}, now, jitter) == ("a/due", "a/soon")
    assert rotation.due(["a/fresh", "a/soon"], have, now, jitter) == (), "soon alone waits"
    assert rotation.due(have, have, now, jitter) == ("a/due", "a/soon")
    assert rotation.due(["a/new"], {}, now, jitter) == ("a/new",)


def test_next_due_is_the_earliest():
    have = {"a": held(0, 3 * DAY), "b": held(0, DAY)}
    assert rotation.next_due(have, {"a": 0.0, "b": 0.0}) == rotation.renew_at(0, DAY, 0.0)
    assert rotation.next_due({}, {}) is None


@pytest.mark.parametrize(("left", "words"), [(0.9, ""), (0.45, "late"), (0.2, "ALARM"), (-0.1, "expired")])
def test_operators_are_warned_at_half_and_alarmed_at_a_quarter(left, words):
    now = 3 * DAY * (1 - left)
    said = rotation.warning("shop/web", held(), now)
    assert words in said
    assert bool(said) == bool(words)


def test_the_serial_is_read_without_a_library(tmp_path):
    import asyncio

    from cryptography import x509

    async def root():
        return (await MemorySigner("mesh.test", clock=lambda: 1.8e9).roots())[0]

    pem = asyncio.run(root())
    assert serial(pem) == f"{x509.load_pem_x509_certificate(pem.encode()).serial_number:x}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
        "-----BEGIN CERTIFICATE-----\n%%\n-----END CERTIFICATE-----",
    ],
)
def test_what_is_no_certificate_has_no_serial(text):
    assert serial(text) == ""


@given(st.binary(max_size=60))
def test_any_bytes_have_a_serial_or_none(raw):
    import base64

    text = f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(raw).decode()}\n-----END CERTIFICATE-----\n"
    assert isinstance(serial(text), str)
