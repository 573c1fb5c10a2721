"""Backup and restore on a store in memory."""

import asyncio
import hashlib

import msgspec
import pytest

from controlplane import backup
from controlplane.backup import RESTORING, BackupError, dump, parse, restore, unfinished
from controlplane.setup import SetupError, restore_store
from mesh import keys
from mesh.store.errors import Unavailable
from mesh.store.memory import MemoryStore
from mesh.store.protocol import Put
from tests.fakes.cut_store import CutStore

NOW = 1_760_000_000.0
ENTRIES = {
    keys.EPOCH: b"old-epoch",
    keys.OBJECTS + "Service/shop/api": b'{"kind":"Service"}',
    keys.OBJECTS + "Service/shop/web": b'{"x":"\xc3\xa9\\n"}',
    keys.PRIVATE + "ca/root": b"\x00\xff sealed",
    keys.TOKENS + "aa": b"{}",
}


async def fill(store, entries=ENTRIES):
    for key, value in entries.items():
        await store.txn((), (Put(key, value),))


async def saved(store) -> list[bytes]:
    return list(await dump(store, cluster="c", trust_domain="d", now=1.0))


async def content(store) -> dict[str, bytes]:
    return {item.key: item.value for item in (await store.list(keys.ROOT)).items}


def restored(store, lines, overwrite=False):
    return restore(store, lines, overwrite=overwrite, author="test", new_epoch="new-epoch", now=NOW)


def test_everything_comes_back_with_a_new_epoch():
    async def run():
        one, two = MemoryStore(), MemoryStore()
        await fill(one)
        await restored(two, await saved(one))
        found = await content(two)
        assert found.pop(keys.EPOCH) == b'"new-epoch"'
        assert {key: found[key] for key in ENTRIES if key != keys.EPOCH} == {
            key: value for key, value in ENTRIES.items() if key != keys.EPOCH
        }
        assert set(found) - set(ENTRIES) == {keys.COMMIT}

    asyncio.run(run())


def test_leases_keys_are_left_out():
    async def run():
        store = MemoryStore()
        await fill(store, {keys.REPLICAS + "cp1": b"{}", keys.ELECTIONS + "leader": b"{}", keys.EPOCH: b"e"})
        assert set(parse(await saved(store))[1]) == {keys.EPOCH}

    asyncio.run(run())


def test_a_store_that_holds_something_is_not_overwritten_unasked():
    async def run():
        one, two = MemoryStore(), MemoryStore()
        await fill(one)
        await fill(two, {keys.OBJECTS + "Service/shop/mine": b"{}"})
        before = await content(two)
        with pytest.raises(BackupError, match="holds 1 keys"):
            await restored(two, await saved(one))
        assert await content(two) == before
        done = await restored(two, await saved(one), overwrite=True)
        assert done.deleted == 1
        assert keys.OBJECTS + "Service/shop/mine" not in await content(two)
        assert msgspec.json.decode((await two.get(keys.DELETIONS)).value) == {"total": 1}

    asyncio.run(run())


def test_what_a_restore_takes_away_is_declared_by_whose_it_was():
    async def run():
        one, two = MemoryStore(), MemoryStore()
        await fill(one, ENTRIES | {keys.total_of("west"): b'{"total":3}'})
        gone = [keys.imports_of("west") + "services/shop/a", keys.imports_of("north") + "services/shop/a"]
        mine = dict.fromkeys([keys.OBJECTS + "Service/shop/mine", *gone], b"{}")
        await fill(two, mine | {keys.total_of("west"): b'{"total":7}', keys.DELETIONS: b'{"total":5}'})
        await restored(two, await saved(one), overwrite=True)
        totals = [msgspec.json.decode((await two.get(keys.total_of(peer))).value) for peer in ("", "north", "west")]
        assert totals == [{"total": 6}, {"total": 1}, {"total": 8}]

    asyncio.run(run())


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: lines[:-1],
        lambda lines: lines[:2] + lines[3:],
        lambda lines: [*lines[:2], lines[2].replace(b"Service", b"Sirvice"), *lines[3:]],
        lambda lines: lines[1:],
        lambda lines: [b"garbage\n", *lines],
        lambda lines: [*lines, lines[1]],
        lambda lines: [],
        lambda lines: [lines[0].replace(b'"holdfastBackup":1', b'"holdfastBackup":99'), *lines[1:]],
    ],
    ids=["cut", "line missing", "altered", "no head", "garbage", "after the end", "empty", "newer format"],
)
def test_a_damaged_backup_is_refused_before_anything_is_written(damage):
    async def run():
        one, two = MemoryStore(), MemoryStore()
        await fill(one)
        lines = damage(await saved(one))
        with pytest.raises(BackupError):
            await restored(two, lines)
        assert await content(two) == {}

    asyncio.run(run())


@pytest.mark.parametrize("key", ["/etc/passwd", "/holdfast/v2/x", keys.ELECTIONS + "leader"])
def test_keys_of_others_are_refused(key):
    head = b'{"holdfastBackup":1,"revision":1,"trustDomain":"d","cluster":"c","created":1}\n'
    line = msgspec.json.encode({"key": key, "value": "x"}) + b"\n"
    foot = msgspec.json.encode({"keys": 1, "sha256": hashlib.sha256(line).hexdigest()}) + b"\n"
    with pytest.raises(BackupError, match="not a key that a backup holds"):
        parse([head, line, foot])


def test_a_restore_that_broke_off_does_not_look_whole_and_can_be_repeated(monkeypatch):
    monkeypatch.setattr(backup, "STEP_OPS", 10)

    async def run():
        one, two = MemoryStore(), CutStore()
        two.left = 4
        await fill(one, ENTRIES | {keys.OBJECTS + f"Service/shop/s{n}": b"{}" for n in range(100)})
        lines = await saved(one)
        with pytest.raises(Unavailable):
            await restored(two, lines)
        assert await two.get(keys.EPOCH) is None
        assert await unfinished(two)
        await restored(two, lines)
        assert not await unfinished(two)
        assert RESTORING not in await content(two)
        assert len(await content(two)) == 100 + len(ENTRIES) + 1

    asyncio.run(run())


def test_a_bundle_that_cannot_be_read_comes_back_as_it_was():
    async def run():
        one, two = MemoryStore(), MemoryStore()
        await fill(one, {keys.BUNDLES + "d": b"garbage"})
        await restored(two, await saved(one))
        assert (await two.get(keys.BUNDLES + "d")).value == b"garbage"

    asyncio.run(run())


def test_a_store_with_running_nodes_is_not_restored_into():
    async def run():
        store = MemoryStore()
        await fill(store, {keys.REPLICAS + "cp1": b"{}"})
        with pytest.raises(SetupError, match="cp1"):
            await restore_store(store, [], overwrite=True)

    asyncio.run(run())
