"""A consumer of a Follower that checks every promise of mesh.store.follow while it consumes."""

from mesh.store.follow import Broken, Changed, Follower, Listed, Progressed, Restored


class Followed:
    """What a Follower told, applied in order."""

    def __init__(self) -> None:
        self.data: dict[str, tuple[bytes, int]] = {}
        """Key -> value and revision."""
        self.revisions: dict[str, int] = {}
        self.log: list[object] = []
        self.said: list[object] = []
        """Broken and Restored."""

    def take(self, event) -> None:
        match event:
            case Broken() | Restored():
                self.said.append(event)
                return
            case Listed(prefix, revision, events, restored):
                assert restored or revision >= self.revisions.get(prefix, 0), "ordered"
                for change in events:
                    old = self.data.get(change.key)
                    assert old != (change.value, change.revision), "a listing holds differences only"
                    assert change.value is not None or old is not None, "only what was known is deleted"
            case Changed(prefix, revision, events):
                assert events
                assert revision > self.revisions[prefix], "ordered and unique"
                assert {change.revision for change in events} == {revision}, "one revision"
                assert len({change.key for change in events}) == len(events), "each key once"
            case Progressed(prefix, revision):
                assert revision > self.revisions[prefix], "ordered"
                events = ()
            case _:
                raise AssertionError(event)
        for change in events:
            assert change.key.startswith(prefix), "of its own prefix"
            if change.value is None:
                self.data.pop(change.key, None)
            else:
                self.data[change.key] = (change.value, change.revision)
        self.revisions[prefix] = revision
        self.log.append(event)

    async def consume(self, follower: Follower) -> None:
        """For ever; cancel it."""
        events = follower.run()
        try:
            async for event in events:
                self.take(event)
        finally:
            await events.aclose()

    async def holds_what(self, store, prefixes) -> bool:
        """Converged?"""
        want = {
            item.key: (item.value, item.revision) for prefix in prefixes for item in (await store.list(prefix)).items
        }
        return self.data == want

    @property
    def changes(self) -> list[Changed]:
        return [event for event in self.log if isinstance(event, Changed)]

    @property
    def listings(self) -> list[Listed]:
        return [event for event in self.log if isinstance(event, Listed)]
