"""Weights hold to a percent over 50,000 requests, whatever else is left to chance."""

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.integration.traffic.rig import Rig

pytestmark = [pytest.mark.real, pytest.mark.slow]

REQUESTS, CONNECTIONS = 50_000, 32
WEIGHTS = {"v1": 70, "v2": 20, "v3": 10}


async def ask(port: int, count: int, found: Counter[str]) -> None:
    """Requests one after another on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(count):
        writer.write(b"HEAD / HTTP/1.1\r\nHost: api\r\n\r\n")
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status = head.removeprefix("http/1.1 ")[:3]
        found[head.partition("x-app: ")[2].partition("\r\n")[0] if status == "200" else status] += 1
    writer.close()


async def ask_all(port: int) -> Counter[str]:
    found: Counter[str] = Counter()
    async with asyncio.timeout(240), asyncio.TaskGroup() as group:
        for number in range(CONNECTIONS):
            share = REQUESTS // CONNECTIONS + (number < REQUESTS % CONNECTIONS)
            group.create_task(ask(port, share, found))
    return found


def route(backends: str, filters: str = "") -> str:
    return f"""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r, namespace: shop}}
spec:
  parentRefs: [{{group: "", kind: Service, name: api, port: 80}}]
  rules: [{{backendRefs: [{backends}], filters: [{filters}]}}]
"""


@pytest.fixture
def quiet(mesh: Rig) -> Iterator[Rig]:
    for app in mesh.apps.values():
        app.keeps = False
    yield mesh
    for app in mesh.apps.values():
        app.keeps = True
    mesh.fresh()


def test_weights_hold_over_many_requests(quiet: Rig):
    quiet.objects(route(", ".join(f"{{name: {name}, port: 80, weight: {weight}}}" for name, weight in WEIGHTS.items())))
    found = asyncio.run(ask_all(quiet.listen["api"]))
    shares = {name: 100 * count / REQUESTS for name, count in sorted(found.items())}
    print(f"{REQUESTS} requests: {shares}")
    assert found.keys() == WEIGHTS.keys()
    assert all(abs(shares[name] - weight) < 1.0 for name, weight in WEIGHTS.items()), shares


def test_what_is_answered_copied_and_shared_out_does_not_depend_on_each_other(quiet: Rig):
    """Envoy takes all of it from one number: of 30 % that are answered, of half that are copied, and of 3 to 2."""
    weights = {"v1": 600_000, "v2": 400_000, "none": 428_571}
    backends = ", ".join(f"{{name: {name}, port: 80, weight: {weight}}}" for name, weight in weights.items())
    quiet.objects(
        route(backends, "{type: RequestMirror, requestMirror: {backendRef: {name: v3, port: 80}, percent: 50}}")
    )

    def copies() -> int:
        return sum(quiet.stats(r"^cluster\.outbound\|80\|v3\.shop\|shop/web\.upstream_rq_total$").values())

    before = copies()
    found = asyncio.run(ask_all(quiet.listen["api"]))
    found["copied"] = copies() - before
    shares = {name: 100 * count / REQUESTS for name, count in sorted(found.items())}
    print(f"{REQUESTS} requests: {shares}")
    wanted = {"v1": 42.0, "v2": 28.0, "500": 30.0, "copied": 35.0}
    assert found.keys() == wanted.keys()
    assert all(abs(shares[name] - share) < 1.0 for name, share in wanted.items()), shares
