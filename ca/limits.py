"""How often each caller may be served: token buckets (pure; the clock is an argument)."""

from dataclasses import dataclass


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
