"""Objects through the API, over real TLS, on a store in memory."""

import asyncio

import msgspec
import pytest

from mesh import keys
from mesh.model import Ref
from mesh.store.protocol import Put
from tests.unit.controlplane.harness import SHORT, mesh, namespace, service

API = "/v1/objects/services/shop/api"


def test_an_object_lives_through_put_get_list_delete(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            assert (await cp.apply(namespace()))[1]["results"] == [{"object": "Namespace shop", "action": "created"}]
            status, made = await cp.call("PUT", API, service())
            assert status == 201
            assert made["metadata"]["uid"]
            assert made["metadata"]["generation"] == 1
            status, got = await cp.call("GET", API)
            assert (status, got["metadata"]["resourceVersion"]) == (200, made["metadata"]["resourceVersion"])
            status, listed = await cp.call("GET", "/v1/objects/services?namespace=shop")
            assert [item["metadata"]["name"] for item in listed["items"]] == ["api"]
            assert listed["revision"] >= int(got["metadata"]["resourceVersion"])
            assert (await cp.call("DELETE", API))[0] == 200
            assert (await cp.call("GET", API))[0] == 404
            assert (await cp.call("DELETE", API))[0] == 404

    asyncio.run(run())


def test_a_stale_resource_version_is_a_conflict_and_writes_nothing(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.apply(namespace(), service())
            _, old = await cp.call("GET", API)
            old.pop("status", None)
            newer = service(serviceAccounts=["other"])
            assert (await cp.call("PUT", API, newer))[0] == 200
            status, answer = await cp.call("PUT", API, old)
            assert status == 409
            assert answer["conflicts"] == ["Service shop/api"]
            assert answer["hint"]
            assert (await cp.call("GET", API))[1]["spec"]["serviceAccounts"] == ["other"]
            version = old["metadata"]["resourceVersion"]
            assert (await cp.call("DELETE", f"{API}?resourceVersion={version}"))[0] == 409

    asyncio.run(run())


def test_an_unchanged_object_causes_no_write(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            _, first = await cp.apply(namespace(), service())
            _, again = await cp.apply(namespace(), service())
            assert {r["action"] for r in again["results"]} == {"unchanged"}
            item = await cp.store.get(keys.key_for(Ref("Service", "shop", "api")))
            assert item.revision == first["revision"]
            assert (await cp.store.get(keys.COMMIT)).revision == first["revision"]

    asyncio.run(run())


def test_all_violations_of_all_objects_come_at_once_and_nothing_is_written(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            bad = service("b")
            bad["spec"]["prots"] = []
            bad["spec"]["ports"] = [{"port": "eighty"}]
            worse = service("../x")
            before = await cp.store.revision()
            status, answer = await cp.apply(
                namespace(), service(), bad, worse, {"kind": "Nonsense", "apiVersion": "v1"}
            )
            assert status == 422
            found = {(v["object"], v["path"]) for v in answer["violations"]}
            assert ("Service shop/b", "spec.prots") in found
            assert ("Service shop/b", "spec.ports[0].port") in found
            assert any(path == "metadata.name" for _, path in found)
            assert any(path == "kind" for _, path in found)
            assert await cp.store.revision() == before

    asyncio.run(run())


@pytest.mark.parametrize(
    "name", ["..", ".", "a%2fb", "%2e%2e", "a%0ab", "x" * 10_000, "A", "a%00b", "%2f", "a%5cb", "%ff"]
)
def test_hostile_names_are_refused_and_nothing_is_written(tmp_path, name):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.apply(namespace())
            before = await cp.store.revision()
            for method in ("PUT", "GET", "DELETE"):
                status, _ = await cp.call(
                    method, f"/v1/objects/services/shop/{name}", service() if method == "PUT" else None
                )
                assert status in {400, 404, 405, 422}, (method, status)
            assert await cp.store.revision() == before
            assert (await cp.call("GET", "/healthz", token=None))[0] == 200

    asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"", 400),
        (b"\xff\xfe", 400),
        (b"[" * 100_000, 400),
        (b"null", 422),
        (b"[]", 422),
        (b'{"objects": 5}', 422),
        (b'{"objects": [], "surprise": 1}', 422),
        (b'{"objects": [1, null, "x", []]}', 422),
        (b'{"delete": [{"kind": "Service"}]}', 422),
        (b'{"delete": [{"kind": "Service", "name": "../x", "namespace": "shop"}]}', 422),
        (b'{"delete": [{"kind": "MeshConfig", "name": "default"}]}', 422),
        (b'{"objects": "' + b"x" * 10_000_000 + b'"}', 413),
    ],
)
def test_bad_bodies_get_a_clear_answer(tmp_path, body, status):
    async def run():
        async with mesh(tmp_path) as cp:
            before = await cp.store.revision()
            got, answer = await cp.call("POST", "/v1/apply", body)
            assert got == status
            assert answer["error"]
            assert await cp.store.revision() == before
            assert (await cp.call("GET", "/v1/kinds"))[0] == 200

    asyncio.run(run())


def test_a_value_that_cannot_be_read_is_reported_and_its_neighbours_are_listed(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.apply(namespace(), service("a"), service("c"))
            key = keys.key_for(Ref("Service", "shop", "b"))
            await cp.store.txn((), (Put(key, b"\x00garbage"),))
            status, listed = await cp.call("GET", "/v1/objects/services")
            assert status == 200
            assert [item["metadata"]["name"] for item in listed["items"]] == ["a", "c"]
            assert [bad["key"] for bad in listed["bad"]] == [key]
            assert listed["bad"][0]["reason"]
            status, answer = await cp.call("GET", "/v1/objects/services/shop/b")
            assert status == 500
            assert key in answer["error"]
            assert answer["hint"]
            # Applying it again heals it.
            assert (await cp.apply(service("b")))[1]["results"][0]["action"] == "configured"
            assert (await cp.call("GET", "/v1/objects/services/shop/b"))[0] == 200

    asyncio.run(run())


def test_a_call_beyond_the_transaction_limit_is_refused_whole(tmp_path):
    async def run():
        async with mesh(tmp_path, limits=SHORT) as cp:
            await cp.apply(namespace())
            before = await cp.store.revision()
            status, answer = await cp.apply(*[service(f"s{n}") for n in range(30)])
            assert status == 422
            assert "split the call" in answer["violations"][0]["reason"]
            assert await cp.store.revision() == before

    asyncio.run(run())


def test_a_namespace_must_be_there_and_be_empty_before_it_goes(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            status, answer = await cp.apply(service())
            assert status == 422
            assert "apply a Namespace" in answer["violations"][0]["reason"]
            assert (await cp.apply(service(namespace="default")))[0] == 200
            await cp.apply(namespace(), service())
            status, answer = await cp.call("DELETE", "/v1/objects/namespaces/shop")
            assert status == 422
            assert "still holds 1" in answer["violations"][0]["reason"]
            both = [
                {"kind": "Namespace", "name": "shop"},
                {"kind": "Service", "name": "api", "namespace": "shop"},
            ]
            status, answer = await cp.apply(delete=both)
            assert status == 200
            assert {r["action"] for r in answer["results"]} == {"deleted"}

    asyncio.run(run())


def test_the_trust_domain_cannot_change(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            _, config = await cp.call("GET", "/v1/objects/meshconfigs/default")
            config["spec"]["trustDomain"] = "other.test"
            status, answer = await cp.apply(config)
            assert status == 422
            assert answer["violations"][0]["path"] == "spec.trustDomain"

    asyncio.run(run())


def test_runtime_records_are_not_written_by_operators(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            endpoint = {
                "apiVersion": "holdfast.dev/v1",
                "kind": "Endpoint",
                "metadata": {"name": "x", "namespace": "shop"},
                "spec": {"service": "api", "node": "n", "address": "10.0.0.1", "serviceAccount": "api"},
            }
            status, answer = await cp.apply(namespace(), endpoint)
            assert status == 422
            assert "control plane itself" in str(answer["violations"])

    asyncio.run(run())


def test_deletions_are_declared(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.apply(namespace(), service("a"), service("b"))
            refs = [{"kind": "Service", "namespace": "shop", "name": name} for name in ("a", "b")]
            _, answer = await cp.apply(delete=refs)
            commit = msgspec.json.decode((await cp.store.get(keys.COMMIT, at=answer["revision"])).value)
            assert commit == {"author": "operator:admin", "deleted": 2}
            assert msgspec.json.decode((await cp.store.get(keys.DELETIONS)).value) == {"total": 2}

    asyncio.run(run())


def test_a_dry_run_tells_and_writes_nothing(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            before = await cp.store.revision()
            status, answer = await cp.apply(namespace(), service(), dry_run=True)
            assert status == 200
            assert [r["action"] for r in answer["results"]] == ["created", "created"]
            assert await cp.store.revision() == before

    asyncio.run(run())


def test_lists_select_by_label(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            one, two = service("one"), service("two")
            one["metadata"]["labels"] = {"tier": "front", "app": "x"}
            two["metadata"]["labels"] = {"tier": "back", "app": "x"}
            await cp.apply(namespace(), one, two)
            _, got = await cp.call("GET", "/v1/objects/services?labelSelector=app%3Dx,tier%3Dback")
            assert [item["metadata"]["name"] for item in got["items"]] == ["two"]
            assert (await cp.call("GET", "/v1/objects/services?labelSelector=nonsense"))[0] == 400

    asyncio.run(run())


def test_body_and_path_must_agree(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.apply(namespace())
            status, answer = await cp.call("PUT", "/v1/objects/services/shop/other", service())
            assert status == 422
            assert answer["violations"][0]["path"] == "metadata.name"
            assert (await cp.call("GET", "/v1/objects/services/shop/other"))[0] == 404

    asyncio.run(run())


def test_the_store_away_is_a_503_with_a_hint(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            token = cp.admin
            cp.store.down = True
            status, answer = await cp.call("GET", "/v1/objects/services", token=token)
            assert status == 503
            assert answer["hint"]
            assert (await cp.call("GET", "/healthz", token=None))[0] == 200
            cp.store.down = False
            assert (await cp.call("GET", "/v1/objects/services", token=token))[0] == 200

    asyncio.run(run())


def test_what_is_written_and_does_not_do_what_it_says_is_told(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.apply(namespace(), service("a"))
            lost = route("lost", "nobody")
            for dry_run in (True, False):  # a dry run tells it before it is written
                status, answer = await cp.apply(lost, route("found", "a"), dry_run=dry_run)
                assert status == 200
                assert {warning["object"] for warning in answer["warnings"]} == {"HTTPRoute shop/lost"}
                told = {warning["condition"]: warning["reason"] for warning in answer["warnings"]}
                assert told == {"Accepted": "NoMatchingParent", "ResolvedRefs": "BackendNotFound"}
                assert all("nobody.shop" in warning["message"] for warning in answer["warnings"])
            # It is told again when nothing changes, and no more as soon as what lacked is in the same call.
            assert len((await cp.apply(lost))[1]["warnings"]) == 2
            assert (await cp.apply(lost, service("nobody")))[1]["warnings"] == []

    asyncio.run(run())


def route(name: str, parent: str) -> dict[str, object]:
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": parent}],
            "rules": [{"backendRefs": [{"name": parent, "port": 80}]}],
        },
    }
