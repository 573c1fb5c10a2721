"""Watches as NDJSON."""

import asyncio

import msgspec

from controlplane.settings import Limits
from mesh import keys
from mesh.model import Ref
from mesh.store.protocol import Put
from tests.support.waiting import aeventually
from tests.unit.controlplane.harness import mesh, namespace, service


class Reader:
    def __init__(self, response):
        self.response = response

    async def next(self):
        async with asyncio.timeout(10):
            line = await self.response.content.readline()
        return msgspec.json.decode(line) if line else None

    async def end(self):
        while (line := await self.next()) is not None:
            assert line["type"] == "mark"

    async def until_mark(self, revision):
        """All changes up to a mark at or behind this revision."""
        seen = []
        while True:
            line = await self.next()
            if line["type"] == "mark":
                if line["revision"] >= revision:
                    return seen
            else:
                seen.append((line["type"], line["object"]["metadata"]["name"]))


def test_changes_come_in_order_and_a_mark_behind_each_revision(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.apply(namespace())
            async with cp.request("GET", "/v1/watch/services?namespace=shop", token=cp.admin) as response:
                assert response.status == 200
                reader = Reader(response)
                assert (await reader.next())["type"] == "mark"
                _, done = await cp.apply(service("a"), service("b"))
                assert await reader.until_mark(done["revision"]) == [("put", "a"), ("put", "b")]
                _, done = await cp.call("DELETE", "/v1/objects/services/shop/a")
                assert await reader.until_mark(done["revision"]) == [("delete", "a")]

    asyncio.run(run())


def test_a_watch_resumes_where_it_was(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            _, first = await cp.apply(namespace(), service("a"))
            _, second = await cp.apply(service("b"))
            _, third = await cp.apply(service("c"))
            path = f"/v1/watch/services?revision={first['revision'] + 1}"
            async with cp.request("GET", path, token=cp.admin) as response:
                assert await Reader(response).until_mark(third["revision"]) == [("put", "b"), ("put", "c")]
            assert second["revision"] == first["revision"] + 1

    asyncio.run(run())


def test_a_revision_that_is_gone_is_410(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            _, first = await cp.apply(namespace(), service("a"))
            _, last = await cp.apply(service("b"))
            cp.store.compact(last["revision"])
            status, answer = await cp.call("GET", f"/v1/watch/services?revision={first['revision']}")
            assert status == 410
            assert "list again" in answer["hint"]
            assert (await cp.call("GET", f"/v1/watch/services?revision={last['revision'] + 1000}"))[0] == 410
            assert (await cp.call("GET", "/v1/watch/services?revision=-5"))[0] == 400
            assert (await cp.call("GET", "/v1/watch/nonsense"))[0] == 404

    asyncio.run(run())


def test_garbage_is_told_and_its_neighbours_come_on(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.apply(namespace())
            async with cp.request("GET", "/v1/watch/services", token=cp.admin) as response:
                reader = Reader(response)
                await reader.next()
                await cp.store.txn((), (Put(keys.key_for(Ref("Service", "shop", "bad")), b"{"),))
                _, done = await cp.apply(service("good"))
                assert await reader.until_mark(done["revision"]) == [("bad", "bad"), ("put", "good")]

    asyncio.run(run())


def test_a_broken_store_ends_the_stream_and_the_client_may_come_again(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.apply(namespace())
            async with cp.request("GET", "/v1/watch/services", token=cp.admin) as response:
                reader = Reader(response)
                mark = (await reader.next())["revision"]
                cp.store.break_watches()
                await reader.end()
            _, done = await cp.apply(service("a"))
            async with cp.request("GET", f"/v1/watch/services?revision={mark + 1}", token=cp.admin) as response:
                assert await Reader(response).until_mark(done["revision"]) == [("put", "a")]
            await aeventually(lambda: cp.context.open_watches == 0)

    asyncio.run(run())


def test_no_more_watches_than_allowed(tmp_path):
    async def run():
        async with (
            mesh(tmp_path, limits=Limits(watches=1)) as cp,
            cp.request("GET", "/v1/watch/services", token=cp.admin) as response,
        ):
            await Reader(response).next()
            status, answer = await cp.call("GET", "/v1/watch/services")
            assert status == 429
            assert answer["hint"]

    asyncio.run(run())
