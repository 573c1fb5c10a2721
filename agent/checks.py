"""One health check of a local application: tcp, http or grpc. True, or the reason why not."""

import asyncio
from contextlib import suppress

from agent.http import HttpError, Target, status_of
from mesh.model import HealthCheck, LocalPort, ServiceDefinition

SERVING = b"\x08\x01"
"""HealthCheckResponse{status: SERVING}, encoded (grpc.health.v1): field 1, varint 1."""


def port_of(definition: ServiceDefinition, check: HealthCheck) -> LocalPort | None:
    """The port that is asked."""
    for port in definition.ports:
        if check.port in {0, "", port.port} or (isinstance(check.port, str) and check.port == port.name):
            return port
    return None


async def probe(definition: ServiceDefinition, check: HealthCheck) -> str:
    """Ask once. '' is healthy; anything else is the reason why not. Never raises for what the application does."""
    port = port_of(definition, check)
    if port is None:
        return f"the health check names port {check.port!r}, which the definition does not have"
    try:
        match check.type:
            case "tcp":
                return await _tcp(port, check)
            case "http":
                return await _http(port, check)
            case "grpc":
                return await _grpc(port, check)
    except TimeoutError:
        return f"no answer within {check.timeout_seconds} s"
    except (OSError, HttpError) as exc:
        return str(exc)


async def _tcp(port: LocalPort, check: HealthCheck) -> str:
    async with asyncio.timeout(check.timeout_seconds):
        _, writer = await asyncio.open_connection(port.address, port.port)
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return ""


async def _http(port: LocalPort, check: HealthCheck) -> str:
    # A redirect is not followed: what it points to says nothing of this instance.
    target = Target(f"http://{f'[{port.address}]' if ':' in port.address else port.address}:{port.port}")
    status = await status_of(target, check.path, timeout=check.timeout_seconds)
    return "" if 200 <= status < 300 else f"{check.path} answered {status}"


async def _grpc(port: LocalPort, check: HealthCheck) -> str:
    """Ask grpc.health.v1.Health/Check for the whole server, with raw bytes: no generated code for one field."""
    import grpc.aio

    # A pool of its own: a shared one would still be backing off from the failure before.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel(f"{port.address}:{port.port}", options=options) as channel:
        ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            answer = await ask(b"", timeout=check.timeout_seconds)
        except grpc.aio.AioRpcError as exc:
            return f"grpc health: {exc.code().name}"
    return "" if answer == SERVING else "grpc health: not serving"
