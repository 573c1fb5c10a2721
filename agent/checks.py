"""One health check of a local application: tcp, http, grpc or a script. The reason why it is not healthy, or none."""

import asyncio
import os
import signal
from contextlib import suppress

from agent import asuser
from agent.http import HttpError, Target, status_of
from mesh.model import HealthCheck, LocalPort, ServiceDefinition
from mesh.model.checks import place

MAX_OUTPUT, MAX_REASON = 4096, 200
"""Bytes of a script's words that are kept, and characters that are told."""

SERVING = b"\x08\x01"
"""HealthCheckResponse{status: SERVING}, encoded (grpc.health.v1): field 1, varint 1."""


def port_of(definition: ServiceDefinition, check: HealthCheck) -> LocalPort | None:
    """The port that is asked."""
    for port in definition.ports:
        if check.port in {0, "", port.port} or (isinstance(check.port, str) and check.port == port.name):
            return port
    return None


async def probe(definition: ServiceDefinition, check: HealthCheck) -> str:  # noqa: PLR0911 - a table
    """Ask once. '' is healthy; anything else is the reason why not. Never raises for what the application does."""
    if check.type == "script":
        return await _script(check)
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


async def _script(check: HealthCheck) -> str:
    """Status 0 is healthy; else its last line is the reason. It and what it started are ended when time is over."""
    try:
        command = asuser.command_as(check.user, check.command, asuser.held)
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd="/",
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"},
            start_new_session=True,
        )
    except asuser.AsUserError as exc:
        return str(exc)
    except OSError as exc:
        return f"{command[0]} cannot be run: {exc.strerror}"
    try:
        async with asyncio.timeout(check.timeout_seconds):
            words = await _tail(process)
            status = await process.wait()
    except TimeoutError:
        return f"no verdict within {check.timeout_seconds:g} s"
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    line = words.decode(errors="replace").strip().rpartition("\n")[2][:MAX_REASON]
    return "" if status == 0 else f"status {status}" + (f": {line}" if line else "")


async def _tail(process: asyncio.subprocess.Process) -> bytes:
    """The end of what it says, however much that is."""
    assert process.stdout
    kept = b""
    while some := await process.stdout.read(MAX_OUTPUT):
        kept = (kept + some)[-MAX_OUTPUT:]
    return kept


async def _tcp(port: LocalPort, check: HealthCheck) -> str:
    async with asyncio.timeout(check.timeout_seconds):
        _, writer = await asyncio.open_connection(port.address, port.port)
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return ""


async def _http(port: LocalPort, check: HealthCheck) -> str:
    # A redirect is not followed: what it points to says nothing of this instance.
    target = Target(f"http://{place(port.address, port.port)}")
    status = await status_of(target, check.path, timeout=check.timeout_seconds)
    return "" if 200 <= status < 300 else f"{check.path} answered {status}"


async def _grpc(port: LocalPort, check: HealthCheck) -> str:
    """Ask grpc.health.v1.Health/Check for the whole server, with raw bytes: no generated code for one field."""
    import grpc.aio

    # A pool of its own: a shared one would still be backing off from the failure before.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel(place(port.address, port.port), options=options) as channel:
        ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            answer = await ask(b"", timeout=check.timeout_seconds)
        except grpc.aio.AioRpcError as exc:
            return f"grpc health: {exc.code().name}"
    return "" if answer == SERVING else "grpc health: not serving"
