"""The history: what an apply leaves behind, within which bounds, and who may read it."""

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane import history
from controlplane.backup import dump, restore
from controlplane.history import Change, Mark, Summary, name_of, record, surplus
from controlplane.reconcile import plan_history
from mesh import codec, keys
from mesh.model import Ref, Revision
from mesh.store.memory import MemoryStore
from mesh.store.protocol import Delete, Item, Put
from tests.support.waiting import aeventually
from tests.unit.controlplane.harness import mesh, namespace, service

API = "/v1/objects/services/shop/api"
NOW = 1_760_000_000.0


def change(number: int = 0, size: int = 10) -> Change:
    value = msgspec.json.encode({"metadata": {"name": f"s{number}"}, "spec": "x" * size})
    return Change(Ref("Service", "shop", f"s{number}"), "configured", value, value)


def made(changes, room: int = 1_000_000):
    mark = Mark(name_of(NOW, "00000001"), "operator:admin", NOW, "apply", "e1")
    summary, objects = record(mark, changes, room)
    return (
        codec.decode_struct(Summary, summary.value),
        codec.decode_struct(history.Details, objects.value).objects,
        len(summary.value) + len(objects.value) + len(summary.key) + len(objects.key),
    )


def test_an_entry_names_every_object_and_holds_it_before_and_after():
    summary, objects, _ = made([change(1), Change(Ref("Namespace", "", "shop"), "created", None, b'{"a": 1}')])
    assert [(t.object, t.action) for t in summary.objects] == [
        ("Service shop/s1", "configured"),
        ("Namespace shop", "created"),
    ]
    assert (summary.more, objects[0].before == objects[0].after, objects[1].before) == (0, True, None)
    assert objects[1].after == {"a": 1}
    assert not any(detail.note for detail in objects)


def test_what_finds_no_room_is_said_to_be_left_out():
    _, objects, _ = made([change(1), change(2, size=history.OBJECTS_BYTES), change(3)])
    assert [bool(detail.note) for detail in objects] == [False, True, False]
    assert objects[1].before is objects[1].after is None
    many = [change(n) for n in range(5000)]
    summary, objects, _ = made(many)
    assert 0 < summary.more == 5000 - len(summary.objects)
    assert len(objects) < 5000


def test_a_value_that_was_never_readable_is_told_of():
    _, objects, _ = made([Change(Ref("Service", "shop", "x"), "deleted", b"\xffgarbage", None)])
    assert (objects[0].before, objects[0].note) == (None, history.UNREADABLE)


@given(st.lists(st.integers(0, 20_000), min_size=1, max_size=60), st.integers(4096, 1_400_000))
def test_an_entry_never_takes_more_room_than_there_is(sizes, room):
    _, _, size = made([change(n, size) for n, size in enumerate(sizes)], room)
    assert size <= room


def item(moment: float, unique: int = 0, size: int = 0) -> Item:
    value = codec.encode_struct(Summary(author="a", moment=moment, source="apply", size=size))
    return Item(keys.HISTORY_INDEX + name_of(moment, f"{unique:08x}"), value, Revision(7), Revision(7))


def test_the_oldest_entries_go_when_there_are_too_many_or_their_time_is_over():
    old = item(NOW - history.MAX_AGE_SECONDS - 1)
    young = [item(NOW - n, n) for n in range(history.MAX_ENTRIES + 2)]
    gone = surplus([*young, old], NOW)
    assert set(gone) == {old, *young[-2:]}
    assert surplus(young[:1000], NOW) == ()


