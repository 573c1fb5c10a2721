"""The apply that comes into force whole or is undone, with agents that judge and report as they are told."""

import asyncio
import io
import threading
import time
from contextlib import asynccontextmanager

import msgspec
import pytest

from controlplane.admission import cannot_undo, undo
from controlplane.asking import OFFLINE, Heard, Told
from controlplane.checked import verdict
from controlplane.history import Change
from mesh import codec, keys
from mesh.model import Ref, Revision
from mesh.model.uplink import Judged, Planned, Rejected
from mesh.store.protocol import Put
from tests.support.waiting import aeventually
from tests.unit.controlplane.harness import agent, mesh, namespace, say, service
from tests.unit.controlplane.test_api_wait import epoch

GOOD = codec.encode_struct(Judged()).decode()
BAD = codec.encode_struct(Judged(refused="no such regex", objects={"Service shop/api": "no such regex"})).decode()


async def checked(cp, *objects, delete=(), token=None, **more) -> tuple[int, list]:
    body = msgspec.json.encode({"objects": list(objects), "delete": list(delete), **more})
    async with cp.request("POST", "/v1/apply/checked", token=token or cp.admin, data=io.BytesIO(body)) as response:
        return response.status, [msgspec.json.decode(line) for line in (await response.read()).splitlines()]


class Proxy:
    """One agent that puts everything in force at once, and refuses what it is told to."""

    def __init__(self, cp, ws) -> None:
        self._cp, self._ws = cp, ws
        self.refuses: dict[str, str] = {}
        self.lags = False
        """It sees everything, and puts nothing in force."""

    async def follow(self) -> None:
        history_of_store = await epoch(self._cp)
        while True:
            revision = await self._cp.store.revision()
            rejected = tuple(Rejected(object=name, reason=why) for name, why in self.refuses.items())
            await say(
                self._ws, node="n1", epoch=history_of_store, observed=revision,
                applied=0 if self.lags else revision, phase="serving", envoy="live", rejected=rejected,
            )  # fmt: skip
            await asyncio.sleep(0.2)


@asynccontextmanager
async def shop(tmp_path, judge=GOOD):
    async with mesh(tmp_path) as cp:
        await cp.add_node("n1")
        await cp.apply(namespace(), service("old"))
        async with agent(cp, "n1", answers={"judge": judge}) as ws:
            proxy = Proxy(cp, ws)
            following = asyncio.create_task(proxy.follow())
            await aeventually(lambda: cp.context.uplinks.told > 1)
            try:
                yield cp, proxy
            finally:
                following.cancel()


async def stored(cp, *names: str) -> dict[str, bytes | None]:
    found = await cp.store.get_many([keys.key_for(Ref("Service", "shop", name)) for name in names])
    return {name: item.value if item else None for name, item in zip(names, found, strict=True)}


def test_what_every_envoy_takes_is_written_and_waited_for(tmp_path):
    async def run():
        async with shop(tmp_path) as (cp, _):
            status, lines = await checked(cp, service())
            assert status == 200
            assert [line["step"] for line in lines][:2] == ["judged", "written"]
            end = lines[-1]
            assert (end["outcome"], end["progress"]["inForce"]) == ("in force", 1)
            assert (await stored(cp, "api"))["api"]
            assert '"outcome":"in force"' in cp.audit_text()

    asyncio.run(run())


def test_what_one_envoy_refuses_is_not_written(tmp_path):
    async def run():
        async with shop(tmp_path, judge=BAD) as (cp, _):
            before = (await cp.store.get(keys.COMMIT)).revision
            status, lines = await checked(cp, service())
            assert status == 200
            end = lines[-1]
            assert end["outcome"] == "refused"
            assert end["refusals"] == [
                {"node": "n1", "reason": "no such regex", "objects": {"Service shop/api": "no such regex"}}
            ]
            assert (await cp.store.get(keys.COMMIT)).revision == before

    asyncio.run(run())


@pytest.mark.parametrize("judge", [None, "nonsense"])
def test_who_is_connected_and_cannot_be_asked_stops_it(tmp_path, judge):
    async def run():
        async with shop(tmp_path, judge=judge) as (cp, _):
            _, lines = await checked(cp, service())
            assert (lines[-1]["outcome"], lines[-1]["unknown"][0]["node"]) == ("unknown", "n1")
            assert (await stored(cp, "api"))["api"] is None

    asyncio.run(run())


