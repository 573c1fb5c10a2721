"""Defragment this member if it is worth it, one member at a time, and never the leader. Standard library only.

etcd answers nothing while it defragments, so the leader first hands its office to another member. A lock in etcd itself
keeps members from doing it together; where the quota is used up no lock can be written, and none is taken: nobody can
write then anyway. Connection and credentials come from the environment (ETCDCTL_...).
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

LOCK = "holdfast-etcd-defragment"
TIMEOUT = "--command-timeout=300s"


class Status(NamedTuple):
    """What a member says of itself."""

    member: int
    leader: int
    size: int
    used: int


def worth(status: Status, ratio: float, least: int) -> bool:
    """Is so little of a large file in use that it pays?"""
    return status.size > least and status.used < ratio * status.size


def read_status(text: str) -> Status:
    """What `endpoint status -w json` says of one member."""
    body = json.loads(text)[0]["Status"]
    return Status(body["header"]["member_id"], body["leader"], body["dbSize"], body.get("dbSizeInUse", body["dbSize"]))


def full(alarms: str) -> bool:
    """Does `alarm list` say that the quota is used up?"""
    return "alarm:NOSPACE" in alarms


def successor(members: Sequence[dict[str, Any]], own: int) -> int | None:
    """Another member that votes."""
    return next((m["ID"] for m in members if m["ID"] != own and not m.get("isLearner")), None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--etcdctl", required=True)
    parser.add_argument("--ratio", type=float, required=True)
    parser.add_argument("--min-bytes", type=int, required=True)
    parser.add_argument("--locked", action="store_true", help="the lock is held by the process that started this one")
    options = parser.parse_args()

    def etcdctl(*arguments: str) -> str:
        done = subprocess.run([options.etcdctl, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"etcdctl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def status() -> Status:
        return read_status(etcdctl("endpoint", "status", "-w", "json"))

    before = status()
    quota = full(etcdctl("alarm", "list"))
    # Where nobody can write, what compaction gave free is counted as in use.
    if not quota and not worth(before, options.ratio, options.min_bytes):
        sys.stdout.write(f"nothing to do: {before.used} of {before.size} bytes are in use\n")
        return 0
    if not options.locked and not quota:
        # After two dashes: etcdctl would take this program's options for its own.
        command = [options.etcdctl, "lock", LOCK, "--", sys.executable, *sys.argv, "--locked"]
        os.execv(options.etcdctl, command)  # noqa: S606
    if before.leader == before.member:
        heir = successor(json.loads(etcdctl("member", "list", "-w", "json"))["members"], before.member)
        if heir is not None:
            etcdctl("move-leader", f"{heir:x}")
    etcdctl("defrag", TIMEOUT)
    sys.stdout.write(f"defragmented: {before.size} bytes before, {status().size} after\n")
    if quota:
        sys.stdout.write(
            "the quota was used up: when all members are defragmented, `etcdctl alarm disarm` admits writes\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
