"""A script says whether a service is healthy: in time, in few words, and gone afterwards."""

import asyncio
import time

import pytest

from agent.checks import MAX_REASON, probe
from agent.envoy import record
from mesh.model import HealthCheck, LocalPort, ServiceDefinition
from mesh.validate import definition as faults_of


def ask(*command, timeout=10.0):
    check = HealthCheck(type="script", command=command, timeout_seconds=timeout)
    return asyncio.run(probe(ServiceDefinition(name="web", health=check), check))


def script(text):
    return ("/bin/sh", "-c", text)


def test_status_0_is_healthy_whatever_it_says():
    assert ask(*script("echo fine; exit 0")) == ""


def test_its_last_line_is_the_reason():
    assert ask(*script("echo checking; echo no database >&2; exit 3")) == "status 3: no database"
    assert ask(*script("exit 2")) == "status 2"


def test_much_output_is_read_and_little_of_it_kept():
    reason = ask(*script("head -c 3000000 /dev/zero | tr '\\0' x; exit 1"))
    assert reason.startswith("status 1: xxx")
    assert len(reason) < MAX_REASON + 20


def test_it_and_what_it_started_are_ended_in_time(tmp_path):
    began = time.monotonic()
    reason = ask(*script(f"sleep 300 & echo $! > {tmp_path}/pid; sleep 300"), timeout=1.0)
    assert reason == "no verdict within 1 s"
    assert time.monotonic() - began < 60, "it was not waited for"
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while record.start_of(child) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert record.start_of(child) is None


def test_what_cannot_be_run_is_named(tmp_path):
    assert ask("/no/such/program") == "/no/such/program cannot be run: No such file or directory"
    (tmp_path / "x").write_text("")
    assert "cannot be run" in ask(str(tmp_path / "x"))


@pytest.mark.parametrize(
    ("check", "path"),
    [
        (HealthCheck(type="script"), "health.command"),
        (HealthCheck(type="script", command=("relative",)), "health.command"),
        (HealthCheck(type="tcp", command=("/bin/true",)), "health.command"),
        (HealthCheck(type="script", command=("/bin/true", "a\0b")), "health.command"),
        (HealthCheck(type="script", command=("/bin/true",) * 100), "health.command"),
    ],
)
def test_a_bad_command_is_refused_with_its_path(check, path):
    found = faults_of(ServiceDefinition(name="web", ports=(LocalPort(port=80),), health=check))
    assert [fault.path for fault in found] == [path]


def test_a_service_without_ports_can_be_checked_by_a_script():
    check = HealthCheck(type="script", command=("/bin/true",))
    assert not list(faults_of(ServiceDefinition(name="web", health=check)))
