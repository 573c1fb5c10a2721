"""A mapping that can be changed in a few places without a copy of the whole."""

from collections.abc import Iterator, Mapping

from mesh.compile.types import Resource, Resources

MOST = 64
"""So many changes are kept beside the base; then they are merged into a new one. One change in 64 pays for a copy."""


class Layered(Mapping[str, Resource]):
    """Immutable. The names are those of the base; `top` has newer values of some of them."""

    __slots__ = ("base", "top")

    def __init__(self, base: Mapping[str, Resource], top: Mapping[str, Resource] | None = None) -> None:
        self.base: Mapping[str, Resource] = base
        self.top: Mapping[str, Resource] = top or {}

    def __getitem__(self, name: str) -> Resource:
        found = self.top.get(name)
        return self.base[name] if found is None else found

    def __contains__(self, name: object) -> bool:
        return name in self.base

    def __iter__(self) -> Iterator[str]:
        return iter(self.base)

    def __len__(self) -> int:
        return len(self.base)

    def __repr__(self) -> str:
        return f"Layered({len(self)} names)"


def over(known: Resources, newer: Mapping[str, Resource]) -> Layered:
    """`known` with these values; all their names must be in it."""
    assert isinstance(known, Layered)
    assert all(name in known.base for name in newer)
    top = {**known.top, **newer}
    return Layered(known.base, top) if len(top) <= MOST else Layered({**known.base, **top})
