"""A script says whether a service is healthy: in time, in few words, and gone afterwards."""

import asyncio
import os
import pwd
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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


def as_user(user, *command, timeout=10.0):
    check = HealthCheck(type="script", command=command, user=user, timeout_seconds=timeout)
    return asyncio.run(probe(ServiceDefinition(name="web", health=check), check))


root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")


@root
def test_it_runs_as_its_user_with_its_groups_and_no_capability():
    nobody = pwd.getpwnam("nobody")
    who = as_user(
        "nobody", *script('echo "$(id -u) $(id -g) $(grep -E Cap[EPA] /proc/self/status | tr -d " \\n")"; exit 1')
    )
    assert who.startswith(f"status 1: {nobody.pw_uid} {nobody.pw_gid} ")
    assert set(who.rpartition(" ")[2].replace("\t", "")) <= set("CapEffPrmAb:0"), who


@root
def test_what_it_started_as_another_user_is_ended_in_time():
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is root's alone
        Path(folder).chmod(0o777)
        reason = as_user("nobody", *script(f"echo $$ > {folder}/pid; sleep 300"), timeout=1.0)
        pid = int((Path(folder) / "pid").read_text())
    assert reason == "no verdict within 1 s"
    assert record.start_of(pid) is None


PASS = (
    "import asyncio, sys; from agent.checks import probe; from mesh.model import *; "
    "check = HealthCheck(type='script', command=('/bin/sh', '-c', sys.argv[1]), user=sys.argv[2]); "
    "print(asyncio.run(probe(ServiceDefinition(name='web', health=check), check)))"
)


def by_an_agent_with(capabilities, command, user="daemon"):
    """What an agent says that is no root, and has these capabilities, as its unit would give them."""
    who = ("setpriv", "--reuid=nobody", "--regid=65534", "--clear-groups", "--no-new-privs")
    what = (f"--inh-caps=-all{capabilities}", f"--ambient-caps=-all{capabilities}", "--", sys.executable, "-c", PASS)
    drop = [*who, *what, command, user]
    return subprocess.run(drop, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


@root
def test_an_agent_that_is_not_root_needs_three_rights_and_hands_none_on():
    refused = by_an_agent_with("", "exit 0")
    assert refused.startswith(
        "the agent may not run anything as daemon: its unit lacks CAP_KILL, CAP_SETGID, CAP_SETUID"
    )
    given = ",+setuid,+setgid,+kill"
    assert by_an_agent_with(given, "exit 0") == ""
    own = by_an_agent_with(given, "grep CapEff /proc/self/status | cut -f2; exit 1", user="")
    assert own == "status 1: 0000000000000000", "nor to what runs as its own user"
    said = by_an_agent_with(given, 'echo "$(id -un) $(grep CapEff /proc/self/status | cut -f2)"; exit 1')
    assert said == "status 1: daemon 0000000000000000"
    assert "lacks CAP_KILL;" in by_an_agent_with(",+setuid,+setgid", "exit 0")


def test_a_user_that_is_not_there_is_the_reason():
    assert as_user("nobody-of-that-name", *script("exit 0")) == "this host has no user nobody-of-that-name"


def test_the_agents_own_user_needs_no_right():
    assert as_user(pwd.getpwuid(os.geteuid()).pw_name, *script("exit 0")) == ""


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"type": "tcp", "user": "web"}, "is for type script"),
        ({"type": "script", "command": ("/x",), "user": "root"}, "does not need root"),
        ({"type": "script", "command": ("/x",), "user": "a b"}, "not a user's name"),
    ],
)
def test_users_that_make_no_sense_are_refused(fields, reason):
    service = ServiceDefinition(name="web", ports=(LocalPort(port=80),), health=HealthCheck(**fields))
    (fault,) = faults_of(service)
    assert fault.path == "health.user"
    assert reason in fault.reason
