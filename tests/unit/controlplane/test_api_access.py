"""Who may use which route, over real TLS."""

import asyncio
import random
import ssl
import time

import aiohttp
import pytest

from ca.authority import Authority
from ca.seal import Cipher
from ca.signer.memory import MemorySigner
from controlplane import auth
from controlplane.api.app import ROUTES
from controlplane.auth import MATRIX, Anonymous, NodeCaller, Operator, ReplicaCaller, allowed
from mesh import keys
from tests.support.waiting import aeventually
from tests.unit.controlplane.harness import DOMAIN, SEAL_KEY, mesh, namespace

PARTS = {"{plural}": "services", "{namespace}": "shop", "{name}": "api", "{node}": "n1", "{entry}": "1"}


def path_for(route: str) -> str:
    for name, value in PARTS.items():
        route = route.replace(name, value)
    return route


def test_every_route_has_a_row_and_every_row_a_route():
    assert {(method, path) for method, path, _ in ROUTES} == set(MATRIX)


def test_open_to_anybody_is_only_what_has_its_own_proof():
    open_routes = {path for (_, path), who in MATRIX.items() if "anybody" in who}
    dist = {"/install.py", "/v1/dist/manifest.json", "/v1/dist/{path}"}  # not secret, and pinned by whoever fetches it
    peers = {"/v1/trust-bundle", "/v1/peering/establish"}  # public keys; and a peering token is the proof
    assert open_routes == {"/healthz", "/readyz", "/v1/roots", "/v1/join", "/v1/renew"} | dist | peers


def test_what_is_not_in_the_matrix_is_refused_to_all():
    for caller in (Anonymous(), Operator("a", "admin"), NodeCaller("n"), ReplicaCaller("r")):
        assert not allowed("GET", "/v1/nowhere", caller)
        assert not allowed("PATCH", "/v1/apply", caller)


def test_each_route_answers_each_caller_as_the_matrix_says(tmp_path):
    """Refused with 401 or 403 if and only if the matrix does not allow it."""

    async def run():
        async with mesh(tmp_path) as cp:
            await cp.add_node("n1", "shop/api")
            await cp.apply(namespace())
            viewer = await cp.operator("viewer")
            callers = {
                Anonymous(): {"token": None},
                Operator("x", "viewer"): {"token": viewer},
                Operator("x", "admin"): {"token": cp.admin},
                NodeCaller("n1"): {"tls": cp.node_tls("n1")},
                ReplicaCaller("cp2"): {"tls": cp.cert_tls("/controlplane/cp2")},
            }
            for method, path, _ in ROUTES:
                if path.startswith("/v1/watch") or path == "/v1/ca/rotate":
                    continue  # a stream, below; and a change of the CA
                for caller, proof in callers.items():
                    body = b"{}" if method in {"PUT", "POST"} else None
                    async with cp.request(method, path_for(path), data=body, **proof) as response:
                        refused = response.status in {401, 403} and b"join token" not in await response.read()
                        assert refused != allowed(method, path, caller), (method, path, caller, response.status)

    asyncio.run(run())