def test_what_a_proxy_refuses_after_all_is_put_back_to_the_byte(tmp_path):
    async def run():
        async with shop(tmp_path) as (cp, proxy):
            await cp.apply(service("kept"))
            before = await stored(cp, "api", "old", "kept")
            proxy.refuses = {"Service shop/kept": "address in use"}
            removal = {"kind": "Service", "namespace": "shop", "name": "old"}
            _, lines = await checked(cp, service(), service("kept", serviceAccounts=["other"]), delete=[removal])
            end = lines[-1]
            assert end["outcome"] == "put back"
            assert end["progress"]["rejected"][0]["reason"] == "address in use"
            assert await stored(cp, "api", "old", "kept") == before
            _, found = await cp.call("GET", "/v1/history?limit=2")
            revert, tried = found["items"]
            assert (revert["source"], revert["revision"]) == ("revert", end["back"]["revision"])
            assert tried["revision"] == end["revision"]

    asyncio.run(run())


def test_what_somebody_changed_meanwhile_is_not_put_back(tmp_path):
    async def run():
        async with shop(tmp_path) as (cp, proxy):
            proxy.lags = True
            working = asyncio.create_task(checked(cp, service(), seconds=20))

            async def written() -> bool:
                return (await stored(cp, "api"))["api"] is not None

            await aeventually(written)
            await cp.apply(service(serviceAccounts=["theirs"]))
            proxy.refuses = {"Service shop/api": "no"}
            _, lines = await working
            assert lines[-1]["outcome"] == "not put back"
            assert "somebody else changed Service shop/api" in lines[-1]["reasons"][0]
            assert b"theirs" in (await stored(cp, "api"))["api"]

    asyncio.run(run())


