"""The audit log."""

import asyncio
import json

import pytest

from controlplane.audit import AuditLog
from tests.support.waiting import aeventually


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


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def timed(tmp_path):
    clock = Clock()
    made = AuditLog(tmp_path / "audit.log", clock)
    yield made, clock
    made.close()


def test_of_a_flood_the_first_have_lines_and_the_rest_a_number(tmp_path, timed):
    log, _ = timed
    for number in range(10_000):
        log.refused("10.0.0.1", "api.request", status=401, number=number)
    told = lines(tmp_path)
    assert [line["number"] for line in told] == list(range(len(told)))
    assert 20 <= len(told) <= 100
    log.tell_left_out()
    last = lines(tmp_path)[-1]
    assert (last["event"], last["lines"]) == ("audit.left_out", 10_000 - len(told))
    assert last["most"] == {"10.0.0.1": 10_000 - len(told)}


def test_a_flood_takes_no_line_from_others(tmp_path, timed):
    log, _ = timed
    for _ in range(1000):
        log.refused("10.0.0.1", "api.request", status=401)
    log.refused("10.0.0.2", "api.request", status=401, who="else")
    for number in range(500):
        log.record("api.request", caller="operator:a", number=number)
    told = lines(tmp_path)
    assert [line["number"] for line in told if "number" in line] == list(range(500))
    assert sum(line.get("who") == "else" for line in told) == 1


def test_floods_from_everywhere_stay_small_and_every_refusal_is_counted(tmp_path, timed):
    log, clock = timed
    for second in range(3600):
        clock.now += 1
        for number in range(20):
            log.refused(f"10.{second % 250}.{second // 250}.{number}", "api.request", path="/" * 500, status=401)
        if second % 60 == 0:
            log.tell_left_out()
    log.tell_left_out()
    assert (tmp_path / "audit.log").stat().st_size * 24 < 100e6
    counts = [line for line in lines(tmp_path) if line["event"] == "audit.left_out"]
    written = sum(line["event"] == "api.request" for line in lines(tmp_path))
    assert written + sum(line["lines"] for line in counts) == 3600 * 20
    assert all(len(line["most"]) <= 20 for line in counts)


def test_the_number_is_told_each_minute_and_when_the_log_is_closed(tmp_path):
    clock = Clock()
    log = AuditLog(tmp_path / "audit.log", clock)

    async def minute():
        task = asyncio.create_task(log.run())
        for _ in range(200):
            log.refused("10.0.0.1", "x")
        clock.now += 61
        await aeventually(lambda: any(line["event"] == "audit.left_out" for line in lines(tmp_path)))
        task.cancel()

    asyncio.run(minute())
    for _ in range(200):
        log.refused("10.0.0.1", "x")
    log.close()
    assert [line["event"] for line in lines(tmp_path)].count("audit.left_out") == 2
