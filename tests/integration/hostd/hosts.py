"""A host of our own: a network namespace with real nftables, and the helper as a process in it."""

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from agent.hostd import client
from agent.hostd.wanted import Wanted, encode

ROOT = Path(__file__).parents[3]
CALL = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 3) as link:
        print(link.makefile().readline().strip() or "closed")
except OSError as exc:
    print(type(exc).__name__)
"""

ASK = """
import json, pathlib, sys
from agent.hostd import client
print(json.dumps(client.ask(pathlib.Path(sys.argv[1]), sys.argv[2])))
"""


class Host:
    def __init__(self, tmp: Path, stack: ExitStack) -> None:
        self.tmp, self._stack = tmp, stack
        self.hosts, self.socket, self.state = tmp / "hosts", tmp / "host.sock", tmp / "state"
        self.hosts.write_text("127.0.0.1 localhost\n")
        self._holder = self._start(["unshare", "-n", "sh", "-c", "echo ready; exec sleep 600"])
        self.pid = self._holder.pid
        self.run("ip", "link", "set", "lo", "up")
        self.helper: subprocess.Popen[str] | None = None

    def _start(self, command: list[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self._stack.callback(stop, process)
        assert process.stdout is not None
        self._stack.callback(process.stdout.close)
        assert process.stdout.readline() == "ready\n"
        return process

    def inside(self, *command: str) -> list[str]:
        return ["nsenter", "-t", str(self.pid), "-n", *command]

    def run(self, *command: str, text: str = "") -> str:
        done = subprocess.run(
            self.inside(*command), input=text, capture_output=True, text=True, timeout=30, check=False, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def cable(self, other: "Host", here: str, there: tuple[str, ...]) -> None:
        """A wire between two hosts; this one reaches the other's addresses over it."""
        self.run("ip", "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", str(other.pid))
        for host, addresses in ((self, (here,)), (other, there)):
            for address in addresses:
                host.run("ip", "address", "add", f"{address}/24", "dev", "wire")
            host.run("ip", "link", "set", "wire", "up")

    def peers(self, *specs: str, within: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        # The system's Python, and the program's text: what every user of the host can run.
        program = Path(__file__).with_name("peers.py").read_text()
        return self._start(self.inside(*within, "/usr/bin/python3", "-c", program, *specs))

    def mesh(self, *ports: int) -> subprocess.Popen[str]:
        """What of agent and Envoy the helper looks at."""
        return self.peers(
            *(f"tcp:127.0.0.1:{port}" for port in ports),
            f"unix:{self.tmp / 'agent.sock'}:no such command",
            f"unix:{self.tmp / 'envoy.sock'}:LIVE",
        )

    def call(self, address: str, port: int, *, user: str = "root", within: str = "") -> str:
        """What a process of this user gets there: the words of who answers, or the error."""
        command = self.calling(address, port, user=user)
        if within:  # a cgroup that it is in from its first moment
            command = ["sh", "-c", 'echo $$ > "$0/cgroup.procs"; exec "$@"', within, *command]
        return self.run(*command).strip()

    def calling(self, address: str, port: int, *, user: str) -> list[str]:
        return ["setpriv", f"--reuid={user}", "--clear-groups", "/usr/bin/python3", "-c", CALL, address, str(port)]

    def start_helper(self, *more: str, within: tuple[str, ...] = ()) -> None:
        where = ["--hosts", self.hosts, "--state-dir", self.state, "--socket", self.socket]
        where += ["--agent-socket", self.tmp / "agent.sock", "--envoy-socket", self.tmp / "envoy.sock"]
        command = [
            *within,
            sys.executable,
            "-m",
            "agent.hostd.daemon",
            *map(str, where),
            "--agent-user",
            "nobody",
            *more,
        ]
        self.socket.unlink(missing_ok=True)
        self.helper = subprocess.Popen(self.inside(*command), cwd=ROOT)
        self._stack.callback(stop, self.helper)
        until(self.socket.exists, "the helper listens")

    def ask(self, do: str, body: object = None) -> dict:
        return client.ask(self.socket, do, body)

    def apply(self, wanted: Wanted) -> dict:
        return self.ask("apply", encode(wanted))

    def over_ssh(self, do: str) -> dict:
        """As a process that descends from an SSH connection's, which began just now."""
        sshd = self.tmp / "sshd"
        sshd.unlink(missing_ok=True)
        sshd.symlink_to("/bin/bash")
        command = [str(sshd), "-c", '"$0" -c "$1" "$2" "$3"; exit $?', sys.executable, ASK, str(self.socket), do]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        if done.returncode:
            raise client.HostError(done.stderr)
        return json.loads(done.stdout)


def stop(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait(10)


def until(true, what: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"after {seconds:.0f} s not so: {what}"
        time.sleep(0.1)


def can_make_namespaces() -> bool:
    return (
        os.geteuid() == 0 and subprocess.run(["unshare", "-n", "nft", "list", "ruleset"], check=False).returncode == 0
    )
