"""A steady load with exact accounts of every request.

Open loop: requests start at their times, whatever became of earlier ones. Every second one opens a connection of its
own; the others use kept ones. Nothing is ever retried here: what a caller would have seen as a failure is one.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec

from controlplane.demo.check.http1 import BadAnswerError, Connection, connect


@dataclass(frozen=True, slots=True)
class Request:
    """One finished request. Times are of the event loop's clock."""

    sent: float
    """Before its connection was opened, or its first byte written."""
    finished: float
    fresh: bool
    status: int
    error: str = ""
    instance: str = ""
    """Who answered, in its own words."""
    caller: str = ""
    certificate: str = ""
    """What the answering side's proxy saw of the caller: identity, and hash of its certificate."""

    @property
    def ok(self) -> bool:
        return self.status == 200 and not self.error


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """What happened between two moments."""

    sent: int
    failed: int
    """Of the requests sent in that time."""
    in_flight_failed: int
    """Failed, but sent before it: they were under way when it began."""
    p50_ms: float
    p99_ms: float
    longest_gap_s: float
    """Between two successes that follow each other."""
    by_instance: dict[str, int]
    reasons: dict[str, int]
    late: int
    """Requests that could not start at their time, because too many were under way."""


@dataclass(slots=True)
class Load:
    host: str
    port: int
    rate: float = 100.0
    """Requests a second."""
    name: str = "api.shop"
    path: str = "/load"
    timeout: float = 5.0
    most_under_way: int = 400
    requests: list[Request] = field(default_factory=list)
    """Finished ones, in the order of their end."""
    late: list[float] = field(default_factory=list)
    _idle: list[Connection] = field(default_factory=list)
    _under_way: dict[int, float] = field(default_factory=dict)
    """Number -> when it was sent."""

    async def run(self) -> None:
        """Send until cancelled. What is under way then is finished first."""
        loop = asyncio.get_running_loop()
        begin, number = loop.time(), 0
        async with asyncio.TaskGroup() as group:
            try:
                while True:
                    await asyncio.sleep(begin + number / self.rate - loop.time())
                    if len(self._under_way) < self.most_under_way:
                        group.create_task(self._one(number, fresh=number % 2 == 0))
                    else:
                        self.late.append(loop.time())
                    number += 1
            finally:
                await self._drained()

    async def _drained(self) -> None:
        while self._under_way:  # noqa: ASYNC110 - an event per request would cost more than this look
            await asyncio.sleep(0.02)
        for connection in self._idle:
            await connection.gone()
        self._idle.clear()

    async def _one(self, number: int, *, fresh: bool) -> None:
        loop = asyncio.get_running_loop()
        sent = loop.time()
        self._under_way[number] = sent
        connection: Connection | None = None
        try:
            async with asyncio.timeout(self.timeout):
                connection = await self._connection(fresh=fresh)
                headers = {"connection": "close"} if fresh else {}
                answer = await connection.get(self.name, self.path, headers)
            if answer.status == 200:
                self._note(sent, fresh, answer.status, said=spoken(answer.body))
            else:
                text = answer.body.decode(errors="replace").strip()
                self._note(sent, fresh, answer.status, error=f"status {answer.status}: {text[:160]}")
            if not fresh and answer.keeps:
                self._idle.append(connection)
                connection = None
        except TimeoutError:
            self._note(sent, fresh, 0, error=f"no answer in {self.timeout:g} s")
        except (OSError, BadAnswerError) as exc:
            self._note(sent, fresh, 0, error=_short(exc))
        finally:
            if connection:
                await connection.gone()
            del self._under_way[number]

    async def _connection(self, *, fresh: bool) -> Connection:
        while not fresh and self._idle:
            kept = self._idle.pop()
            if not kept.dead:
                return kept
            kept.close()
        return await connect(self.host, self.port)

    def _note(self, sent: float, fresh: bool, status: int, *, error: str = "", said: "Said | None" = None) -> None:
        said = said or Said()
        if status == 200 and not said.instance:
            error = "an answer that is not api's"
        self.requests.append(
            Request(
                sent=sent,
                finished=asyncio.get_running_loop().time(),
                fresh=fresh,
                status=status,
                error=error,
                instance=said.instance,
                caller=said.caller,
                certificate=said.certificate,
            )
        )

    async def settled(self, moment: float) -> None:
        """Wait until every request sent before this moment has ended."""
        while any(sent < moment for sent in self._under_way.values()):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)

    def account(self, since: float, until: float) -> Account:
        """The account of [since, until); call `settled(until)` before."""
        return account(self.requests, since, until, late=sum(since <= t < until for t in self.late))


def account(requests: Iterable[Request], since: float, until: float, *, late: int = 0) -> Account:
    """The account of the requests sent in [since, until)."""
    known = list(requests)
    mine = [r for r in known if since <= r.sent < until]
    good = [r for r in mine if r.ok]
    took = sorted((r.finished - r.sent) * 1000 for r in good)
    ends = [since, *sorted(r.finished for r in good if r.finished < until), until]
    return Account(
        sent=len(mine),
        failed=len(mine) - len(good),
        in_flight_failed=sum(not r.ok for r in known if r.sent < since <= r.finished),
        p50_ms=round(quantile(took, 0.5), 1),
        p99_ms=round(quantile(took, 0.99), 1),
        longest_gap_s=round(max(b - a for a, b in pairwise(ends)), 2),
        by_instance=dict(sorted(Counter(r.instance for r in good).items())),
        reasons=dict(Counter(r.error for r in mine if not r.ok).most_common(5)),
        late=late,
    )


def quantile(values: Sequence[float], q: float) -> float:
    """Nearest rank; 0 of nothing."""
    return values[min(len(values) - 1, int(q * len(values)))] if values else 0.0


class Said(msgspec.Struct, frozen=True):
    instance: str = ""
    caller: str = ""
    certificate: str = ""


def spoken(body: bytes) -> Said:
    try:
        return msgspec.json.decode(body, type=Said)
    except msgspec.DecodeError:
        return Said()


def _short(exc: BaseException) -> str:
    # asyncio puts the address into strerror; the number is what tells one reason from another.
    if isinstance(exc, OSError) and exc.errno:
        return os.strerror(exc.errno)
    return str(exc) or type(exc).__name__
