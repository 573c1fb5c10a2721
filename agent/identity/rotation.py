"""When a certificate is renewed, and how much life is left. Pure: dates and jitter in, time out."""

from collections.abc import Iterable, Mapping

from mesh.model import Identity

SHARE = 1 / 3
"""Of its life after which a certificate is renewed: two thirds are runway for a CA that is away."""

SPREAD = 0.05
"""Of its life by which hosts that were made together drift apart."""

TOGETHER = 0.03
"""Of its life: what is due this soon after another is renewed in the same call."""

WARN_SHARE = 0.5
ALARM_SHARE = 0.25


def renew_at(not_before: float, not_after: float, jitter: float) -> float:
    """Unix seconds. `jitter` is in [0, 1): earlier for lower values, and never after one third of the life."""
    life = max(0.0, not_after - not_before)
    return not_before + life * (SHARE - SPREAD * (1.0 - jitter))


def due(
    wanted: Iterable[str], held: Mapping[str, Identity], now: float, jitter: Mapping[str, float]
) -> tuple[str, ...]:
    """Which of the wanted identities to ask for now: missing ones and those past their share of life.

    If any is due, those that soon will be come along: one call renews a host.
    """

    def at(name: str, early: float) -> bool:
        identity = held.get(name)
        if identity is None:
            return True
        life = max(0.0, identity.not_after - identity.not_before)
        return now >= renew_at(identity.not_before, identity.not_after, jitter.get(name, 0.5)) - life * early

    names = sorted(set(wanted))
    if not any(at(name, 0.0) for name in names):
        return ()
    return tuple(name for name in names if at(name, TOGETHER))


def next_due(held: Mapping[str, Identity], jitter: Mapping[str, float]) -> float | None:
    """When the first of the held ones will be due."""
    times = [renew_at(i.not_before, i.not_after, jitter.get(name, 0.5)) for name, i in held.items()]
    return min(times, default=None)


def runway(identity: Identity, now: float) -> float:
    """Seconds until it expires; negative when it has."""
    return identity.not_after - now


def warning(name: str, identity: Identity, now: float) -> str:
    """What an operator should know of a certificate that was not renewed in time, or ''."""
    life = identity.not_after - identity.not_before
    left = runway(identity, now)
    if left <= 0:
        return f"certificate {name} has expired {-left:.0f} s ago"
    if life > 0 and left / life < ALARM_SHARE:
        return f"ALARM: certificate {name} has {left:.0f} s left, {left / life:.0%} of its life; is the CA reachable?"
    if life > 0 and left / life < WARN_SHARE:
        return f"certificate {name} has {left:.0f} s left, {left / life:.0%} of its life; its renewal is late"
    return ""