def test_a_proxy_that_does_not_get_there_is_named_and_the_change_stays(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.add_node("n1")
            await cp.apply(namespace())
            async with agent(cp, "n1", answers={"judge": GOOD}):
                await aeventually(lambda: cp.context.uplinks.connections())
                _, lines = await checked(cp, service(), seconds=1)
                assert lines[-1]["outcome"] == "waiting"
                assert lines[-1]["progress"]["waiting"][0]["node"] == "n1"
                assert (await stored(cp, "api"))["api"]

    asyncio.run(run())


def test_what_was_judged_is_what_is_written(tmp_path):
    """Somebody changes an object while it is judged: the new state is judged again."""

    async def run():
        loop, judged = asyncio.get_running_loop(), []

        def judge(body: str) -> str:
            judged.append(body)
            if len(judged) == 1:
                changing = cp.apply(service(serviceAccounts=["theirs"]))
                asyncio.run_coroutine_threadsafe(changing, loop).result(10)
            return GOOD

        async with shop(tmp_path, judge=judge) as (cp, _):
            await cp.apply(service())
            _, lines = await checked(cp, service(serviceAccounts=["mine"]))
            assert lines[-1]["outcome"] == "in force"
            assert len(judged) == 2
            pinned = (await cp.call("GET", "/v1/objects/services/shop/api"))[1]
            pinned.pop("status")
            pinned["spec"]["serviceAccounts"] = ["late"]
            judged.clear()
            _, lines = await checked(cp, pinned)
            assert lines[-1]["outcome"] == "conflict"
            assert "somebody else changed" in lines[-1]["reasons"][0]

    asyncio.run(run())


def test_it_goes_on_when_the_client_goes_away(tmp_path):
    async def run():
        async with shop(tmp_path) as (cp, proxy):
            proxy.refuses = {"Service shop/api": "no"}
            body = msgspec.json.encode({"objects": [service()], "seconds": 30})
            async with cp.request("POST", "/v1/apply/checked", token=cp.admin, data=io.BytesIO(body)) as response:
                await response.content.readline()

            async def undone() -> bool:
                _, found = await cp.call("GET", "/v1/history?limit=1")
                return found["items"][0]["source"] == "revert"

            await aeventually(undone)
            assert (await stored(cp, "api"))["api"] is None

    asyncio.run(run())


def test_input_is_checked_like_an_apply_and_only_admins_may(tmp_path):
    async def run():
        async with shop(tmp_path) as (cp, _):
            bad = service()
            bad["spec"]["portz"] = 1
            assert (await checked(cp, bad))[0] == 422
            assert (await checked(cp, service(), seconds=-1))[0] == 422
            assert (await checked(cp, service(), dryRun=True))[0] == 422
            stale = service("old")
            stale["metadata"]["resourceVersion"] = "1"
            assert (await checked(cp, stale))[0] == 409
            assert (await checked(cp, service(), token=await cp.operator("viewer")))[0] == 403
            key = keys.key_for(Ref("Service", "shop", "broken"))
            await cp.store.txn((), (Put(key, b"garbage"),))
            status, lines = await checked(cp, service("broken"))
            assert status == 422
            assert "could not be put back" in str(lines)

    asyncio.run(run())


def test_what_concerns_no_proxy_is_written_at_once(tmp_path):
    async def run():
        async with shop(tmp_path, judge=BAD) as (cp, _):
            node = {"apiVersion": "holdfast.dev/v1", "kind": "Node", "metadata": {"name": "n9"}, "spec": {}}
            _, lines = await checked(cp, node)
            assert (lines[-1]["outcome"], lines[-1]["waitFor"]) == ("in force", 0)

    asyncio.run(run())


def test_offline_hosts_stop_it_only_if_all_are_required():
    heard = Heard({"a": Told(node="a", body=GOOD)}, {"b": OFFLINE, "c": "its control-plane node was not reached"})
    found = verdict(heard, require_all=False)
    assert (found.asked, found.offline, set(found.unknown)) == (1, ("b",), {"c"})
    assert set(verdict(heard, require_all=True).unknown) == {"b", "c"}


def test_undoing_needs_what_was_written_to_be_there_still():
    value = codec.encode(codec.decode_strict(service()))
    refs = [Ref("Service", "shop", name) for name in ("api", "made", "gone")]
    back = undo(
        [
            Change(refs[0], "configured", value, value),
            Change(refs[1], "created", None, value),
            Change(refs[2], "deleted", value, None),
        ],
        Revision(9),
    )
    assert [obj.metadata.resource_version for obj in back.objects] == ["9", "0"]
    assert [(r.name, r.resource_version) for r in back.removals] == [("made", "9")]
    assert cannot_undo([Change(refs[0], "configured", b"garbage", value)])
    assert not cannot_undo([Change(refs[1], "created", None, value)])


def test_whoever_only_looks_keeps_no_change_out(tmp_path):
    """A viewer plans again and again; each time every host is busy for a while."""

    def slow(_: str) -> str:
        time.sleep(0.3)
        return codec.encode_struct(Planned(revision=1)).decode()

    async def run():
        async with mesh(tmp_path) as cp:
            viewer = await cp.operator("viewer")
            await cp.add_node("n1")
            await cp.apply(namespace())
            seen = []

            async def look():
                while True:
                    body = {"objects": [service("looked-at")]}
                    seen.append((await cp.call("POST", "/v1/plan", body, token=viewer))[0])

            async with agent(cp, "n1", answers={"judge": GOOD, "plan": slow}):
                await aeventually(lambda: cp.context.uplinks.connections())
                looking = [asyncio.create_task(look()) for _ in range(3)]
                await aeventually(lambda: 200 in seen)
                for number in range(5):
                    status, lines = await checked(cp, service(f"wanted-{number}"), seconds=0)
                    assert status == 200
                    assert "written" in [line["step"] for line in lines]
                for task in looking:
                    task.cancel()
            assert 429 in seen

    asyncio.run(run())


def test_of_two_changes_at_once_the_second_is_told_to_come_again(tmp_path):
    judged = threading.Event()

    def slow(_: str) -> str:
        judged.wait(30)
        return GOOD

    async def run():
        async with shop(tmp_path, judge=slow) as (cp, _):
            first = asyncio.create_task(checked(cp, service("one")))
            await aeventually(lambda: cp.context.asking.turns.changing)
            body = {"objects": [service("two")]}
            try:
                status, answer = await cp.call("POST", "/v1/apply/checked", body)
            finally:
                judged.set()
            assert (status, answer["error"]) == (429, "another change is being judged")
            assert (await first)[1][-1]["outcome"] == "in force"
            assert (await checked(cp, service("two")))[1][-1]["outcome"] == "in force"

    asyncio.run(run())