def test_a_workload_is_not_a_node(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            status, answer = await cp.call(
                "POST", "/v1/register", {"instances": []}, tls=cp.cert_tls("/ns/shop/sa/api")
            )
            assert status == 401
            assert "neither a node" in answer["error"]

    asyncio.run(run())


def test_less_than_tls_1_3_does_not_pass_the_handshake(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            old = cp.anonymous_tls()
            old.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises(aiohttp.ClientError):
                await cp.call("GET", "/healthz", tls=old)
            status, _ = await cp.call("GET", "/healthz", tls=cp.anonymous_tls())
            assert status == 200

    asyncio.run(run())


def test_a_certificate_of_another_root_does_not_pass_the_handshake(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            foreign = Authority(
                MemorySigner(DOMAIN, clock=time.time),
                trust_domain=DOMAIN,
                replica="cp1",
                directory=tmp_path / "foreign",
                cipher=Cipher([SEAL_KEY]),
                clock=time.time,
                rng=random.Random(1),
            )
            (tmp_path / "foreign").mkdir()
            await foreign.start()
            with pytest.raises(Exception, match=r"(?i)alert|reset|ssl|disconnected"):
                await cp.call("GET", "/healthz", tls=cp.node_tls("n1", foreign))
            assert (await cp.call("GET", "/healthz", tls=cp.node_tls("n1")))[0] == 200

    asyncio.run(run())


@pytest.mark.parametrize(
    "header", ["Basic eA==", "Bearer", "Bearer ", "Bearer hfo1.x", "Bearer " + "x" * 5000, "hfo1.y"]
)
def test_bad_tokens_are_refused(tmp_path, header):
    async def run():
        async with (
            mesh(tmp_path) as cp,
            cp.request("GET", "/v1/kinds", headers={"Authorization": header}) as response,
        ):
            assert response.status == 401
            assert (await response.json())["error"]

    asyncio.run(run())


def test_an_expired_token_is_refused_and_named_so(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            token = await cp.operator("admin", ttl=60.0, now=time.time() - 100)
            status, answer = await cp.call("GET", "/v1/kinds", token=token)
            assert status == 401
            assert "expired" in answer["error"]

    asyncio.run(run())


def test_a_token_in_the_query_is_not_taken(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            assert (await cp.call("GET", f"/v1/kinds?token={cp.admin}&access_token={cp.admin}", token=None))[0] == 401

    asyncio.run(run())


def test_an_evicted_node_is_refused(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.add_node("n1", "shop/api")
            tls = cp.node_tls("n1")
            assert (await cp.call("POST", "/v1/register", {"instances": []}, tls=tls))[0] == 200
            await cp.add_node("n1", "shop/api", evicted=True)

            async def refused():
                return (await cp.call("POST", "/v1/register", {"instances": []}, tls=tls))[0] == 403

            await aeventually(refused)

    asyncio.run(run())


def test_a_deleted_node_is_refused_and_one_that_has_just_joined_is_not(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            tls = cp.node_tls("n1")
            status, answer = await cp.call("POST", "/v1/register", {"instances": []}, tls=tls)
            assert status == 403
            assert "join anew" in answer["hint"]
            await cp.add_node("n1")
            assert (await cp.call("POST", "/v1/register", {"instances": []}, tls=tls))[0] == 200
            await cp.call("DELETE", "/v1/objects/nodes/n1")

            async def refused():
                async with cp.request("GET", "/v1/uplink", tls=tls) as response:
                    return response.status == 403

            await aeventually(refused)

    asyncio.run(run())


def test_operators_are_made_listed_and_ended(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            status, made = await cp.call("POST", "/v1/operators", {"name": "eve", "role": "viewer", "ttlSeconds": 60})
            assert status == 201
            assert (await cp.call("GET", "/v1/whoami", token=made["token"]))[1] == {
                "name": "eve",
                "role": "viewer",
                "expires": made["expires"],
            }
            _, listed = await cp.call("GET", "/v1/operators")
            assert {"eve", "admin"} == {item["name"] for item in listed["items"]}
            assert (await cp.call("DELETE", "/v1/operators/eve"))[0] == 200
            assert (await cp.call("GET", "/v1/whoami", token=made["token"]))[0] == 401
            status, answer = await cp.call("POST", "/v1/operators", {"name": "../x", "ttlSeconds": -1})
            assert status == 422
            assert len(answer["violations"]) == 2

    asyncio.run(run())


def test_no_token_is_in_the_store_or_the_audit_log(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.add_node("n1")
            status, made = await cp.call("POST", "/v1/tokens", {"node": "n2", "identities": ["shop/api"]})
            assert status == 201
            assert made["token"].startswith("hf1.")
            # Arguments are seen by every user of a host, and stay in the shell's history.
            assert made["token"] not in made["join"]
            assert "--token-file" in made["join"]
            _, operator = await cp.call("POST", "/v1/operators", {"name": "eve"})
            secrets = [cp.admin, operator["token"], made["token"].split(".")[2]]
            stored = b"".join(item.value + item.key.encode() for item in (await cp.store.list(keys.ROOT)).items)
            for secret in secrets:
                assert secret.encode() not in stored
                assert secret not in cp.audit_text()
            lines = cp.audit_text()
            assert '"operator:admin"' in lines
            assert "/v1/tokens" in lines

    asyncio.run(run())


def test_bad_token_requests_make_no_token(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            before = len((await cp.store.list(keys.TOKENS)).items)
            for body in (
                {"node": "../x"},
                {"node": "n", "identities": ["nonsense"]},
                {"node": "n", "roles": ["king"]},
                {"node": "n", "ttlSeconds": -1},
                {"node": "n", "ttlSeconds": "long"},
                {"node": "n", "extra": 1},
                {},
            ):
                status, answer = await cp.call("POST", "/v1/tokens", body)
                assert status == 422, body
                assert answer["violations"], body
            assert len((await cp.store.list(keys.TOKENS)).items) == before

    asyncio.run(run())


def test_a_certificate_needs_exactly_one_spiffe_id_of_our_domain():
    assert isinstance(auth.machine(b"garbage", DOMAIN), auth.Rejected)
