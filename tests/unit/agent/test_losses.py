"""What a peer takes back is declared for its own imports: no interleaving makes it excuse the loss of anything else.

Played on the real watch, with what the control plane writes (controlplane.writer) and what nobody declared.
"""

import asyncio
import itertools
import random
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent import metrics
from agent.state import StoredWorld
from agent.watch import Watch
from controlplane.registry import Plan
from controlplane.view import View
from controlplane.writer import Writer
from mesh import keys
from mesh.model import ImportedService, Service
from mesh.store import follow, guard
from mesh.store.errors import Unavailable
from mesh.store.memory import MemoryStore
from mesh.store.protocol import Delete
from tests.support.meshes import imported, peering, service
from tests.support.waiting import aeventually
from tests.unit.agent.watching import Listener, put, run, svc

PEERS = ("west", "north")
MANY = 40
"""Objects of each owner when all is there."""


def objects_of(owner: str):
    return [imported(service(f"s{n}"), owner) if owner else svc(f"s{n}") for n in range(MANY)]


KEYS = {owner: [keys.key_for(obj.ref) for obj in objects_of(owner)] for owner in ("", *PEERS)}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    """The follower tries again at once: many histories are played."""

    async def soon(_seconds):
        await asyncio.sleep(0)

    monkeypatch.setattr(follow, "pause", soon)


class Deafened:
    """The same store, for one who may be cut off from it."""

    def __init__(self, store: MemoryStore) -> None:
        self.store, self.deaf = store, False

    def __getattr__(self, name):
        if self.deaf and name in {"get", "list", "revision"}:
            raise Unavailable("cut off")
        return getattr(self.store, name)

    async def watch(self, ranges):
        async for batch in self.store.watch(ranges):
            if self.deaf:
                raise Unavailable("cut off")
            yield batch


class Player:
    """A mesh with two peers, its control plane, and one agent."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.cut = Deafened(self.store)
        self.writer = Writer(self.store, View())
        self.declared: Counter[str] = Counter()
        self.listener = Listener()
        self.listener.interest = set()
        self.watch = self.watcher(None)

    def watcher(self, stored: StoredWorld | None) -> Watch:
        listener, counters = self.listener, metrics.Counters()
        watch = Watch(listener.told, interest=lambda _: listener.interest, rng=random.Random(1), counters=counters)
        watch.use(stored)
        watch.follow(self.cut)
        return watch

    def there(self, owner: str) -> list[str]:
        found = {item.key for item in self.store.snapshot().items}
        return [key for key in KEYS[owner] if key in found]

    async def fill(self, owner: str) -> None:
        await self.store.txn((), [put(obj) for obj in objects_of(owner)])

    async def lose(self, owner: str, number: int) -> None:
        """Nobody declares it."""
        await self.store.txn((), [Delete(key) for key in self.there(owner)[:number]])

    async def delete(self, owner: str, number: int) -> None:
        """As the control plane does: of a peer's imports, because it offers them no more."""
        plan = Plan()
        for key in self.there(owner)[:number]:
            plan.change(Delete(key), (await self.store.get(key)).revision)
        if plan:
            self.declared[owner] += len(plan.ops)
            await self.writer.commit(plan, author=f"peer:{owner}" if owner else "operator:admin")

    async def settled(self) -> None:
        """The agent has seen all that there is, each range of it."""
        newest = await self.store.revision()
        ranges = self.watch._gathered
        while not all(ranges.revision(prefix) >= newest for prefix in self.watch._wanted()):
            await asyncio.sleep(0)

    def obeyed(self, owner: str) -> int:
        """Removals that the agent has applied, of those that a guard looks at."""
        counts = [len(_names(world, owner)) for world in self.listener.worlds]
        steps = [(before, before - after) for before, after in itertools.pairwise(counts)]
        return sum(lost for known, lost in steps if lost >= guard.LEAST and lost > guard.SHARE * known)


def _names(world, owner: str) -> set[str]:
    kind = ImportedService if owner else Service
    return {ref.name for ref, obj in world.objects.items() if isinstance(obj, kind) and ref.name.endswith(owner)}


async def filled() -> Player:
    """All that each owner has, and nobody watches yet."""
    player = Player()
    await player.store.txn((), [put(peering(name)) for name in PEERS])
    for owner in KEYS:
        await player.fill(owner)
    return player


