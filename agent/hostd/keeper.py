"""What is wanted on this host, and the keeping of it: rules, names, the route past them, capture and its arming."""

import hashlib
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from agent.hostd import arming, kernel, listeners, ruleset, system
from agent.hostd.arming import Arming, State
from agent.hostd.kernel import NftError
from agent.hostd.ruleset import Resolved, Spared
from agent.hostd.system import Places
from agent.hostd.wanted import Wanted, encode

ENVOY_READY = b"GET /ready HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n"
"""Envoy answers no HTTP/1.0."""
LOOK_TURNS = 5
"""Every so many turns: is our table still there, and do agent and Envoy live?"""

LOADS = 4
"""Of the rules, at most, until the kernel shows the same twice."""

LAPSE_SECONDS = 3
"""After which the kernel undoes what nobody confirmed, should no helper live that does so: two turns, and a rest."""


class DeniedError(Exception):
    """Why a caller gets nothing."""


class Keeper:
    """What is wanted on this host, and the keeping of it."""

    def __init__(self, places: Places, spared: Spared, seconds: float) -> None:
        self._places, self._spared, self._seconds = places, spared, seconds
        self._wanted, self._arming = system.restore(places)
        self._resolved: tuple[Resolved, ...] = ()
        self._stamps: tuple[int, ...] = ()
        self._foreign: dict[int, int] = {}  # port -> who listens where only Envoy should
        self._mark = ""
        self._listing = ""  # the table as the kernel had it right after it was loaded
        self._problems: tuple[str, ...] = ()
        self._unsaved = ""  # why a boot would not find what is wanted now
        self._sink = ""  # why calls by name would not go nowhere while the rules are away
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
        changed = (self._wanted, self._arming.state, self._arming.digest) != was
        if changed or self._problems or self._unsaved or not self._mark:
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
            before = arming.in_force(ticked, self._wanted)[0] == "confirmed"
            then = "; the one that was confirmed before is in force again" if before else ""
            say(f"capture was not confirmed in time and is undone{then}")
            self.move(ticked, now)
            return
        if self._stamps != self._stamps_now() or self._foreign != self._foreign_now():
            self._put(now)
        if self._turns % LOOK_TURNS:
            return
        self._mend(now)
        if not self.look(now) and self._in_force()[0] == "confirmed" and self.alive():
            self._nft(ruleset.renew())

    def _mend(self, now: float) -> None:
        """What others take away besides rules: the way past these, and names, as cloud-init does at boot."""
        if not self._sink:
            self._open_sink()
        if self._mark and not system.names_stand(self._places.hosts, self._wanted.names):
            if not self._problems:
                say(f"the names in {self._places.hosts} are not as they were written; they are written again")
            self._put(now)

    def look(self, now: float) -> bool:
        """Whoever flushes all rules takes ours away, too: then they are put back, and this is true."""
        if self._clean or (not self._mark and not self._problems) or (self._mark and self._stands()):
            return False
        # A unit that stopped took its cgroup out of the table, which is nobody's doing.
        if self._mark and self._stamps == self._stamps_now():
            say("the table inet holdfast is missing or is not as it was loaded; it is loaded again")
            with suppress(NftError):
                self._mark = self._load(now)  # as it was: to look around anew takes ten times as long
                return True
        self._put(now)
        return True

    def _stands(self) -> bool:
        """To the last rule: an operator may have taken out a single one."""
        found = kernel.listing()
        return f"chain {self._mark} " in found and found == self._listing

    def ready(self, now: float) -> None:
        """A unit is about to start: its cgroup is there, and becomes known before its first process runs."""
        if self._stamps != self._stamps_now() or self._wanted.callers:
            self._put(now)

    def clean(self) -> None:
        """Everything away, names first: a name without its redirection would lead to whoever listens on 0.0.0.0."""
        self._wanted, self._arming, self._clean, self._mark = Wanted(), Arming(), True, ""
        system.write_hosts(self._places.hosts, ())
        with suppress(NftError):
            kernel.load_rules(ruleset.remove())
        kernel.close_sink()
        (self._places.state / system.STATE_FILE).unlink(missing_ok=True)
        self._problems = ()

    def alive(self) -> bool:
        """The agent and Envoy answer (a stopped process still listens), and Envoy listens where traffic is sent to."""
        wanted = self._in_force()[1]
        needed = {caller.port for caller in wanted.callers} if wanted.outbound else set()
        needed |= {self._spared.mtls_port} if wanted.inbound else set()
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
        problems = (*self._problems, *([self._unsaved] if self._unsaved else []))
        return {"applied": bool(self._mark), "problems": problems, **self._capture(now)}

    def status(self, now: float) -> dict[str, Any]:
        return {
            **self.answer(now),
            "wanted": encode(self._wanted),
            "alive": self.alive(),
            "sink": self._sink,
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
        before = {"before": True} if self._in_force()[0] != self._arming.state else {}
        return {"capture": self._arming.state, **left, **before}

    # --- how it is put in force ---

    def _put(self, now: float) -> None:
        """The route past the rules, then these, then names: a name never leads past the redirection."""
        self._open_sink()
        self._resolved, problems = system.resolve(self._wanted.callers, self._places.cgroups)
        self._stamps = system.stamps(self._resolved, self._places.cgroups)
        problems = (*problems, *self._shut_foreign())
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
                say(problem)
        self._problems = problems

    def _shut_foreign(self) -> Iterator[str]:
        """While Envoy is away anybody may take its port, and would be given what others call: they are refused then."""
        self._foreign = self._foreign_now()
        for resolved in self._resolved:
            if (user := self._foreign.get(resolved.caller.port)) is not None:
                where = f"127.0.0.1:{resolved.caller.port}, where its calls go"
                yield f"{resolved.caller.identity}: user {user} listens on {where}; they are refused"
        shut = [replace(r, uids=(), cgroups=()) if r.caller.port in self._foreign else r for r in self._resolved]
        self._resolved = tuple(shut)

    def _foreign_now(self) -> dict[int, int]:
        return listeners.foreign({caller.port for caller in self._wanted.callers}, self._places.trusted)

    def _open_sink(self) -> None:
        was, self._sink = self._sink, kernel.open_sink()
        if self._sink and self._sink != was:
            say(f"a call by name reaches whoever listens on 0.0.0.0 while the rules are away: {self._sink}")

    def _load(self, now: float) -> str:
        mark = "v_" + hashlib.sha256(self._render("v_0", now).encode()).hexdigest()[:12]
        if mark != self._mark:
            self._listing = ""
        # Whoever changes it before it is listed would have his change taken for ours: it is loaded until it looks the
        # same twice.
        for _ in range(LOADS):
            kernel.load_rules(self._render(mark, now))
            was, self._listing = self._listing, kernel.listing()
            if self._listing == was:
                break
        return mark

    def _render(self, mark: str, now: float) -> str:
        state, wanted = self._in_force()
        text = ruleset.render(wanted, self._resolved, state, self._spared, mark)
        if state == "armed":
            # A helper that lives undoes it first, and has what was confirmed before in its place in the same moment.
            return text + ruleset.renew(max(1, int(self._arming.until - now) + LAPSE_SECONDS))
        if state == "confirmed" and self.alive():
            return text + ruleset.renew()
        return text

    def _in_force(self) -> tuple[State, Wanted]:
        return arming.in_force(self._arming, self._wanted)

    def _stamps_now(self) -> tuple[int, ...]:
        resolved, _ = system.resolve(self._wanted.callers, self._places.cgroups)
        return system.stamps(resolved, self._places.cgroups)

    def _nft(self, text: str) -> None:
        try:
            kernel.load_rules(text)
        except NftError as exc:
            say(str(exc))

    def _save(self) -> None:
        was, self._unsaved = self._unsaved, ""
        try:
            system.save(self._places, self._wanted, self._arming)
        except OSError as exc:
            reason = f"{self._places.state} cannot be written: {exc.strerror}"
            self._unsaved = f"{reason}; a boot will find what was wanted, armed or confirmed before"
        if self._unsaved and self._unsaved != was:
            say(self._unsaved)


def say(text: str) -> None:
    """In the unit's journal."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
