"""A join token becomes a node identity on disk. Used by `holdfast-agent join`, and by `run` while there is none."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from agent.identity.orders import Joined, JoinOrder, Order, Outcome, way
from agent.settings import Settings
from agent.state import Disk, StoredIdentity, write_private

Exchange = Callable[[Order], Awaitable[Outcome]]
"""One exchange with the CA: identity.process.run, or identity.exchange.run."""


class JoinError(Exception):
    """It did not work, with what to do next. `final`: the same token will not do."""

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


def read_token(path: Path) -> str:
    """The token in a file.

    Raises:
        JoinError: there is none to read.

    """
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or "not text"
        raise JoinError(f"the join token in {path} cannot be read: {reason}") from exc


async def join(settings: Settings, disk: Disk, token: str, exchange: Exchange, now: float) -> StoredIdentity:
    """Join once. What comes of it is on disk before this returns.

    Raises:
        JoinError: with the reason.

    """
    if not settings.controlplanes:
        raise JoinError("no control plane is known: name at least one under `controlplanes` in agent.yaml", final=True)
    key = await _pending_key(disk, exchange, now)
    order = JoinOrder(
        urls=settings.controlplanes, token=token, node=settings.node, address=settings.address, key_pem=key
    )
    outcome = await exchange(Order(now=now, join=order))
    if outcome.joined is None:
        words = f"{outcome.error}{_hint(outcome, settings.node)}"
        raise JoinError(words, final=outcome.refused and not outcome.retry_after)
    stored = identity_of(settings.node, outcome.joined)
    await asyncio.to_thread(_keep, disk, stored)
    return stored


def _hint(outcome: Outcome, node: str) -> str:
    if outcome.refused:
        return (
            "; a token works once, for one node name, until it expires. With a new one this host joins under its name, "
            f"also where it was made anew: {way(node)}"
        )
    return "" if outcome.clock else "; is a control-plane node running at one of these addresses?"


def identity_of(node: str, joined: Joined) -> StoredIdentity:
    return StoredIdentity(
        node=node,
        trust_domain=joined.trust_domain,
        cluster=joined.cluster,
        roles=joined.roles,
        permitted=joined.permitted,
        gates=joined.gates,
        controlplanes=joined.controlplanes,
        roots=joined.roots,
        own=joined.own,
    )


async def _pending_key(disk: Disk, exchange: Exchange, now: float) -> str:
    """The key of this join. It is on disk before the first call: if the answer is lost, only this key may ask again."""
    try:
        return disk.pending_key.read_text(encoding="ascii")
    except (FileNotFoundError, ValueError):
        made = await exchange(Order(now=now, key=True))
        if not made.key_pem:
            raise JoinError(f"no key could be made: {made.error}") from None
        await asyncio.to_thread(write_private, disk.pending_key, made.key_pem.encode("ascii"))
        return made.key_pem


def _keep(disk: Disk, stored: StoredIdentity) -> None:
    disk.identities.load()
    disk.identities.save(stored)
    disk.pending_key.unlink(missing_ok=True)
