"""The helper itself: one socket, one clock, one thread. `python -m agent.hostd.daemon`."""

import argparse
import json
import os
import pwd
import selectors
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.hostd import arming, kernel, sessions, system
from agent.hostd.client import MAX_LINE_BYTES
from agent.hostd.keeper import DeniedError, Keeper, say
from agent.hostd.ruleset import Spared
from agent.hostd.system import Places
from agent.hostd.wanted import RefusedError, parse

ENVOY_USER = "holdfast-envoy"
TURN_SECONDS = 1.0
SETTLE_SECONDS = 0.2
"""Between two looks because somebody changed rules: some do so all the time."""
READ_SECONDS = 2.0
"""Whoever connects has that long to say something; the clock waits meanwhile."""


Handler = Callable[[Any, int, float], dict[str, Any]]


class Server:
    """Who asks decides what is answered: the agent and root say what is wanted, root alone lets capture stay."""

    def __init__(self, keeper: Keeper, agent_uid: int) -> None:
        self._keeper, self._agent_uid = keeper, agent_uid
        self._handlers: dict[str, tuple[bool, Handler]] = {
            "apply": (True, self._apply),
            "status": (True, self._status),
            "ready": (False, self._ready),
            "confirm": (False, self._confirm),
            "console": (False, self._console),
            "arm": (False, self._arm),
            "off": (False, self._off),
            "clean": (False, self._clean),
        }

    def serve(self, link: socket.socket, now: Callable[[], float]) -> None:
        """One line, one answer. Nothing that a caller says ends the process."""
        try:
            pid, uid, _ = struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            answer = self._do(_read(link), pid, uid, now())
        except (DeniedError, RefusedError, OSError, ValueError, RecursionError) as exc:
            answer = {"error": str(exc) or type(exc).__name__}
        with suppress(OSError):
            link.sendall(json.dumps(answer).encode() + b"\n")

    def _do(self, line: bytes, pid: int, uid: int, now: float) -> dict[str, Any]:
        asked = json.loads(line)
        do = asked.get("do") if isinstance(asked, dict) else None
        if not isinstance(do, str) or do not in self._handlers:
            raise DeniedError(f"{str(do)[:40]!r} is not known; known are {', '.join(self._handlers)}")
        agents, handler = self._handlers[do]
        if uid != 0 and not (agents and uid == self._agent_uid):
            raise DeniedError(f"user {uid} may not ask for {do}; use sudo")
        return handler(asked.get("body"), pid, now)

    def _apply(self, body: Any, _pid: int, now: float) -> dict[str, Any]:
        self._keeper.want(parse(body if body is not None else {}), now)
        return self._keeper.answer(now)

    def _status(self, _body: Any, _pid: int, now: float) -> dict[str, Any]:
        return self._keeper.status(now)

    def _ready(self, _body: Any, _pid: int, now: float) -> dict[str, Any]:
        self._keeper.ready(now)
        return self._keeper.answer(now)

    def _confirm(self, _body: Any, pid: int, now: float) -> dict[str, Any]:
        start = sessions.came(pid, system.look)
        if start is None:
            raise DeniedError(
                "this is no SSH connection, so it proves nothing; at the machine's own console, use --console"
            )
        self._keeper.confirm(now, start / os.sysconf("SC_CLK_TCK"))
        return self._keeper.answer(now)

    def _console(self, _body: Any, pid: int, now: float) -> dict[str, Any]:
        if not sessions.at_console(system.look(pid)):
            raise DeniedError("this is not the machine's own console; confirm over a new SSH connection")
        self._keeper.confirm(now, None)
        return self._keeper.answer(now)

    def _arm(self, _body: Any, _pid: int, now: float) -> dict[str, Any]:
        if not self._keeper.arming.digest:
            raise DeniedError("no capture is asked for; see `capture` in agent.yaml")
        self._keeper.arm(now)
        return self._keeper.answer(now)

    def _off(self, _body: Any, _pid: int, now: float) -> dict[str, Any]:
        self._keeper.move(arming.off(self._keeper.arming), now)
        return self._keeper.answer(now)

    def _clean(self, _body: Any, _pid: int, now: float) -> dict[str, Any]:
        self._keeper.clean()
        return self._keeper.answer(now)


