"""Policies and routes of the service `api`, and who answered: what the tests of TrafficPolicy share."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

from tests.integration.traffic.rig import Rig

CLUSTER = r"^cluster\.outbound\|80\|api\.shop\|shop/web\."


def policy(spec: str, target: str = "api") -> str:
    return f"""
---
apiVersion: holdfast.dev/v1
kind: TrafficPolicy
metadata: {{name: {target}, namespace: shop}}
spec:
  target: {{service: {target}}}
  {spec}
"""


def route(backends: str, more: str = "", kind: str = "HTTPRoute", port: int = 80) -> str:
    return f"""
---
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: r, namespace: shop}}
spec:
  parentRefs: [{{group: "", kind: Service, name: api, port: {port}}}]
  rules: [{{backendRefs: [{backends}]{more}}}]
"""


def answered(mesh: Rig, count: int = 60) -> Counter[str]:
    """Which instance answered how often; other answers by their status."""
    return Counter(r.by or str(r.status) for r in mesh.in_turn([("/", ())] * count))


def stat(mesh: Rig, name: str) -> int:
    return sum(mesh.stats(f"{CLUSTER}{name}$").values())


async def connect(mesh: Rig, source: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
    """A connection of TCP to `api`, and who took it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.tcp, local_addr=(source, 0))
    async with asyncio.timeout(10):
        return reader, writer, (await reader.readline()).decode().strip()


@contextlib.asynccontextmanager
async def connected(mesh: Rig, source: str = "127.0.0.1") -> AsyncIterator[str]:
    _, writer, name = await connect(mesh, source)
    try:
        yield name
    finally:
        writer.close()


def took(mesh: Rig, *sources: str) -> Counter[str]:
    """Who took connections from these addresses."""

    async def each() -> Counter[str]:
        found: Counter[str] = Counter()
        for source in sources:
            async with connected(mesh, source) as name:
                found[name] += 1
        return found

    return mesh.background.call(each())
