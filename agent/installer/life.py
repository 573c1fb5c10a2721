"""Joining, units, waiting until it serves; draining and stopping."""

import json
import pwd
import subprocess
import time
from pathlib import Path

from agent.installer.model import AGENT_UNIT, AGENT_USER, AGENT_YAML, CURRENT, DATA, ENVOY_UNIT, UNITS, InstallError
from agent.installer.system import call

AGENT = CURRENT + "/bin/holdfast-agent"
LOOK = 0.25
JOIN_SECONDS = 120
ASK_SECONDS = 30


def has_joined():
    return any((Path(DATA) / ("identity." + slot)).is_file() for slot in "01")


def join(token):
    """As the agent's user; the token goes through a pipe and is on no disk."""
    words = ""
    try:
        done = subprocess.run(
            [AGENT, "join", "--config", AGENT_YAML, "--token-file", "-"],
            input=token, capture_output=True, text=True, timeout=JOIN_SECONDS, check=False, cwd="/",
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}, **as_agent(),
        )  # fmt: skip
        if done.returncode:
            words = (done.stderr or done.stdout).strip().removeprefix("Error: ") or "it does not say why"
    except subprocess.TimeoutExpired:
        words = "it did not answer within " + str(JOIN_SECONDS) + " s"
    if words:
        raise InstallError(
            "the control plane did not let this host join: "
            + words[-1500:]
            + "\nAll else is in place: a line with a good "
            "token goes on from here, and install.py --remove takes it away again"
        )


def as_agent():
    found = pwd.getpwnam(AGENT_USER)
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}


def is_active(unit):
    return call("systemctl", "is-active", unit, check=False).stdout.strip() == "active"


def start(units, restart=()):
    """Start what does not run; restart what was changed. True if anything was to do."""
    changed = False
    if restart:
        call("systemctl", "daemon-reload")  # also of a unit that a killed run wrote, and no more
    for unit in units:
        if unit in restart or not is_active(unit):
            call("systemctl", "reset-failed", unit, check=False)
            call("systemctl", "restart", unit)
            changed = True
    return changed


def hand_over_envoy():
    """A hot restart into the Envoy that is in place now, where the unit can do it. Connections live on."""
    if not is_active(ENVOY_UNIT) or call("systemctl", "show", "-P", "CanReload", ENVOY_UNIT).stdout.strip() != "yes":
        return False
    call("systemctl", "reload", ENVOY_UNIT)
    return True


def ask(*words, seconds=0):
    """What a command of the agent prints, and why it did not; it may hang, as the agent may that it asks."""
    try:
        done = call(AGENT, *words, check=False, seconds=seconds + ASK_SECONDS)
    except InstallError as exc:
        return "", str(exc)
    return done.stdout, (done.stderr or done.stdout).strip()[-300:] if done.returncode else ""


def status():
    """What the agent says of itself, or None."""
    said, fault = ask("status", "--config", AGENT_YAML, "-o", "json")
    try:
        return None if fault else json.loads(said)
    except ValueError:
        return None


def serves(found):
    return found["phase"] == "serving" and found["envoy"] == "live"


def wait_ready(seconds):
    """Until the agent serves, Envoy is live, and the services are registered or refused.

    Raises:
        InstallError: it does not come to that, with the end of the journal.

    """
    end = time.monotonic() + seconds
    last = None
    while time.monotonic() < end:
        last = status() or last
        if last and serves(last) and not [i for i in last["instances"] if i["registered"] == "no"]:
            return last
        time.sleep(LOOK)
    if last and serves(last):
        return last  # and it will register as soon as the control plane takes it
    if last:
        words = "the agent is " + last["phase"] + ", Envoy is " + last["envoy"]
        words += ". " + "; ".join([*last.get("problems", ()), str(last.get("failure") or "")]).strip("; ")
    else:
        words = "the agent does not answer"
    log = call("journalctl", "-q", "--no-pager", "-n", "15", "-u", AGENT_UNIT, "-u", ENVOY_UNIT, check=False).stdout
    raise InstallError("it is not ready after " + str(seconds) + " s: " + words + "\n" + log)


def drain(seconds):
    """Deregister, and let what is under way finish. Best effort: the control plane may be away. Bounded."""
    if not Path(AGENT).exists() or not is_active(AGENT_UNIT):
        return "the agent does not run, so nothing was drained"
    _, fault = ask("drain", "--config", AGENT_YAML, "--end", "--timeout", str(seconds), seconds=seconds)
    if fault:
        return "not drained: " + fault
    end = time.monotonic() + seconds
    while time.monotonic() < end and (found := status()) is not None:
        if found["phase"] in {"left", "stopped"} or found["envoy"] == "down":
            break
        time.sleep(LOOK)
    return ""


def stop():
    """All units. One that does not stop in time is killed: the host is given back."""
    for unit in reversed(UNITS):
        try:
            call("systemctl", "stop", unit, check=False, seconds=45)
        except InstallError:
            call("systemctl", "kill", "--signal=KILL", unit, check=False)
            call("systemctl", "stop", unit, check=False, seconds=30)
        call("systemctl", "reset-failed", unit, check=False)


def clean_names():
    """/etc/hosts and the nftables table, by the helper that wrote them."""
    if not Path(AGENT).exists():
        return ""
    return ask("host", "clean")[1]
