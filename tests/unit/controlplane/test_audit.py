"""The audit log."""

import asyncio
import json

import pytest

from controlplane.audit import AuditLog


@pytest.fixture
def log(tmp_path):
    made = AuditLog(tmp_path / "audit.log", lambda: 1_800_000_000.0, sync="always")
    yield made
    made.close()


def lines(tmp_path):
    return [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]


def test_lines_are_json_in_order(tmp_path, log):
    log.record("ca.issue", node="n1", serial="ab", allowed=True)
    log.record("api.request", status=200)
    first, second = lines(tmp_path)
    assert first == {
        "time": "2027-01-15T08:00:00.000Z",
        "event": "ca.issue",
        "node": "n1",
        "serial": "ab",
        "allowed": True,
    }
    assert second["event"] == "api.request"


def test_secrets_never_get_in(tmp_path, log):
    key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----"
    log.record(
        "x", token="hf1.aaaa.bbbb.cccc", note=f"it was {key}", nested={"password": "c2VjcmV0"}, header="Bearer zzz"
    )
    text = (tmp_path / "audit.log").read_text()
    for secret in ("bbbb", "c2VjcmV0", "zzz"):
        assert secret not in text


def test_a_newline_in_a_field_does_not_make_a_second_line(tmp_path, log):
    log.record("x", path='/a\n{"event": "forged"}')
    assert len(lines(tmp_path)) == 1


def test_the_file_is_for_its_owner_only_and_is_appended_to(tmp_path, log):
    log.record("one")
    again = AuditLog(tmp_path / "audit.log", lambda: 0.0)
    again.record("two")
    again.close()
    assert [line["event"] for line in lines(tmp_path)] == ["one", "two"]
    assert (tmp_path / "audit.log").stat().st_mode & 0o777 == 0o600


def test_a_log_that_was_moved_away_is_opened_anew(tmp_path, log):
    log.record("old")
    (tmp_path / "audit.log").rename(tmp_path / "audit.log.1")
    asyncio.run(asyncio.to_thread(log.flush))
    log.record("new")
    assert [line["event"] for line in lines(tmp_path)] == ["new"]