def test_large_entries_are_kept_for_as_long_as_they_find_room():
    big = [item(NOW - n, n, size=history.MAX_TOTAL_BYTES // 4) for n in range(6)]
    assert set(surplus(big, NOW)) == set(big[3:])


def test_what_is_no_entry_does_not_stay_among_them():
    stray = Item(keys.HISTORY_INDEX + "stray", b"x", Revision(1), Revision(1))
    unreadable = Item(keys.HISTORY_INDEX + name_of(NOW, "00000002"), b"x", Revision(1), Revision(1))
    assert surplus([stray, unreadable], NOW) == (stray,)
    (plan,) = plan_history((stray,), NOW)
    assert list(plan.ops.values()) == [Delete(keys.HISTORY_INDEX + "stray"), Delete(keys.HISTORY_OBJECTS + "stray")]


def test_each_change_has_an_entry_at_its_own_revision(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            _, first = await cp.apply(namespace(), service())
            await cp.apply(namespace(), service())  # changes nothing
            await cp.apply(service("other"), dry_run=True)
            _, second = await cp.call("PUT", API, service(serviceAccounts=["other"]))
            await cp.call("DELETE", API)
            await cp.apply({"kind": "Nonsense"})
            status, found = await cp.call("GET", "/v1/history")
            assert status == 200
            deleted, put, applied = found["items"]
            assert applied["revision"] == first["revision"]
            assert str(put["revision"]) == second["metadata"]["resourceVersion"]
            assert [e["source"] for e in found["items"]] == ["delete", "put", "apply"]
            assert {e["author"] for e in found["items"]} == {"operator:admin"}
            assert [t["action"] for t in applied["objects"]] == ["created", "created"]
            assert deleted["objects"] == [{"object": "Service shop/api", "action": "deleted"}]
            status, shown = await cp.call("GET", f"/v1/history/{put['id']}")
            assert status == 200
            assert shown == (await cp.call("GET", f"/v1/history/{put['revision']}"))[1]
            (detail,) = shown["objects"]
            assert detail["before"]["spec"]["serviceAccounts"] == ["api"]
            assert detail["after"]["spec"]["serviceAccounts"] == ["other"]

    asyncio.run(run())


def test_pages_and_filters(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.apply(namespace())
            for n in range(5):
                await cp.apply(service(f"s{n % 2}", serviceAccounts=[f"a{n}"]))
            seen, query = [], ""
            while True:
                _, page = await cp.call("GET", f"/v1/history?limit=2{query}")
                seen += [e["revision"] for e in page["items"]]
                if not page["next"]:
                    break
                query = f"&before={page['next']}"
            assert len(seen) == 6
            assert seen == sorted(seen, reverse=True)
            _, some = await cp.call("GET", "/v1/history?object=Service/shop/s1")
            assert [e["objects"][0]["object"] for e in some["items"]] == ["Service shop/s1"] * 2
            assert len((await cp.call("GET", "/v1/history?object=Namespace/shop"))[1]["items"]) == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/history?limit=x", 400),
        ("/v1/history?limit=-1", 400),
        ("/v1/history?before=nonsense", 400),
        ("/v1/history?object=Nonsense/a/b", 400),
        ("/v1/history?object=Service/api", 400),
        ("/v1/history?object=Service/shop/", 400),
        ("/v1/history/999999", 404),
        ("/v1/history/1760000000000-00000000", 404),
        ("/v1/history/..%2f..%2fca", 404),
        ("/v1/history/index%2f", 404),
        ("/v1/history/" + "9" * 5000, 404),
    ],
)
def test_bad_questions_get_a_clear_answer(tmp_path, path, status):
    async def run():
        async with mesh(tmp_path) as cp:
            got, answer = await cp.call("GET", path)
            assert got == status
            assert answer["error"]

    asyncio.run(run())


def test_viewers_read_it_and_nobody_else(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.apply(namespace())
            viewer = await cp.operator("viewer")
            _, found = await cp.call("GET", "/v1/history", token=viewer)
            assert len(found["items"]) == 1
            assert (await cp.call("GET", f"/v1/history/{found['items'][0]['id']}", token=viewer))[0] == 200
            assert (await cp.call("GET", "/v1/history", token=None))[0] == 401
            await cp.add_node("n1")
            assert (await cp.call("GET", "/v1/history", tls=cp.node_tls("n1")))[0] == 403

    asyncio.run(run())


def test_an_entry_that_cannot_be_read_hides_no_other(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.apply(namespace())
            name = name_of(NOW, "00000000")
            await cp.store.txn((), (Put(keys.HISTORY_INDEX + name, b"garbage"),))
            _, found = await cp.call("GET", "/v1/history")
            assert len(found["items"]) == 1
            assert found["bad"][0]["key"].endswith(name)
            assert (await cp.call("GET", f"/v1/history/{name}"))[0] == 500

    asyncio.run(run())


def test_it_is_part_of_a_backup_and_has_no_revisions_after_a_restore(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            _, done = await cp.apply(namespace())
            lines = list(await dump(cp.store, cluster="c", trust_domain="mesh.test", now=NOW))
            fresh = MemoryStore()
            await restore(fresh, lines, overwrite=False, author="test", new_epoch="another", now=NOW)
            assert await _values(fresh) == await _values(cp.store)
            await restore(cp.store, lines, overwrite=True, author="test", new_epoch="another", now=NOW)
            _, found = await cp.call("GET", "/v1/history")
            assert found["items"][0]["revision"] == 0
            assert (await cp.call("GET", f"/v1/history/{done['revision']}"))[0] == 404
            assert (await cp.call("GET", f"/v1/history/{found['items'][0]['id']}"))[0] == 200

    asyncio.run(run())


async def _values(store) -> list[tuple[str, bytes]]:
    return [(i.key, i.value) for i in (await store.list(keys.HISTORY)).items]


def test_the_leader_trims_it(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            old = name_of(NOW - 400 * 86400, "00000000")
            puts = [Put(prefix + old, b"{}") for prefix in (keys.HISTORY_INDEX, keys.HISTORY_OBJECTS)]
            await cp.store.txn((), puts)
            await cp.apply(namespace())
            cp.node._reconciler._next_sweep = 0.0
            cp.node._reconciler._wake.set()

            async def gone() -> bool:
                listing = await cp.store.list(keys.HISTORY)
                return len(listing.items) == 2 and not any(old in i.key for i in listing.items)

            await aeventually(gone)

    asyncio.run(run())
