"""The published suite's echo application: it answers with what it saw, and who it is, as JSON.

HTTP/1.1 for every method and path, gRPC (h2c) for every method, TCP line by line. Besides, it counts what came with a
header `x-id`, answers with the status in a header `x-answer`, and always has a header `x-echo`.

python -m tests.conformance.echo --deployment echo-v1 --pod echo-v1-1 --namespace shop --address 127.0.0.12 --http 8080
"""

import argparse
import asyncio
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import grpc
import grpc.aio
from aiohttp import web

from controlplane.demo.apps import until_told_to_stop


class Echo:
    def __init__(self, deployment: str, pod: str, namespace: str) -> None:
        self._who = {"deployment": deployment, "pod": pod, "namespace": namespace}
        self._ids: Counter[str] = Counter()

    def _saw(self, headers: Iterable[tuple[str, Any]], **more: str) -> bytes:
        by_name: dict[str, list[str]] = {}
        for name, value in headers:
            by_name.setdefault(name.lower(), []).append(value if isinstance(value, str) else value.hex())
        self._ids.update(by_name.get("x-id", ()))
        return json.dumps({**self._who, **more, "headers": by_name}).encode() + b"\n"

    async def http(self, request: web.Request) -> web.Response:
        more = {"path": request.raw_path, "host": request.host, "method": request.method, "proto": "HTTP/1.1"}
        body, status = self._saw(request.headers.items(), **more), int(request.headers.get("x-answer", "200"))
        return web.Response(body=body, status=status, content_type="application/json", headers={"x-echo": "here"})

    async def seen(self, request: web.Request) -> web.Response:
        """How often something came with this id."""
        return web.json_response(self._ids[request.match_info["id"]])

    def grpc(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        async def answer(_request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            await context.send_initial_metadata((("x-echo", "here"),))
            return self._saw(call.invocation_metadata, path=call.method, proto="gRPC")

        return grpc.unary_unary_rpc_method_handler(answer)

    async def tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(self._saw((), line=line.decode(errors="replace").strip(), proto="TCP"))
            await writer.drain()
        writer.close()


class Calls(grpc.GenericRpcHandler):
    def __init__(self, echo: Echo) -> None:
        self._echo = echo

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return self._echo.grpc(call)


async def serve(echo: Echo, address: str, http: Iterable[int], grpc_ports: Iterable[int], tcp: Iterable[int]) -> None:
    app = web.Application()
    app.router.add_get("/seen/{id}", echo.seen)
    app.router.add_route("*", "/{path:.*}", echo.http)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    for port in http:
        await web.TCPSite(runner, address, port).start()
    calls = grpc.aio.server(handlers=[Calls(echo)])
    for port in grpc_ports:
        calls.add_insecure_port(f"{address}:{port}")
    await calls.start()
    lines = [await asyncio.start_server(echo.tcp, address, port) for port in tcp]
    await until_told_to_stop()
    for server in lines:
        server.close()
    await calls.stop(0)
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("deployment", "pod", "namespace", "address"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("http", "grpc", "tcp"):
        parser.add_argument(f"--{name}", type=int, action="append", default=[])
    said = parser.parse_args()
    asyncio.run(serve(Echo(said.deployment, said.pod, said.namespace), said.address, said.http, said.grpc, said.tcp))


if __name__ == "__main__":
    main()
