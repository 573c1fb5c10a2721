"""A caller and callees with real Envoys, and applications that say which of them answered and what they saw.

Each callee's host runs one instance, which is behind a Service of its own name, and behind `api` as all are.
"""

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import msgspec
import yaml
from aiohttp import web

from agent.envoy.admin import Admin
from controlplane.demo.process import free_port
from mesh import codec, validate
from mesh.model import Endpoint, LocalPort, Object, Revision, ServicePort, ServiceRef, Upstream, World
from mesh.model.world import EndpointRemoved, Upserted
from tests.integration.compile.hosts import Background, Host
from tests.support.meshes import TestCa, bundle, config, definition, endpoint, local, policy, rule, service, world

CALLER = "127.0.0.71"
INSTANCES = {"v1": "127.0.0.72", "v2": "127.0.0.73", "v3": "127.0.0.74"}
"""Name -> its host's address."""
PORTS = (80, 5432, 7070)

Ask = tuple[str, Iterable[tuple[str, str]]]
"""Path and headers."""


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def seen(self) -> dict[str, Any]:
        """What the application saw of the request."""
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def by(self) -> str:
        """Which instance answered."""
        return str(self.seen["by"]) if self.status == 200 else ""


@dataclass
class App:
    """An instance: answers HTTP with what it saw, or as it is told; says its name over TCP, then repeats; and gRPC."""

    name: str
    port: int
    tcp: int
    grpc: int
    status: int = 200
    delay: float = 0.0
    refuses: str = ""
    """Answers 503 to callers whose SPIFFE id has this in it."""
    drop: bool = False
    """Hangs up once it has the request."""
    code: grpc.StatusCode = grpc.StatusCode.OK
    """What it answers over gRPC."""
    rpcs: int = 0
    serving: bool = True
    """What it says of its health over gRPC."""
    headers: dict[str, str] = field(default_factory=dict)
    keeps: bool = True
    """Is what it saw kept in `seen`?"""
    seen: list[dict[str, Any]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        said = {
            "by": self.name,
            "method": request.method,
            "path": request.raw_path,
            "host": request.host,
            "headers": [[k.lower(), v] for k, v in request.headers.items()],
            "size": len(body),
        }
        if self.keeps:
            self.seen.append(said)
        caller = request.headers.get("x-forwarded-client-cert", "")
        status = 503 if self.refuses and self.refuses in caller else self.status
        if self.drop and request.transport:
            request.transport.abort()
        if self.delay:
            await asyncio.sleep(self.delay)
        if status == 200 and web.WebSocketResponse().can_prepare(request):
            return await self._talk(request)
        return web.json_response(said, status=status, headers={"x-app": self.name, **self.headers})

    async def _talk(self, request: web.Request) -> web.WebSocketResponse:
        """A WebSocket: each message comes back with its name before it; `bye` ends it."""
        socket = web.WebSocketResponse(protocols=("chat",))
        await socket.prepare(request)
        async for message in socket:
            if message.data == "bye":
                break
            if message.type is aiohttp.WSMsgType.TEXT:
                await socket.send_str(f"{self.name} {message.data}")
            else:
                await socket.send_bytes(message.data)
        await socket.close()
        return socket


async def _greet(app: App, address: str) -> asyncio.Server:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"{app.name}\n".encode())
        while data := await reader.read(1000):
            writer.write(data)
            await writer.drain()
        writer.close()

    return await asyncio.start_server(serve, address, app.tcp)


async def _calls(app: App, address: str) -> grpc.aio.Server:
    async def name(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        app.rpcs += 1
        if app.code is not grpc.StatusCode.OK:
            await context.abort(app.code, "as told")
        return app.name.encode() + b" " + request

    async def health(_request: bytes, _context: grpc.aio.ServicerContext) -> bytes:
        return b"\x08\x01" if app.serving else b"\x08\x02"  # HealthCheckResponse: SERVING, NOT_SERVING

    server = grpc.aio.server()
    check = {"Check": grpc.unary_unary_rpc_method_handler(health)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", check),))
    for called in ("test.Echo", "test.Other"):
        methods = {m: grpc.unary_unary_rpc_method_handler(name) for m in ("Say", "Ask")}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(called, methods),))
    server.add_insecure_port(f"{address}:{app.grpc}")
    await server.start()
    return server


