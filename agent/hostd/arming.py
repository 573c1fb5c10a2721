"""May opt-in capture be in force? Pure.

    none --asked for--> armed --confirmed--> confirmed (remembered: a later boot asks nobody)
                          '--not in time--> reverted --asked for again, or changed--> armed

What was confirmed is a digest of the capture itself: a range that is added arms anew. If nobody confirms that, what was
confirmed before it is in force again, so that a change which nobody looks after opens no port that was closed.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any, Literal

from agent.hostd.wanted import RefusedError, Wanted, encode, parse

State = Literal["none", "armed", "confirmed", "reverted"]

ARMED_SECONDS = 60.0
"""How long an operator has to show that the host can still be reached."""


@dataclass(frozen=True)
class Arming:
    state: State = "none"
    digest: str = ""
    """Of the capture that `state` is about."""
    asked: str = ""
    """That capture, as text."""
    since: float = 0.0
    """Seconds since boot: when it was armed. A connection that came later has passed what is captured."""
    until: float = 0.0
    confirmed: str = ""
    """The digest that was confirmed, remembered over boots."""
    stands: str = ""
    """The capture that was confirmed, as text; remembered too."""
    refused: str = ""
    """The digest that lapsed or was taken out, remembered too: else every start of the helper would arm it anew."""


def text_of(wanted: Wanted) -> str:
    """What of it can cut somebody off; empty if nothing can. Lifelines are not in it: they change by themselves, and
    nobody would be there to confirm that.
    """
    if not wanted.captures:
        return ""
    body: dict[str, Any] = {key: value for key, value in encode(wanted).items() if key in {"outbound", "inbound"}}
    return json.dumps(body, sort_keys=True)


def in_force(held: Arming, wanted: Wanted) -> tuple[State, Wanted]:
    """What rules are made of. Of a capture that was not confirmed in time: the one that was confirmed before it."""
    if held.state != "reverted" or not held.stands or held.stands == held.asked:
        return held.state, wanted
    try:
        before = parse(json.loads(held.stands))
    except (ValueError, RefusedError):
        return held.state, wanted
    return "confirmed", replace(wanted, outbound=before.outbound, inbound=before.inbound)


def want(held: Arming, wanted: Wanted, now: float, seconds: float = ARMED_SECONDS) -> Arming:
    """The agent says what it wants; it says so often, and mostly the same."""
    asked = text_of(wanted)
    if not asked:
        return Arming(confirmed=held.confirmed, refused=held.refused)  # what comes next has none before it
    new = hashlib.sha256(asked.encode()).hexdigest()
    if new == held.confirmed:
        return replace(held, state="confirmed", digest=new, asked=asked, stands=asked)
    if new == held.digest and held.state in {"armed", "reverted"}:
        return tick(held, now)
    if new == held.refused:
        return replace(held, state="reverted", digest=new, asked=asked)
    return arm(replace(held, digest=new, asked=asked), now, seconds)


def arm(held: Arming, now: float, seconds: float = ARMED_SECONDS) -> Arming:
    """What was confirmed stays so: armed, it would be undone, and be in force again at the agent's next word."""
    if not held.digest or (held.state == "confirmed" and held.digest == held.confirmed):
        return held
    return replace(held, state="armed", since=now, until=now + seconds, refused="")


def tick(held: Arming, now: float) -> Arming:
    if held.state == "armed" and now >= held.until:
        return replace(held, state="reverted", refused=held.digest)
    return held


def remembered(held: Arming) -> Arming:
    """What outlives the helper. An arming that nobody confirmed does not: it counts as not confirmed in time."""
    refused = held.digest if held.state == "armed" else held.refused
    return Arming(confirmed=held.confirmed, stands=held.stands, refused=refused)


def confirm(held: Arming, now: float, came: float | None) -> Arming | str:
    """The new state, or why not. `came`: when the caller's SSH connection began; None: it sits at the console."""
    held = tick(held, now)
    if held.state == "confirmed":
        return held
    if held.state != "armed":
        what = "was not confirmed in time and is undone" if held.state == "reverted" else "is not asked for"
        return f"capture {what}; `holdfast-agent capture arm` puts it in force again, for a while"
    if came is not None and came <= held.since:
        return "this SSH connection is older than the capture and proves nothing: open a new one and confirm there"
    return replace(held, state="confirmed", confirmed=held.digest, stands=held.asked)


def off(held: Arming) -> Arming:
    """An operator's word: out of force, and not remembered, until it is armed again."""
    return replace(held, state="reverted" if held.digest else "none", confirmed="", stands="", refused=held.digest)
