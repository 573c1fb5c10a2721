"""How many downloads there may be at the same time."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from ca.limits import source_of
from controlplane.api.answers import ApiError

EACH, TOGETHER = 8, 100
"""Of one source (many hosts may stand behind one address), of all."""


class Downloads:
    """Who downloads now."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    @contextmanager
    def one(self, address: str) -> Iterator[None]:
        source = source_of(address)
        if self._open[source] >= EACH or self._open.total() >= TOGETHER:
            raise ApiError(429, "too many downloads at the same time", "repeat it in a moment", retry_after=2)
        self._open[source] += 1
        try:
            yield
        finally:
            self._open[source] -= 1
            self._open += Counter()  # keeps only what is open