def _read(link: socket.socket) -> bytes:
    raw = bytearray()
    deadline = time.monotonic() + READ_SECONDS
    while not raw.endswith(b"\n"):
        link.settimeout(max(0.001, deadline - time.monotonic()))
        some = link.recv(65536)
        if not some or len(raw) + len(some) > MAX_LINE_BYTES:
            raise DeniedError("one line of JSON is expected")
        raw += some
    return bytes(raw)


def _now() -> float:
    """Seconds since boot, suspend included: the kernel counts a process's start by the same clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _parse(arguments: list[str]) -> tuple[Places, Spared, str, float]:
    parser = argparse.ArgumentParser(prog="agent.hostd.daemon", description="The agent's privileged helper.")
    usual = Places()
    parser.add_argument("--hosts", type=Path, default=usual.hosts)
    parser.add_argument("--state-dir", type=Path, default=usual.state)
    parser.add_argument("--socket", type=Path, default=usual.socket)
    parser.add_argument("--agent-socket", type=Path, default=usual.agent_socket)
    parser.add_argument("--envoy-socket", type=Path, default=usual.envoy_socket, help="Envoy's admin socket")
    parser.add_argument("--agent-user", default="holdfast", help="who may say what is wanted, besides root")
    seconds = arming.ARMED_SECONDS
    parser.add_argument("--confirm-seconds", type=float, default=seconds, help="how long capture waits for `confirm`")
    parser.add_argument("--mtls-port", type=int, default=Spared.mtls_port)
    parsed = parser.parse_args(arguments)
    places = Places(
        hosts=parsed.hosts,
        state=parsed.state_dir,
        socket=parsed.socket,
        agent_socket=parsed.agent_socket,
        envoy_socket=parsed.envoy_socket,
    )
    return places, Spared(mtls_port=parsed.mtls_port), parsed.agent_user, parsed.confirm_seconds


def _trusted(agent_uid: int) -> frozenset[int]:
    """Whom Envoy may run as: its own user, or the agent's, where that starts it."""
    with suppress(KeyError):
        return frozenset({0, agent_uid, pwd.getpwnam(ENVOY_USER).pw_uid})
    return frozenset({0, agent_uid})


def main(arguments: list[str] | None = None) -> int:
    """Keep until told to stop. Names and redirection stay then; capture lapses by itself (SIGTERM: an upgrade)."""
    places, spared, user, seconds = _parse(sys.argv[1:] if arguments is None else arguments)
    try:
        account = pwd.getpwnam(user)
        uid, gid = account.pw_uid, account.pw_gid
    except KeyError:
        say(f"this host has no user {user}: only root is listened to")
        uid, gid = 0, 0
    keeper = Keeper(replace(places, trusted=_trusted(uid)), spared, seconds)
    keeper.begin(_now())
    server = Server(keeper, uid)
    stop, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    with system.listen(places.socket, gid) as listener:
        _keep(keeper, server, listener, stop)
    places.socket.unlink(missing_ok=True)
    return 0


def _keep(keeper: Keeper, server: Server, listener: socket.socket, stop: socket.socket) -> None:
    """Until told to stop."""
    with selectors.DefaultSelector() as selector, kernel.rule_changes() as changes:
        for awaited in (listener, stop, changes):
            selector.register(awaited, selectors.EVENT_READ)
        due, look_at, looked = _now(), float("inf"), 0.0
        while True:
            ready = {key.fileobj for key, _ in selector.select(max(0.0, min(due, look_at) - _now()))}
            if stop in ready:
                return
            if listener in ready:
                link, _ = listener.accept()
                with link:
                    server.serve(link, _now)
            if changes in ready:
                kernel.drop_all(changes)
                look_at = looked + SETTLE_SECONDS
            if _now() >= look_at:
                keeper.look(_now())
                look_at, looked = float("inf"), _now()
            if _now() >= due:
                keeper.turn(_now())
                due = _now() + TURN_SECONDS


if __name__ == "__main__":
    sys.exit(main())
