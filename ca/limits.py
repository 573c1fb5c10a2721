"""How often each caller may be served: token buckets (pure; the clock is an argument)."""

from dataclasses import dataclass
from ipaddress import IPv6Address, ip_network

from mesh.model.checks import ip_of


@dataclass(frozen=True, slots=True)
class Rate:
    per_second: float
    burst: float


class Buckets:
    """One bucket a key. At most `capacity` are kept: a full one is as good as none, the least used goes first."""

    def __init__(self, rate: Rate, capacity: int = 50_000) -> None:
        self._rate, self._capacity = rate, capacity
        self._level: dict[str, tuple[float, float]] = {}
        """Key -> (tokens, when); in the order of last use."""

    def take(self, key: str, now: float, amount: float = 1.0) -> float:
        """Take if there is enough: 0. Otherwise nothing is taken, and the seconds to wait are returned."""
        level = self.level(key, now)
        if level < amount:
            return (amount - level) / self._rate.per_second
        self._level.pop(key, None)
        self._level[key] = (level - amount, now)
        if len(self._level) > self._capacity:
            del self._level[next(iter(self._level))]
        return 0.0

    def level(self, key: str, now: float) -> float:
        """What is in a bucket now."""
        tokens, when = self._level.get(key, (self._rate.burst, now))
        # A clock that is set back must not drain a bucket.
        return min(self._rate.burst, tokens + max(0.0, now - when) * self._rate.per_second)

    def __len__(self) -> int:
        return len(self._level)


class Strangers:
    """For callers who have proved nothing: a bucket for each source, and one for all of them together.

    The second bounds what those can do who come from very many addresses.
    """

    def __init__(self, each: Rate, together: Rate) -> None:
        self._each, self._together = Buckets(each), Buckets(together)

    def take(self, address: str, now: float) -> float:
        """Serve one call: 0, or the seconds to wait."""
        if self._together.level("", now) < 1:
            return self._together.take("", now)
        return self._each.take(source_of(address), now) or self._together.take("", now)


def source_of(address: str) -> str:
    """What counts as one source: an IPv4 address; of IPv6 the /64, since a single host may use any address in it."""
    ip = ip_of(address)
    return str(ip_network((ip, 64), strict=False) if isinstance(ip, IPv6Address) else ip or address)
