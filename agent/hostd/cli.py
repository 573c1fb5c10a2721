"""`holdfast-agent host …` and `holdfast-agent capture …`: what an operator or a unit says to the helper.

Standard library only: a unit's start waits for `host ready`, and `host clean` must work where nothing else does.
"""

import argparse
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent.hostd import kernel, system
from agent.hostd.client import SOCKET, HostError, ask
from agent.hostd.kernel import NftError
from agent.hostd.ruleset import remove
from agent.hostd.system import Places

ABOUT = {
    "host": "Names and redirection, which this host's privileged helper (holdfast-host.service) keeps in force.",
    "capture": "What goes through the proxy besides calls by name: `capture` in agent.yaml. It is armed first.",
}
EXAMPLES = {
    "host status": "holdfast-agent host status",
    "host ready": "ExecStartPre=+/usr/local/bin/holdfast-agent host ready %n        in a unit that calls at once",
    "host clean": "holdfast-agent host clean",
    "capture status": "holdfast-agent capture status",
    "capture arm": "holdfast-agent capture arm",
    "capture confirm": "ssh root@web-1 holdfast-agent capture confirm",
    "capture off": "holdfast-agent capture off",
}
COMMANDS = {
    "host": {
        "status": "what is wanted of this host, and what is in force",
        "ready": "a unit is about to start: recognise it from its first process on (ExecStartPre=+)",
        "clean": "remove the table, the names and what is remembered; works without the helper too",
    },
    "capture": {
        "status": "is capture in force?",
        "arm": "put it in force for a minute, unless it is confirmed meanwhile",
        "confirm": "let it stay; over an SSH connection that is newer than the arming",
        "off": "out of force at once, until `arm`",
    },
}


def main(arguments: list[str]) -> int:
    """Exit status 1: refused, or not in force as wanted."""
    parsed = _parse(arguments)
    try:
        if (parsed.group, parsed.command) == ("host", "clean"):
            return _clean(parsed.socket, parsed.hosts, parsed.state_dir)
        do = "console" if parsed.command == "confirm" and parsed.console else parsed.command
        answer = ask(parsed.socket, do, parsed.unit if do == "ready" else None)
    except HostError as exc:
        sys.stderr.write(f"Error: {exc}\n")
        return 1
    sys.stdout.write(_text(parsed.group, answer))
    # A unit starts whatever the helper says: that it cannot call by name yet is no reason to keep it down.
    return 0 if do == "ready" or not answer["problems"] else 1


def _parse(arguments: list[str]) -> argparse.Namespace:
    places = Places()
    parser = argparse.ArgumentParser(prog="holdfast-agent", description="The privileged helper of this host.")
    groups = parser.add_subparsers(dest="group", required=True)
    for group, commands in COMMANDS.items():
        inner = groups.add_parser(group, description=ABOUT[group]).add_subparsers(dest="command", required=True)
        for name, text in commands.items():
            example = "example:\n  " + EXAMPLES[f"{group} {name}"]
            command = inner.add_parser(
                name, help=text, description=text, epilog=example, formatter_class=argparse.RawDescriptionHelpFormatter
            )
            command.add_argument("--socket", type=Path, default=SOCKET, help="where the helper listens [%(default)s]")
            if name == "ready":
                command.add_argument("unit", help="its name, as %%n in its own file has it")
            if name == "confirm":
                command.add_argument("--console", action="store_true", help="at the machine's own console, without SSH")
            if name == "clean":
                command.add_argument("--hosts", type=Path, default=places.hosts, help="the file of names [%(default)s]")
                command.add_argument(
                    "--state-dir", type=Path, default=places.state, help="what is remembered [%(default)s]"
                )
    return parser.parse_args(arguments)


def _clean(path: Path, hosts: Path, state: Path) -> int:
    with suppress(HostError):
        ask(path, "clean")  # else it would put everything back
    failed = []
    try:
        system.write_hosts(hosts, ())
    except OSError as exc:
        failed.append(f"{hosts}: {exc.strerror}")
    try:
        kernel.load_rules(remove())
    except NftError as exc:
        if kernel.has_nft():
            failed.append(str(exc))
    kernel.close_sink()
    with suppress(FileNotFoundError):
        (state / system.STATE_FILE).unlink()
    with suppress(OSError):
        state.rmdir()
    for reason in failed:
        sys.stderr.write(f"Error: {reason}\n")
    sys.stdout.write("" if failed else "nothing of Holdfast is left in /etc/hosts, nftables and routes\n")
    return 1 if failed else 0


def _text(group: str, answer: dict[str, Any]) -> str:
    left = f", {answer['secondsLeft']:.0f} s left to confirm it" if "secondsLeft" in answer else ""
    lines = (
        [] if group == "capture" else [f"names and redirection: {'in force' if answer['applied'] else 'NOT in force'}"]
    )
    before = ", and the one that was confirmed before is in force" if answer.get("before") else ""
    lines.append(f"capture: {answer['capture']}{left}{before}")
    if "alive" in answer:
        past = f"reach who listens on 0.0.0.0 ({answer['sink']})" if answer["sink"] else "go nowhere"
        lines.append(f"calls by name while the rules are away: {past}")
        lines.append(f"agent and Envoy: {'answer' if answer['alive'] else 'do not answer'}")
    for caller in answer.get("callers", ()):
        who = ", ".join([f"uid {uid}" for uid in caller["uids"]] + caller["cgroups"]) or "nobody on this host now"
        lines.append(f"{caller['identity']} (127.0.0.1:{caller['port']}): {who}")
    lines += [f"PROBLEM {problem}" for problem in answer["problems"]]
    return "\n".join(lines) + "\n"
