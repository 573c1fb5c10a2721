"""The demo's own services, as they would run on any host: they know nothing of the mesh.

api   answers every GET with its own name and the identity that its proxy saw; its health can be switched off
web   fetches from api and asks db, through plain ports on its own host
db    a TCP server: one line in, one line out
idle  a caller that calls nobody by itself: only its health can be asked

With --grpc, api answers the same there as gRPC: over HTTP/2, without TLS.

python -m controlplane.demo.apps api --name api-1 --listen 127.0.0.12:8080
"""

import argparse
import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web

GRPC_SERVICE, GRPC_METHOD = "holdfast.demo.Api", "Say"
XFCC = "x-forwarded-client-cert"
MAX_LINE_BYTES = 64 * 1024
UPSTREAM_SECONDS = 10.0


class Place(NamedTuple):
    host: str
    port: int


def place(text: str) -> Place:
    host, _, port = text.rpartition(":")
    return Place(host, int(port))


def seen_identity(header: str) -> dict[str, str]:
    """Who called, from the header that the receiving Envoy sets: the URI and the certificate's hash."""
    found: dict[str, str] = {}
    for pair in header.rpartition(",")[2].split(";"):
        key, _, value = pair.partition("=")
        found[key.strip().casefold()] = value.strip().strip('"')
    return {"caller": found.get("uri", ""), "certificate": found.get("hash", "")}


def api_app(name: str) -> web.Application:
    healthy = True

    async def answer(request: web.Request) -> web.Response:
        seen = seen_identity(request.headers.get(XFCC, ""))
        return web.json_response({"instance": name, "path": request.path, **seen})

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n") if healthy else web.Response(status=503, text="switched off\n")

    async def switch(request: web.Request) -> web.Response:
        nonlocal healthy
        if XFCC in request.headers:  # it came through the mesh; the switch is for this host alone
            return web.Response(status=403, text="only from this host itself\n")
        healthy = request.query.get("ok") != "false"
        return web.Response(text=f"healthy: {healthy}\n")

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_post("/control/health", switch)
    app.router.add_get("/{path:.*}", answer)
    return app


def idle_app() -> web.Application:
    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    return app


async def start_grpc(name: str, listen: Place) -> Any:
    """A gRPC server whose one method takes any bytes and answers as the HTTP one does."""
    import grpc

    async def answer(_: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        headers = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        return json.dumps({"instance": name, **seen_identity(headers.get(XFCC, ""))}).encode()

    server = grpc.aio.server()
    method: Any = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(GRPC_SERVICE, {GRPC_METHOD: method}),))
    server.add_insecure_port(f"{listen.host}:{listen.port}")
    await server.start()
    return server


def web_app(name: str, api: Place, db: Place) -> web.Application:
    key = web.AppKey("client", aiohttp.ClientSession)

    async def client(app: web.Application) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=UPSTREAM_SECONDS)) as found:
            app[key] = found
            yield

    async def to_api(request: web.Request) -> web.Response:
        url = f"http://{api.host}:{api.port}/{request.match_info['path']}"
        try:
            async with request.app[key].get(url) as answer:
                said = await (answer.json() if answer.content_type == "application/json" else answer.text())
                return web.json_response({"web": name, "status": answer.status, "api": said})
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            return web.json_response({"web": name, "error": str(exc) or type(exc).__name__}, status=502)

    async def to_db(request: web.Request) -> web.Response:
        try:
            answer = await ask(db, request.query.get("line", "hello"))
        except (TimeoutError, OSError, EOFError) as exc:
            return web.json_response({"web": name, "error": str(exc) or type(exc).__name__}, status=502)
        return web.json_response({"web": name, "db": answer})

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    app = web.Application()
    app.cleanup_ctx.append(client)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/db", to_db)
    app.router.add_get("/api/{path:.*}", to_api)
    return app


async def ask(db: Place, line: str) -> str:
    """One line to the db, and its answer."""
    async with asyncio.timeout(UPSTREAM_SECONDS):
        reader, writer = await asyncio.open_connection(db.host, db.port)
        try:
            writer.write(line.replace("\n", " ").encode() + b"\n")
            answer = await reader.readline()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    if not answer:
        raise EOFError("the connection was closed without an answer")
    return answer.decode().strip()


async def serve_db(name: str, listen: Place) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := await reader.readline():
                writer.write(f"{name}: ".encode() + line.rstrip(b"\r\n") + b"\n")
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, listen.host, listen.port, limit=MAX_LINE_BYTES)
    async with server:
        await until_told_to_stop()


async def serve_http(app: web.Application, listen: Place) -> None:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=2)
    await runner.setup()
    await web.TCPSite(runner, listen.host, listen.port).start()
    try:
        await until_told_to_stop()
    finally:
        await runner.cleanup()


async def serve_api(name: str, listen: Place, grpc: Place | None) -> None:
    server = await start_grpc(name, grpc) if grpc else None
    try:
        await serve_http(api_app(name), listen)
    finally:
        if server:
            await server.stop(2)


async def until_told_to_stop() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="The demo's own services.")
    parser.add_argument("service", choices=["api", "web", "db", "idle"])
    parser.add_argument("--name", required=True)
    parser.add_argument("--listen", type=place, required=True)
    parser.add_argument("--grpc", type=place, help="where api answers as gRPC, too")
    parser.add_argument("--api", type=place, help="where web finds api")
    parser.add_argument("--db", type=place, help="where web finds db")
    said = parser.parse_args()
    match said.service:
        case "api":
            asyncio.run(serve_api(said.name, said.listen, said.grpc))
        case "idle":
            asyncio.run(serve_http(idle_app(), said.listen))
        case "web":
            if not said.api or not said.db:
                parser.error("web needs --api and --db")
            asyncio.run(serve_http(web_app(said.name, said.api, said.db), said.listen))
        case _:
            asyncio.run(serve_db(said.name, said.listen))


if __name__ == "__main__":
    main()
