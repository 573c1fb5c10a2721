"""Logs without secrets, metrics without globals, the health page."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from mesh import obs
from mesh.model import Identity, Ref

KEY = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIIrsecret\n-----END EC PRIVATE KEY-----\n"
TOKEN = "hf1.0123456789abcdef.c2VjcmV0c2VjcmV0c2VjcmV0.00ff"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level, configured = list(root.handlers), root.level, structlog.get_config()
    yield io.StringIO()
    root.handlers[:] = before
    root.setLevel(level)
    structlog.configure(**configured)


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_json_with_its_facts_as_fields(stream: io.StringIO):
    obs.setup_logging("info", stream=stream)
    log = structlog.get_logger("agent.watch")
    log.debug("not told")
    log.info("object refused", object=Ref("Service", "shop", "api"), revision=7, names=("a", "b"), text="a\nb")
    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "object refused",
        "level": "info",
        "logger": "agent.watch",
        "object": "Service shop/api",
        "revision": 7,
        "names": ["a", "b"],
        "text": "a\nb",
    }


def test_libraries_log_the_same_way(stream: io.StringIO):
    obs.setup_logging("warning", stream=stream)
    logging.getLogger("aiohttp.server").warning("slow %s", "client")
    logging.getLogger("aiohttp.server").info("not told")
    (line,) = lines(stream)
    assert (line["event"], line["logger"], line["level"]) == ("slow client", "aiohttp.server", "warning")


def test_a_second_set_up_replaces_the_first(stream: io.StringIO):
    obs.setup_logging(stream=stream)
    obs.setup_logging(stream=stream)
    structlog.get_logger("x").info("once")
    assert len(lines(stream)) == 1


@pytest.mark.parametrize(
    "field",
    [
        "token",
        "join_token",
        "Authorization",
        "key_pem",
        "keyPem",
        "private-key",
        "password",
        "secret",
        "role_secret_id",
    ],
)
def test_secret_fields_are_never_told(stream: io.StringIO, field: str):
    obs.setup_logging(stream=stream)
    log = structlog.get_logger("x")
    log.info("a", **{field: "s3cret"})
    log.info("b", deep={"inner": [{field: "s3cret"}]})
    assert "s3cret" not in stream.getvalue()
    assert stream.getvalue().count(obs.REDACTED) == 2


@pytest.mark.parametrize(
    "secret",
    [KEY, TOKEN, "Bearer hfo1.abcdef", "hfp1.eyJpZCI6IjAx", "hvs.CAESIJabcdefghijklmnop", KEY[:50]],
    ids=range(6),
)
def test_secrets_are_known_by_their_looks(stream: io.StringIO, secret: str):
    obs.setup_logging(stream=stream)
    log = structlog.get_logger("x")
    log.info("message with " + secret)  # noqa: G003 - what is tested
    log.info("a", note=f"before {secret} after", deep=[{"x": secret}])
    try:
        raise ValueError(f"bad: {secret}")
    except ValueError:
        log.exception("failed")
    for part in ("Irsecret", "c2Vjc", "abcdef", "MHcC"):
        assert part not in stream.getvalue()
    assert "before" in stream.getvalue()
    assert "ValueError" in stream.getvalue()


def test_a_struct_shows_its_fields_but_no_key(stream: io.StringIO):
    obs.setup_logging(stream=stream)
    held = Identity(spiffe_id="spiffe://a/b", chain_pem="chain", key_pem="s3cret", not_before=1, not_after=2)
    structlog.get_logger("x").info("held", identity=held)
    (line,) = lines(stream)
    assert line["identity"]["spiffe_id"] == "spiffe://a/b"
    assert line["identity"]["key_pem"] == obs.REDACTED


def test_what_only_looks_secret_is_told():
    told = obs.redact(
        None, "info", {"tokens_used": 3, "keys": "a", "token_id": "7f", "secret": "", "note": "hf is short"}
    )
    assert told == {"tokens_used": 3, "keys": "a", "token_id": "7f", "secret": "", "note": "hf is short"}


def test_fields_are_bounded(stream: io.StringIO):
    obs.setup_logging(stream=stream)
    structlog.get_logger("x").info("big", name="x" * 1_000_000)
    assert len(stream.getvalue()) < 5000


@given(
    st.dictionaries(
        st.text(max_size=5), st.recursive(st.none() | st.text() | st.binary() | st.floats(), st.lists, max_leaves=5)
    )
)
def test_whatever_is_logged_makes_one_json_line(facts: dict):
    assert "\n" not in obs._to_json(obs.redact(None, "info", dict(facts)))


def test_people_get_plain_lines(stream: io.StringIO):
    obs.setup_logging(json=False, stream=stream)
    structlog.get_logger("x").info("joined", node="vm-1", token="s3cret")
    assert "joined" in stream.getvalue()
    assert "node=vm-1" in stream.getvalue()
    assert "s3cret" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


REQUESTS = obs.Metric("holdfast_test_requests", "Requests.", ("code",))
SECONDS = obs.Metric("holdfast_test_seconds", "Seconds.", buckets=(0.1, 1.0))


def test_two_registries_do_not_know_each_other():
    one, two = obs.Metrics(), obs.Metrics()
    one.counter(REQUESTS).labels(code="200").inc()
    two.counter(REQUESTS)
    assert b'holdfast_test_requests_total{code="200"} 1.0' in one.page()
    assert b"200" not in two.page()


def test_histograms_and_gauges():
    metrics = obs.Metrics()
    metrics.histogram(SECONDS).observe(0.5)
    metrics.gauge(obs.Metric("holdfast_test_age_seconds", "Age.")).set(3)
    assert b'holdfast_test_seconds_bucket{le="1.0"} 1.0' in metrics.page()
    assert b"holdfast_test_age_seconds 3.0" in metrics.page()


def test_a_process_tells_its_memory_when_asked():
    assert b"process_resident_memory_bytes" in obs.Metrics(process=True).page()
    assert b"process_" not in obs.Metrics().page()


def test_metric_names_are_ours():
    with pytest.raises(ValueError, match="start with holdfast_"):
        obs.Metrics().counter(obs.Metric("requests", "x"))


def test_health_page():
    assert obs.health_page({"store": "", "signer": ""}).status == 200
    status, body = obs.health_page({"store": "no quorum", "signer": ""}, order=["store"])
    assert status == 503
    assert json.loads(body) == {"ok": False, "checks": {"store": "no quorum", "signer": "ok"}}
