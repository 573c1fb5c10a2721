"""Weights hold to a percent over 50,000 requests."""

import asyncio
from collections import Counter

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
        assert head.startswith("http/1.1 200"), head
        found[head.partition("x-app: ")[2].partition("\r\n")[0]] += 1
    writer.close()


async def ask_all(port: int) -> Counter[str]:
    found: Counter[str] = Counter()
    async with asyncio.timeout(240), asyncio.TaskGroup() as group:
        for number in range(CONNECTIONS):
            share = REQUESTS // CONNECTIONS + (number < REQUESTS % CONNECTIONS)
            group.create_task(ask(port, share, found))
    return found


def test_weights_hold_over_many_requests(mesh: Rig):
    backends = ", ".join(f"{{name: {name}, port: 80, weight: {weight}}}" for name, weight in WEIGHTS.items())
    mesh.objects(f"""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r, namespace: shop}}
spec:
  parentRefs: [{{group: "", kind: Service, name: api, port: 80}}]
  rules: [{{backendRefs: [{backends}]}}]
""")
    for app in mesh.apps.values():
        app.keeps = False
    found = asyncio.run(ask_all(mesh.listen["api"]))
    shares = {name: 100 * count / REQUESTS for name, count in sorted(found.items())}
    print(f"{REQUESTS} requests: {shares}")
    assert found.keys() == WEIGHTS.keys()
    assert all(abs(shares[name] - weight) < 1.0 for name, weight in WEIGHTS.items()), shares
