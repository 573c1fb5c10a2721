"""The unit files: what systemd itself says of them, and that what they name exists."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import agent
from agent.envoy import launcher
from agent.settings import SUPERVISOR
from controlplane.demo.machine import AS_ITS_UNIT

UNITS = Path(agent.__file__).parent / "units"
NAMES = ("holdfast-agent.service", "holdfast-envoy.service", "holdfast-host.service")
TEMPLATES = sorted((Path(agent.__file__).parents[1] / "ansible/roles").glob("*/templates/*.service.j2"))
SAID_OTHERWISE = {
    # These are set: to what is needed, which the file says itself.
    *(
        "User",
        "CapabilityBoundingSet",
        "AmbientCapabilities",
        "RestrictAddressFamilies",
        "SupplementaryGroups",
        "UMask",
    ),
    # Private devices and protected clocks leave a few of them; other settings give it mounts of its own.
    *("DeviceAllow", "PrivateMounts"),
}


def setting(unit, key):
    return re.findall(rf"(?m)^{key}=(.*)$", (UNITS / unit).read_text())


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", NAMES)
def test_systemd_understands_every_line(unit, tmp_path):
    text = (UNITS / unit).read_text()
    # What is not installed here is no fault of the file.
    (tmp_path / unit).write_text(re.sub(r"(?m)^ExecStart=.*$", "ExecStart=/bin/true", text))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit)], capture_output=True, text=True, check=False
    )
    faults = [line for line in (done.stdout + done.stderr).splitlines() if str(tmp_path / unit) in line]
    assert faults == []


def test_the_launchers_arguments_are_its_own():
    words = setting("holdfast-envoy.service", "ExecStart")[0].split()
    assert words[1:4] == ["-P", "-m", "agent.envoy.launcher"]
    options = launcher._parse(words[4:])
    assert options.command == ("/opt/holdfast/envoy/current/envoy",)
    assert (str(options.run_dir), str(options.wanted)) == ("/run/holdfast-envoy", "/run/holdfast/envoy")
    assert options.log_file is None


def test_agent_and_envoy_are_two_users_and_only_the_agent_is_in_the_others_group():
    assert setting("holdfast-agent.service", "User") == ["holdfast"]
    assert setting("holdfast-agent.service", "SupplementaryGroups") == ["holdfast-envoy"]
    assert setting("holdfast-envoy.service", "User") == ["holdfast-envoy"]
    assert setting("holdfast-envoy.service", "SupplementaryGroups") == []
    assert f"{SUPERVISOR}=systemd" in setting("holdfast-agent.service", "Environment")


def test_the_demos_agents_have_the_memory_settings_of_the_unit():
    words = " ".join(setting("holdfast-agent.service", "Environment")).split()
    assert dict(word.split("=") for word in words if not word.startswith(SUPERVISOR)) == AS_ITS_UNIT


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("path", [*(UNITS / name for name in NAMES), *TEMPLATES], ids=lambda path: path.name)
def test_all_that_systemd_finds_left_off_is_said_to_be(path, tmp_path):
    text = path.read_text()
    plain = re.sub(r"(?m)^(Group|SupplementaryGroups)=.*$", "", text)
    plain = re.sub(r"(?m)^User=.*$", "User=daemon", re.sub(r"(?m)^ExecStart=.*$", "ExecStart=/bin/true", plain))
    (tmp_path / "one.service").write_text(re.sub(r"{{.*?}}", "x", plain))
    command = ["systemd-analyze", "security", "--offline=true", "--json=short", str(tmp_path / "one.service")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    off = {item["name"] for item in json.loads(done.stdout) if item["set"] is False}
    if "SystemCallFilter=@chown" in text:
        off.discard("SystemCallFilter=~@privileged")  # all of it but that
    assert {name for name in map(directive, off) if name not in SAID_OTHERWISE} - {
        directive(word) for words, _ in said_off(text) for word in words.split(", ")
    } == set()


def directive(text):
    """`ProcSubset` of `ProcSubset=pid`, `RootDirectory` of `RootDirectory=/RootImage=`; of filters, the filter too."""
    return text if text.startswith("SystemCallFilter=") else text.partition("=")[0]


def said_off(text):
    return re.findall(r"(?m)^#   (\S.*?)  +(\S.*)$", text)


@pytest.mark.parametrize("unit", NAMES)
def test_what_is_left_off_has_a_reason(unit):
    left_off = said_off((UNITS / unit).read_text())
    assert left_off
    for directives, reason in left_off:
        for directive in directives.split(", "):
            name, _, value = directive.partition("=")
            assert (value or "yes") not in setting(unit, name), f"{directive} is on, and said to be off: {reason}"
