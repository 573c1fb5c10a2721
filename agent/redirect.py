"""When the host's helper is told what: events in, orders out. Pure.

Rule 1: make before break. Callers are redirected to a listener once Envoy has it in force; and before Envoy is given a
        configuration without it, they are redirected no more.
Rule 2: nothing waits long for the helper, and nothing but calls by name depends on it.
"""

import dataclasses
from typing import assert_never

from msgspec import Struct
from msgspec.structs import replace

from agent.capture import common
from agent.hostd.wanted import Wanted

# --- events ----------------------------------------------------------------------------------------------------------


class Offered(Struct, frozen=True):
    """Envoy is to be given a configuration that needs this."""

    digest: bytes
    wanted: Wanted


class InForce(Struct, frozen=True):
    """Envoy has it in force."""

    wanted: Wanted


class Resolved(Struct, frozen=True):
    """Control planes and gates that are known by a name have these addresses, as far as that is known."""

    addresses: tuple[str, ...]


class Answered(Struct, frozen=True):
    """The helper did what it was told, but for these problems."""

    problems: tuple[str, ...] = ()
    capture: str = ""


class Failed(Struct, frozen=True):
    """The helper is not there, or refused; with what to do about it."""

    reason: str


class Late(Struct, frozen=True):
    """A configuration has waited for the helper long enough."""

    digest: bytes


class HelperStarted(Struct, frozen=True):
    """It may know nothing of what it was told before."""


class Due(Struct, frozen=True):
    """It is time to say it again: files and tables may have been edited."""


Event = Offered | InForce | Resolved | Answered | Failed | Late | HelperStarted | Due


# --- orders ----------------------------------------------------------------------------------------------------------


class Tell(Struct, frozen=True):
    """Tell the helper. Answer: Answered or Failed."""

    wanted: Wanted


class Publish(Struct, frozen=True):
    """Give Envoy the configuration now."""

    digest: bytes


Order = Tell | Publish


class State(Struct, frozen=True):
    offered: Wanted | None = None
    applied: Wanted | None = None
    lifelines: tuple[str, ...] = ()
    told: Wanted | None = None
    """Last; the helper may have done none, or a part of it. None: it may know anything."""
    done: bool = False
    """It answered that it did."""
    busy: bool = False
    """An answer is on its way."""
    again: bool = False
    """What was told must be told again after that answer."""
    held: bytes = b""
    """The configuration that waits for it."""
    problems: tuple[str, ...] = ()
    capture: str = ""
    """Of the helper's last answer."""


Step = tuple[State, tuple[Order, ...]]


def handle(state: State, event: Event) -> Step:  # noqa: PLR0911 - one for each event
    match event:
        case Offered(digest, wanted):
            return _offered(state, digest, wanted)
        case InForce(wanted):
            return _tell(replace(state, applied=wanted))
        case Resolved(addresses):
            return _tell(replace(state, lifelines=addresses))
        case Answered(problems, capture):
            return _answered(replace(state, done=True, problems=problems, capture=capture))
        case Failed(reason):
            nothing = state.told == Wanted()  # who wants nothing of it does not miss it
            return _answered(replace(state, done=False, problems=() if nothing else (_missing(reason),)))
        case Late(digest):
            return (replace(state, held=b""), (Publish(digest),)) if digest == state.held else (state, ())
        case HelperStarted() | Due():
            return _tell(replace(state, again=True))
        case _:
            assert_never(event)


def _offered(state: State, digest: bytes, wanted: Wanted) -> Step:
    state = replace(state, offered=wanted)
    goal = _goal(state)
    # Only what was told can be in force. At the agent's start that is not known: what the last one left stays until the
    # new configuration is in force.
    if state.told is None or goal is None or common(state.told, goal) == state.told:
        return replace(state, held=b""), (Publish(digest),)
    return _tell(replace(state, held=digest))


def _answered(state: State) -> Step:
    state, out = _tell(replace(state, busy=False))
    if out or not state.held:
        return state, out  # what was told before may not have been narrow enough for what waits
    return replace(state, held=b""), (Publish(state.held),)


def _goal(state: State) -> Wanted | None:
    """What must be in force now; None: not known yet, so that what is stays."""
    if state.applied is None:
        return None
    goal = common(state.applied, state.offered) if state.offered is not None else state.applied
    return dataclasses.replace(goal, lifelines=state.lifelines if goal.outbound else ())


def _tell(state: State) -> Step:
    goal = _goal(state)
    if goal is None or state.busy or (goal == state.told and not state.again):
        return state, ()
    return replace(state, told=goal, busy=True, again=False, done=False), (Tell(goal),)


def _missing(reason: str) -> str:
    return f"calls by name: the host's helper does not do it: {reason}"