class Rig:
    """`objects(...)` puts routes and policies in force; `get(...)` calls through the caller's proxy."""

    def __init__(self, folder: Path) -> None:
        self.ca, self.background = TestCa(), Background()
        self.mtls = {name: free_port(address) for name, address in INSTANCES.items()}
        self.listen = {name: free_port("127.0.0.1") for name in ("api", *INSTANCES)}
        self.tcp, self.grpc = free_port("127.0.0.1"), free_port("127.0.0.1")
        """Where the caller reaches `api` by these protocols."""
        self.apps = {
            name: App(name, free_port(address), free_port(address), free_port(address))
            for name, address in INSTANCES.items()
        }
        self._runners = [self.background.call(self._serve(app)) for app in self.apps.values()]
        self._tcp = [self.background.call(_greet(app, INSTANCES[name])) for name, app in self.apps.items()]
        self._grpc = [self.background.call(_calls(app, INSTANCES[name])) for name, app in self.apps.items()]
        self.caller = Host("caller", folder, self.background)
        self.more: list[Host] = []
        """Hosts of a test's own that get the same objects."""
        self.callees = {name: Host(name, folder, self.background) for name in INSTANCES}
        self._first = self._world()
        self._base = self.world = self._first
        self._publish_first()

    async def _serve(self, app: App) -> web.AppRunner:
        site = web.Application()
        site.router.add_route("*", "/{tail:.*}", app.answer)
        runner = web.AppRunner(site)
        await runner.setup()
        await web.TCPSite(runner, INSTANCES[app.name], app.port).start()
        return runner

    def _world(self) -> World:
        ports = (
            ServicePort(port=80, protocol="http", name="http", target_port="http"),
            ServicePort(port=5432, protocol="tcp", name="tcp", target_port="tcp"),
            ServicePort(port=7070, protocol="grpc", name="grpc", target_port="grpc"),
        )
        objects: list[Object] = [
            config(), bundle(self.ca.root), service("web"), policy("callers", "", rule("shop/web", name="web")),
            service("api", accounts=["api"], ports=ports, selector={"app": "api"}),
        ]  # fmt: skip
        for name in INSTANCES:
            objects.append(service(name, accounts=["api"], ports=ports, selector={"version": name}))
            objects += [self._endpoint(s, name) for s in ("api", name)]
        return world(*objects)

    def _endpoint(self, service_name: str, instance: str) -> Object:
        found = endpoint(service_name, instance, INSTANCES[instance], mtls_port=self.mtls[instance], ports=PORTS)
        labels = {"app": "api", "version": instance}
        spec = msgspec.structs.replace(found.spec, service_account="api")
        meta = msgspec.structs.replace(found.metadata, labels=labels)
        return msgspec.structs.replace(found, metadata=meta, spec=spec)

    def _publish_first(self) -> None:
        calls = [Upstream(service=s, port=80, listen=f"127.0.0.1:{p}") for s, p in self.listen.items()]
        calls += [
            Upstream(service="api", port=5432, listen=f"127.0.0.1:{self.tcp}"),
            Upstream(service="api", port=7070, listen=f"127.0.0.1:{self.grpc}"),
        ]
        web_only = {"shop/web": self.ca.workload("shop/web")}
        self.caller.publish(
            self.world,
            local(definition("web", upstreams=calls), identities=web_only, node="caller", address=CALLER,
                  mtls_port=free_port(CALLER), access_log=str(self.caller.log)),
        )  # fmt: skip
        for name, app in self.apps.items():
            address, host = INSTANCES[name], self.callees[name]
            ports = (
                LocalPort(port=app.port, name="http", protocol="http", address=address),
                LocalPort(port=app.tcp, name="tcp", protocol="tcp", address=address),
                LocalPort(port=app.grpc, name="grpc", protocol="grpc", address=address),
            )
            labels = {"app": "api", "version": name}
            here = definition(f"api-{name}", *ports, service_account="api", labels=labels)
            held = {"shop/api": self.ca.workload("shop/api")}
            host.publish(
                self.world,
                local(here, identities=held, node=name, address=address, mtls_port=self.mtls[name],
                      access_log=str(host.log)),
            )  # fmt: skip

    def objects(self, text: str) -> None:
        """These, from YAML, besides the Services; those of an earlier call are gone."""
        found = [codec.decode_strict(tree) for tree in yaml.safe_load_all(text) if tree]
        for obj in found:
            assert isinstance(obj, Object), obj
            assert validate.validate(obj) == ()
        self.world = world(*found, base=self._base)  # type: ignore[arg-type]
        for host in (self.caller, *self.callees.values(), *self.more):
            host.republish(self.world)

    def fresh(self) -> None:
        """As it began."""
        self._base = self._first
        for app in self.apps.values():
            app.status, app.delay, app.refuses, app.serving = 200, 0.0, "", True
            app.code = grpc.StatusCode.OK
        self.caller_at("")
        self.objects("")

    def endpoints(self, name: str, *wanted: Endpoint) -> None:
        """A Service's endpoints are these; what was applied stays."""
        ref = ServiceRef("shop", name)
        gone = [EndpointRemoved(ref, instance) for instance in self._base.endpoints.get(ref, {})]
        there = [Upserted(obj, Revision(1)) for obj in wanted]
        self._base = self._base.apply([*gone, *there], Revision(1))
        self.world = self.world.apply([*gone, *there], Revision(1))
        for host in (self.caller, *self.callees.values(), *self.more):
            host.republish(self.world)

    def change(self, **instances: dict[str, str]) -> None:
        """Fields of endpoints of `api`, by instance."""
        known = self.world.endpoints[ServiceRef("shop", "api")]
        found = {name.removeprefix("api-"): obj for name, obj in known.items()}
        for name, fields in instances.items():
            spec = msgspec.structs.replace(found[name].spec, **fields)
            found[name] = msgspec.structs.replace(found[name], spec=spec)
        self.endpoints("api", *found.values())

    def caller_at(self, locality: str) -> None:
        """Where the caller's host says that it is."""
        assert self.caller.local is not None
        self.caller.publish(self.world, msgspec.structs.replace(self.caller.local, locality=locality))

    def stats(self, pattern: str) -> Mapping[str, int]:
        """Of the caller's proxy."""
        return self.background.call(Admin(self.caller.admin).stats(pattern))

    def at_once(self, count: int, path: str = "/", *, service: str = "api") -> list[Reply]:
        """So many requests together."""

        async def all_of_them() -> list[Reply]:
            return await asyncio.gather(*(self.aget(path, service=service) for _ in range(count)))

        return self.background.call(all_of_them())

    def get(
        self, path: str = "/", *, service: str = "api", method: str = "GET",
        headers: Iterable[tuple[str, str]] = (), host: str = "app", body: bytes = b"", port: int = 0,
    ) -> Reply:  # fmt: skip
        """One request through the caller's listener for a Service, or that on another port."""
        return self.background.call(
            self.aget(path, service=service, method=method, headers=headers, host=host, body=body, port=port)
        )

    async def aget(
        self, path: str = "/", *, service: str = "api", method: str = "GET",
        headers: Iterable[tuple[str, str]] = (), host: str = "app", body: bytes = b"", port: int = 0,
    ) -> Reply:  # fmt: skip
        """The same, on the rig's own loop."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port or self.listen[service])
        try:
            size = [("Content-Length", str(len(body)))] if body else []
            writer.write(_head(method, path, host, [("Connection", "close"), *size, *headers]) + body)
            async with asyncio.timeout(20):
                return _reply(*await _answer(reader, bodiless=method == "HEAD"))
        finally:
            writer.close()

    def in_turn(self, asks: Iterable[Ask], *, service: str = "api") -> list[Reply]:
        """Requests one after another, over one connection for as long as it stays: hundreds need no connection each."""
        return self.background.submit(self._in_turn(asks, self.listen[service])).result(120)

    async def _in_turn(self, asks: Iterable[Ask], port: int) -> list[Reply]:
        replies: list[Reply] = []
        async with AsyncExitStack() as stack:
            for path, headers in asks:
                if not replies or replies[-1].headers.get("connection") == "close":
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    stack.callback(writer.close)
                writer.write(_head("GET", path, "app", headers))
                async with asyncio.timeout(20):
                    replies.append(_reply(*await _answer(reader, bodiless=False)))
        return replies

    def close(self) -> None:
        for host in (self.caller, *self.callees.values(), *self.more):
            host.close()
        for runner in self._runners:
            self.background.call(runner.cleanup())
        for server in self._tcp:
            server.close()
        for rpc in self._grpc:
            self.background.call(rpc.stop(None))
        self.background.close()


def _head(method: str, path: str, host: str, headers: Iterable[tuple[str, str]]) -> bytes:
    more = "".join(f"{k}: {v}\r\n" for k, v in headers)
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode()


async def _answer(reader: asyncio.StreamReader, *, bodiless: bool) -> tuple[str, bytes]:
    """Head and body. Envoy hangs up a second after an answer of its own, so only what has no length ends so."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    size = next((line.split()[1] for line in head.lower().split("\r\n") if line.startswith("content-length:")), "")
    return head, await (reader.readexactly(int(size)) if size and not bodiless else reader.read())


def _reply(head: str, body: bytes) -> Reply:
    lines = head.split("\r\n")
    fields = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
    if fields.get("transfer-encoding") == "chunked":
        whole = b""
        while body:
            size, _, body = body.partition(b"\r\n")
            whole, body = whole + body[: int(size, 16)], body[int(size, 16) + 2 :]
        body = whole
    return Reply(int(lines[0].split()[1]), fields, body)


@contextmanager
def rig(folder: Path) -> Iterator[Rig]:
    found = Rig(folder)
    try:
        yield found
    finally:
        found.close()
