"""The unit files: what systemd itself says of them, and that what they name exists."""

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
NAMES = ("holdfast-agent.service", "holdfast-envoy.service")


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


@pytest.mark.parametrize("unit", NAMES)
def test_what_is_left_off_has_a_reason(unit):
    left_off = re.findall(r"(?m)^#   (\S.*?)  +(\S.*)$", (UNITS / unit).read_text())
    assert left_off
    for directives, reason in left_off:
        for directive in directives.split(", "):
            name, _, value = directive.partition("=")
            assert (value or "yes") not in setting(unit, name), f"{directive} is on, and said to be off: {reason}"
