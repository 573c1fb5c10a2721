"""Objects that are refused for what their neighbours are: policies and routes that could do nothing there."""

import asyncio

import yaml

from mesh import keys
from mesh.model import Ref
from mesh.store.protocol import Put
from tests.unit.controlplane.harness import mesh, namespace, service

REQUESTS = """
timeouts: {request: 1s, connect: 1s}
retries: {attempts: 1}
rateLimits: [{name: a, requests: 1}]
faults: [{name: a, abort: {status: 503}}]
circuitBreaking: {maxConnections: 5, maxPendingRequests: 5, maxRequests: 5, maxRetries: 5, maxRequestsPerConnection: 5}
outlierDetection: {consecutiveErrors: 5}
"""
PATHS = {
    "spec.timeouts.request", "spec.retries", "spec.rateLimits", "spec.faults", "spec.circuitBreaking.maxRequests",
    "spec.circuitBreaking.maxRetries", "spec.circuitBreaking.maxRequestsPerConnection",
    "spec.outlierDetection.consecutiveErrors",
}  # fmt: skip

TCP = {"port": 5432, "name": "sql", "protocol": "tcp"}
HTTP = {"port": 80, "name": "web", "protocol": "http"}


def policy(spec, name="p", **target):
    return {
        "apiVersion": "holdfast.dev/v1",
        "kind": "TrafficPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"target": {"service": "db", **target}, **yaml.safe_load(spec)},
    }


def external(name="db", **more):
    spec = {"hosts": ["db.example"], "ports": [{"port": 5432, "protocol": "tcp"}], **more}
    meta = {"name": name, "namespace": "shop"}
    return {"apiVersion": "holdfast.dev/v1", "kind": "ExternalService", "metadata": meta, "spec": spec}


def route(kind="HTTPRoute", parent=None, to="api", namespace="shop"):
    parent = {"group": "", "kind": "Service", "name": "db", **(parent or {})}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": "r", "namespace": namespace},
        "spec": {"parentRefs": [parent], "rules": [{"backendRefs": [{"name": to, "port": 80}]}]},
    }


def paths(answer):
    return {violation["path"] for violation in answer["violations"]}


def test_what_ports_of_tcp_cannot_have_is_refused(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.apply(namespace(), service("db", ports=[TCP]))
            before = await cp.store.revision()
            status, answer = await cp.apply(policy(REQUESTS))
            assert (status, paths(answer)) == (422, PATHS)
            for violation in answer["violations"]:
                assert violation["object"] == "TrafficPolicy shop/p"
                assert "protocol tcp" in violation["reason"]
                assert "Service db.shop" in violation["reason"]
            assert await cp.store.revision() == before
            # In one call with the Service, too; and one port of several.
            both = service("both", ports=[TCP, HTTP])
            named = policy(REQUESTS, service="both", port=5432)
            assert paths((await cp.apply(both, named))[1]) == PATHS
            assert await cp.store.revision() == before
            kept = policy("timeouts: {connect: 1s, idle: 60s}\ncircuitBreaking: {maxConnections: 5}")
            assert (await cp.apply(kept))[0] == 200

    asyncio.run(run())


def test_ports_of_several_protocols_have_what_they_can_and_the_status_names_the_others(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            assert (await cp.apply(namespace(), service("db", ports=[TCP, HTTP]), policy(REQUESTS)))[0] == 200

            async def honoured():
                got = (await cp.call("GET", "/v1/objects/trafficpolicies/shop/p"))[1]
                return next((c for c in got["status"]["conditions"] if c["type"] == "Honoured"), None)

            def settled(found):
                return found is not None and found["status"] == "False"

            found = await until(honoured, settled)
            assert found["reason"] == "UnsupportedProtocol"
            for path in PATHS:
                assert f"{path} not at 5432" in found["message"], path
            await cp.apply(service("db", ports=[HTTP]))
            found = await until(honoured, lambda found: found["status"] == "True")
            assert not found["message"]

    asyncio.run(run())


async def until(ask, fine, seconds=10.0):
    async with asyncio.timeout(seconds):
        while not fine(found := await ask()):
            await asyncio.sleep(0.01)
    return found


def test_what_cannot_be_had_outside_of_the_mesh_is_refused(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            said = "healthCheck: {}\nlocality: {}\nsubsets: [{name: a, labels: {a: b}}]\ntimeouts: {connect: 1s}"
            status, answer = await cp.apply(namespace(), external(), policy(said))
            assert (status, paths(answer)) == (422, {"spec.healthCheck", "spec.locality", "spec.subsets"})
            # A Service of that name comes first, and can have them.
            assert (await cp.apply(namespace(), external(), service("db", ports=[TCP]), policy(said)))[0] == 200

    asyncio.run(run())


def test_a_route_cannot_hang_on_an_external_service(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.apply(namespace(), namespace("web"), external())
            before = await cp.store.revision()
            for kind in ("HTTPRoute", "GRPCRoute", "TCPRoute"):
                for bad in (route(kind), route(kind, {"namespace": "shop"}, namespace="web")):
                    status, answer = await cp.apply(bad)
                    assert (status, paths(answer)) == (422, {"spec.parentRefs[0].name"}), kind
                    assert "ExternalService" in answer["violations"][0]["reason"]
                status, answer = await cp.apply(route(kind, {"group": "holdfast.dev", "kind": "ExternalService"}))
                assert status == 422
                assert paths(answer) == {"spec.parentRefs[0].kind"}
            assert await cp.store.revision() == before
            assert (await cp.apply(service("db", ports=[HTTP]), route()))[0] == 200
            # What is not there yet may come.
            assert (await cp.apply(route(parent={"name": "later"})))[0] == 200

    asyncio.run(run())


def test_a_stored_policy_that_would_be_refused_today_hinders_nobody(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.apply(namespace(), service("db", ports=[HTTP]), policy(REQUESTS))
            assert (await cp.apply(service("db", ports=[TCP])))[0] == 200
            assert (await cp.call("DELETE", "/v1/objects/trafficpolicies/shop/p"))[0] == 200
            await cp.store.txn([], [Put(keys.key_for(Ref("Service", "shop", "db")), b"no json")])
            assert (await cp.apply(policy(REQUESTS)))[0] == 200

    asyncio.run(run())
