"""Which hosts are lost. Pure: moments are arguments, on the leader's own monotonic clock.

A host is lost when no replica has held its uplink for the grace. The count starts anew for everybody when a leader is
elected and when the store was away: nobody is removed for silence that nobody could have heard.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from controlplane.view import Presence


class Liveness:
    def __init__(self) -> None:
        self._started = 0.0
        self._holders: dict[str, frozenset[str]] = {}
        """Connected node -> the replicas that held its uplink when last looked at."""
        self._silent: dict[str, float] = {}
        """Node -> since when nothing was heard of it."""

    @property
    def connected(self) -> AbstractSet[str]:
        return self._holders.keys()

    def restart(self, now: float) -> None:
        """Everybody who is silent is silent since now."""
        self._started = now
        self._silent.clear()

    def observe(self, replicas: Mapping[str, Presence], now: float) -> None:
        """Take in what the replicas say. A replica that vanished takes its connections with it, as of now."""
        holders: dict[str, frozenset[str]] = {}
        for name, presence in replicas.items():
            for node in presence.connected:
                holders[node] = holders.get(node, frozenset()) | {name}
        for node, before in self._holders.items():
            if node in holders:
                continue
            # Only who held it last knows how long it had been silent when it was cut; that time counts. Another
            # replica's word is of an earlier connection.
            ages = [replicas[name].left[node] for name in before if name in replicas and node in replicas[name].left]
            self._silent[node] = max(self._started, now - max(0.0, min(ages, default=0.0)))
        for node in holders:
            self._silent.pop(node, None)
        self._holders = holders

    def lost(self, nodes: Iterable[str], now: float, grace: float) -> frozenset[str]:
        """Those of these nodes that have been silent for the grace."""
        return frozenset(node for node in nodes if self._left(node, now, grace) <= 0)

    def next(self, nodes: Iterable[str], now: float, grace: float) -> float | None:
        """Seconds until the next of these nodes becomes lost; None: none will."""
        waits = [left for node in nodes if 0 < (left := self._left(node, now, grace)) < float("inf")]
        return min(waits, default=None)

    def _left(self, node: str, now: float, grace: float) -> float:
        if node in self._holders:
            return float("inf")
        return self._silent.get(node, self._started) + grace - now
