"""The helper itself: one socket, one clock, one thread. `python -m agent.hostd.daemon`."""

import argparse
import hashlib
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

from agent.hostd import arming, ruleset, sessions, system
from agent.hostd.arming import Arming
from agent.hostd.client import MAX_LINE_BYTES
from agent.hostd.ruleset import Resolved, Spared
from agent.hostd.system import NftError, Places
from agent.hostd.wanted import RefusedError, Wanted, encode, parse

ENVOY_READY = b"GET /ready HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n"
"""Envoy answers no HTTP/1.0."""
TURN_SECONDS = 1.0
LOOK_TURNS = 5
"""Every so many turns: is our table still there, and do agent and Envoy live?"""
SETTLE_SECONDS = 0.2
"""Between two looks because somebody changed rules: some do so all the time."""
READ_SECONDS = 2.0
"""Whoever connects has that long to say something; the clock waits meanwhile."""


class DeniedError(Exception):
    """Why a caller gets nothing."""


class Keeper:
    """What is wanted on this host, and the keeping of it."""

    def __init__(self, places: Places, spared: Spared, seconds: float) -> None:
        self._places, self._spared, self._seconds = places, spared, seconds
        self._wanted, self._arming = system.restore(places)
        self._resolved: tuple[Resolved, ...] = ()
        self._stamps: tuple[int, ...] = ()
        self._mark = ""
        self._problems: tuple[str, ...] = ()
        self._clean = False
        self._turns = 0

    def begin(self, now: float) -> None:
        """At boot: as it was, before the network's services come up. Nothing is made on a host that never asked."""
        if self._wanted != Wanted():
            self._arming = arming.want(self._arming, self._wanted, now, self._seconds)
            self._put(now)

    def want(self, wanted: Wanted, now: float) -> None:
        was = (self._wanted, self._arming.state, self._arming.digest)
        self._wanted, self._arming, self._clean = wanted, arming.want(self._arming, wanted, now, self._seconds), False
        if (self._wanted, self._arming.state, self._arming.digest) != was or self._problems or not self._mark:
            self._save()
            self._put(now)

    def move(self, new: Arming, now: float) -> None:
        """An operator's word on capture."""
        self._arming = new
        self._save()
        self._put(now)

    def turn(self, now: float) -> None:
        """Once a second."""
        self._turns += 1
        if self._clean or (not self._mark and not self._problems):
            return
        ticked = arming.tick(self._arming, now)
        if ticked != self._arming:
            _say("capture was not confirmed in time and is undone")
            self.move(ticked, now)
            return
        if self._stamps != self._stamps_now():
            self._put(now)
        if self._turns % LOOK_TURNS:
            return
        if not self.look(now) and self._arming.state == "confirmed" and self.alive():
            self._nft(ruleset.renew())

    def look(self, now: float) -> bool:
        """Whoever flushes all rules takes ours away, too: then they are put back, and this is true."""
        if self._clean or (not self._mark and not self._problems) or (self._mark and system.is_loaded(self._mark)):
            return False
        if self._mark:
            _say("the table inet holdfast is missing or is not as it was loaded; it is loaded again")
            with suppress(NftError):
                self._load(now)  # at once as it was: to look around anew takes ten times as long
        self._put(now)
        return True

    def ready(self, now: float) -> None:
        """A unit is about to start: its cgroup is there, and becomes known before its first process runs."""
        if self._stamps != self._stamps_now() or self._wanted.callers:
            self._put(now)

    def clean(self) -> None:
        """Everything away, names first: a name without its redirection would lead to whoever listens on 0.0.0.0."""
        self._wanted, self._arming, self._clean, self._mark = Wanted(), Arming(), True, ""
        system.write_hosts(self._places.hosts, ())
        with suppress(NftError):
            system.load_rules(ruleset.remove())
        (self._places.state / system.STATE_FILE).unlink(missing_ok=True)
        self._problems = ()

    def alive(self) -> bool:
        """The agent and Envoy answer (a stopped process still listens), and Envoy listens where traffic is sent to."""
        needed = {caller.port for caller in self._wanted.callers} if self._wanted.outbound else set()
        needed |= {self._spared.mtls_port} if self._wanted.inbound else set()
        return (
            needed <= system.listening_ports()
            and system.answers(self._places.agent_socket, b'{"do":"ping"}\n')
            and system.answers(self._places.envoy_socket, ENVOY_READY, b"LIVE")
        )

    def confirm(self, now: float, came: float | None) -> None:
        new = arming.confirm(self._arming, now, came)
        if isinstance(new, str):
            raise DeniedError(new)
        self.move(new, now)

    def arm(self, now: float) -> None:
        self.move(arming.arm(self._arming, now, self._seconds), now)

    @property
    def arming(self) -> Arming:
        return self._arming

    def answer(self, now: float) -> dict[str, Any]:
        return {"applied": bool(self._mark), "problems": self._problems, **self._capture(now)}

    def status(self, now: float) -> dict[str, Any]:
        return {
            **self.answer(now),
            "wanted": encode(self._wanted),
            "alive": self.alive(),
            "callers": [
                {
                    "identity": r.caller.identity,
                    "port": r.caller.port,
                    "uids": r.uids,
                    "cgroups": [path for path, _ in r.cgroups],
                }
                for r in self._resolved
            ],
        }

    def _capture(self, now: float) -> dict[str, Any]:
        left = {"secondsLeft": round(max(0.0, self._arming.until - now), 1)} if self._arming.state == "armed" else {}
        return {"capture": self._arming.state, **left}

    # --- how it is put in force ---

    def _put(self, now: float) -> None:
        """Rules first, then names: a name never leads past the redirection."""
        self._resolved, problems = system.resolve(self._wanted.callers, self._places.cgroups)
        self._stamps = system.stamps(self._resolved, self._places.cgroups)
        self._spared = replace(self._spared, ssh_ports=system.ssh_ports())
        try:
            self._mark = self._load(now)
        except NftError as exc:
            self._mark, text = "", f"{exc}; names are not written, since they would lead past the mesh"
            if any(resolved.cgroups for resolved in self._resolved):
                # A unit that stopped meanwhile, or a kernel that knows no cgroups: users are redirected all the same.
                self._resolved = tuple(replace(resolved, cgroups=()) for resolved in self._resolved)
                with suppress(NftError):
                    self._mark, text = self._load(now), f"{exc}; nobody is recognised by unit"
            problems = (*problems, text)
        try:
            system.write_hosts(self._places.hosts, self._wanted.names if self._mark else ())
        except OSError as exc:
            problems = (*problems, f"{self._places.hosts} cannot be written: {exc.strerror}; names stay as they were")
        for problem in problems:
            if problem not in self._problems:
                _say(problem)
        self._problems = problems

    def _load(self, now: float) -> str:
        mark = "v_" + hashlib.sha256(self._render("v_0", now).encode()).hexdigest()[:12]
        system.load_rules(self._render(mark, now))
        return mark

    def _render(self, mark: str, now: float) -> str:
        text = ruleset.render(self._wanted, self._resolved, self._arming, self._spared, mark)
        if self._arming.state == "armed":
            return text + ruleset.renew(max(1, int(self._arming.until - now)))
        if self._arming.state == "confirmed" and self.alive():
            return text + ruleset.renew()
        return text

    def _stamps_now(self) -> tuple[int, ...]:
        resolved, _ = system.resolve(self._wanted.callers, self._places.cgroups)
        return system.stamps(resolved, self._places.cgroups)

    def _nft(self, text: str) -> None:
        try:
            system.load_rules(text)
        except NftError as exc:
            _say(str(exc))

    def _save(self) -> None:
        try:
            system.save(self._places, self._wanted, self._arming)
        except OSError as exc:
            _say(f"{self._places.state} cannot be written: {exc.strerror}; a boot will not find what is wanted now")


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


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


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


def main(arguments: list[str] | None = None) -> int:
    """Keep until told to stop. Names and redirection stay then; capture lapses by itself (SIGTERM: an upgrade)."""
    places, spared, user, seconds = _parse(sys.argv[1:] if arguments is None else arguments)
    try:
        account = pwd.getpwnam(user)
        uid, gid = account.pw_uid, account.pw_gid
    except KeyError:
        _say(f"this host has no user {user}: only root is listened to")
        uid, gid = 0, 0
    keeper = Keeper(places, spared, seconds)
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
    with selectors.DefaultSelector() as selector, system.rule_changes() as changes:
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
                system.drop_all(changes)
                look_at = looked + SETTLE_SECONDS
            if _now() >= look_at:
                keeper.look(_now())
                look_at, looked = float("inf"), _now()
            if _now() >= due:
                keeper.turn(_now())
                due = _now() + TURN_SECONDS


if __name__ == "__main__":
    sys.exit(main())
