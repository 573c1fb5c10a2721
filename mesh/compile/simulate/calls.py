"""The questions that can be asked: one outcome, or all of them with their shares."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction

from mesh.compile.names import INBOUND_LISTENER
from mesh.compile.simulate.chance import Chance, Drawn, Scripted
from mesh.compile.simulate.connection import connect
from mesh.compile.simulate.request import Request
from mesh.compile.simulate.run import Run
from mesh.compile.simulate.verdict import Share, Verdict
from mesh.compile.types import Snapshot

Ask = Callable[[Chance], Verdict]


def call(
    snapshot: Snapshot,
    listener: str,
    method: str = "GET",
    path: str = "/",
    headers: Iterable[tuple[str, str]] = (),
    host: str = "",
    *,
    to: str = "",
    draw: float,
) -> Verdict:
    """What an application of this host gets that calls there, in HTTP/1.1 or, behind a TCP listener, with anything.

    `listener`: its name, or the place where it listens, as `upstreams` spells it. `to`: the address and port that the
    application called, if it was redirected to the listener. `draw` in [0, 1) stands for all random numbers.
    """
    return calling(snapshot, listener, method, path, headers, host, to=to)(Drawn(draw))


def answer(
    snapshot: Snapshot,
    sni: str,
    caller: str,
    method: str = "GET",
    path: str = "/",
    headers: Iterable[tuple[str, str]] = (),
    host: str = "",
    *,
    listener: str = INBOUND_LISTENER,
    draw: float,
) -> Verdict:
    """What a caller of the mesh gets from this host. `caller`: its SPIFFE id, empty without certificate."""
    return answering(snapshot, sni, caller, method, path, headers, host, listener=listener)(Drawn(draw))


def calling(
    snapshot: Snapshot,
    listener: str,
    method: str = "GET",
    path: str = "/",
    headers: Iterable[tuple[str, str]] = (),
    host: str = "",
    *,
    to: str = "",
) -> Ask:
    """The same, to be asked with one chance or another."""
    request = Request(method, path, host, tuple(headers))
    return lambda chance: _asked(snapshot, chance, listener, request, sni="", encrypted=False, to=to)


def answering(
    snapshot: Snapshot,
    sni: str,
    caller: str,
    method: str = "GET",
    path: str = "/",
    headers: Iterable[tuple[str, str]] = (),
    host: str = "",
    *,
    listener: str = INBOUND_LISTENER,
    source: str = "",
) -> Ask:
    """The same, to be asked with one chance or another. `source`: the caller's address, which gateways look at."""
    request = Request(method, path, host, tuple(headers), caller=caller)
    return lambda chance: _asked(snapshot, chance, listener, request, sni=sni, encrypted=True, source=source)


def _asked(
    snapshot: Snapshot,
    chance: Chance,
    listener: str,
    request: Request,
    *,
    sni: str,
    encrypted: bool,
    to: str = "",
    source: str = "",
) -> Verdict:
    run = Run(snapshot, chance)
    verdict = connect(run, listener, request, sni=sni, encrypted=encrypted, to=to, source=source)
    return replace(verdict, trace=tuple(run.trace))


def shares(ask: Ask) -> tuple[Share, ...]:
    """All outcomes with their exact probabilities, the most probable first; together they are 1.

    Outcomes that differ in nothing but their trace are one, with the trace of the first.
    """
    found: dict[Verdict, tuple[Fraction, Verdict]] = {}
    for probability, verdict in _outcomes(ask):
        bare = replace(verdict, trace=())
        before, first = found.get(bare, (Fraction(0), verdict))
        found[bare] = (before + probability, first)
    return tuple(Share(*pair) for pair in sorted(found.values(), key=lambda pair: pair[0], reverse=True))


def _outcomes(ask: Ask) -> Iterator[tuple[Fraction, Verdict]]:
    scripts: list[tuple[int, ...]] = [()]
    while scripts:
        chance = Scripted(scripts.pop())
        verdict = ask(chance)
        scripts.extend(reversed(chance.alternatives()))
        yield chance.probability, verdict