async def play(history, check, at_last=lambda _player: None) -> None:
    """`check` after each step, `at_last` once the agent has seen all that there is."""
    player = await filled()
    task = asyncio.create_task(player.watch.run())
    try:
        await player.settled()
        for act, owner, number in history:
            match act:
                case "cut":
                    player.cut.deaf = True
                    player.store.break_watches()
                case "mend":
                    player.store.compact(await player.store.revision())
                    player.cut.deaf = False
                case "restart" if not player.cut.deaf:
                    stored = await player.watch.stored()  # as an agent that leaves: written first, ended then
                    task.cancel()
                    await asyncio.wait({task})
                    player.watch = player.watcher(stored)
                    task = asyncio.create_task(player.watch.run())
                case "settle" if not player.cut.deaf:
                    await player.settled()
                case "fill":
                    await player.fill(owner)
                case "lose" | "delete":
                    await getattr(player, act)(owner, number)
            check(player)
        player.cut.deaf = False
        await player.settled()
        check(player)
        at_last(player)
    finally:
        task.cancel()
        await asyncio.wait({task})


numbers = st.integers(10, 30)
calm = st.tuples(
    st.sampled_from(["cut", "mend", "restart", "settle", "settle", "fill"]), st.sampled_from(list(KEYS)), numbers
)
withdrawals = st.tuples(st.just("delete"), st.sampled_from(PEERS), numbers)
losses = st.tuples(st.just("lose"), st.sampled_from(list(KEYS)), numbers)
deletions = st.tuples(st.just("delete"), st.sampled_from(list(KEYS)), numbers)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(calm, withdrawals, withdrawals, losses), max_size=14))
def test_no_withdrawals_of_peers_excuse_a_local_loss(history):
    """Nothing local is ever declared here, so no local loss of many is ever obeyed."""

    def check(player: Player) -> None:
        assert player.obeyed("") == 0

    run(lambda: play(history, check))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(calm, deletions, losses), max_size=14))
def test_no_more_is_obeyed_than_was_declared_of_the_same_owner(history):
    def check(player: Player) -> None:
        for owner in KEYS:
            assert player.obeyed(owner) <= player.declared[owner], owner

    run(lambda: play(history, check))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(calm, deletions), max_size=14))
@example([("delete", "", 10), ("settle", "", 10), ("fill", "", 10), ("restart", "", 10)])
def test_what_is_declared_is_always_obeyed(history):
    """At last: a total that is compacted while a range is listed is known only with the totals themselves."""

    def at_last(player: Player) -> None:
        assert not player.watch.held
        for owner in KEYS:
            assert len(_names(player.watch.world, owner)) == len(player.there(owner))

    run(lambda: play(history, lambda _player: None, at_last))


def test_a_peers_withdrawals_release_no_local_deletions():
    async def scenario():
        player = await filled()
        task = asyncio.create_task(player.watch.run())
        try:
            await player.settled()
            await player.lose("", 30)
            await player.settled()
            assert "30 of 42" in player.watch.held
            await player.delete("west", 40)
            await player.fill("west")
            await player.delete("west", 40)
            await player.settled()
            assert len(_names(player.watch.world, "")) == 40
            assert not _names(player.watch.world, "west"), "what it takes back of its own is obeyed"
            await player.fill("")
            await player.delete("", 30)
            await aeventually(lambda: len(_names(player.watch.world, "")) == 10)
            assert player.watch.held == ""
        finally:
            task.cancel()
            await asyncio.wait({task})

    run(scenario)


def test_after_a_restart_old_declarations_excuse_nothing_that_was_held():
    async def scenario():
        player = Player()
        await player.fill("")
        await player.delete("", 40)
        await player.fill("")
        task = asyncio.create_task(player.watch.run())
        try:
            await player.settled()
            await player.lose("", 30)
            await player.settled()
            assert player.watch.held
            task.cancel()
            await asyncio.wait({task})
            player.watch = player.watcher(await player.watch.stored())
            task = asyncio.create_task(player.watch.run())
            await player.settled()
            await player.delete("", 1)
            await player.settled()
            assert player.watch.held
            assert len(_names(player.watch.world, "")) == 39
        finally:
            task.cancel()
            await asyncio.wait({task})

    run(scenario)
