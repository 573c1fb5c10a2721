"""The published Deployments as hosts: an echo process, an agent and a real Envoy each, on an address of its own.

A host's Envoy gives its pod a plain loopback port for each (Service, port) that the pod calls; the Host header is what
the published test calls.
"""

import contextlib
import http.client
import json
import re
import secrets
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import yaml

from controlplane.demo import topology as top
from controlplane.demo.binaries import find_envoy
from controlplane.demo.machine import Machine
from controlplane.demo.plane import gate_settings
from controlplane.demo.process import Process, free_port, taken
from controlplane.demo.reaper import HOST_MARK, MARK
from tests.conformance.expectations import Case
from tests.conformance.judge import Answer

_SCOPE = "gateway-api"
PLANE = "cp-1"
GRPC_METHOD = "/gateway_api_conformance.echo_basic.grpcecho.GrpcEcho/Echo"
CALL_SECONDS = 15.0

_SEPARATOR = re.compile(r"^---[ \t]*$", re.MULTILINE)


class Deployment(NamedTuple):
    name: str
    namespace: str
    labels: Mapping[str, str]
    http: tuple[int, ...]
    grpc: tuple[int, ...]
    tcp: tuple[int, ...]


def split(text: str) -> tuple[list[Deployment], str]:
    """The Deployments of a published manifest, and the rest of it, word for word."""
    deployments, rest = [], []
    for part in _SEPARATOR.split(text):
        document = yaml.safe_load(part)
        if document and document["kind"] == "Deployment":
            deployments.append(_deployment(document))
        elif document:
            rest.append(part)
    return deployments, "---".join(rest)


def _deployment(document: Mapping[str, Any]) -> Deployment:
    """Its container's ports, of its arguments or its image. That for TLS is left out: no mesh test calls it."""
    template = document["spec"]["template"]
    said: dict[str, list[int]] = {}
    for argument in template["spec"]["containers"][0].get("args", ()):
        name, _, value = argument.removeprefix("--").partition("=")
        if value.isdigit():
            said.setdefault(name, []).append(int(value))
    meta = document["metadata"]
    return Deployment(
        meta["name"],
        meta["namespace"],
        template["metadata"]["labels"],
        tuple(port for port in said.get("port", [8080]) if port not in said.get("tls", ())),
        tuple(said.get("grpc", [7070])),
        tuple(said.get("tcp", [9090])),
    )


class Callee(NamedTuple):
    """What a request is addressed to."""

    namespace: str
    service: str
    port: int


def callee(case: Case) -> Callee:
    """By the host that the published test calls."""
    name, _, port = case.host.partition(":")
    service, _, namespace = name.partition(".")
    return Callee(namespace or case.namespace, service, int(port or 80))


class Pod:
    """One copy of a Deployment: its host's machine, and the application on it."""

    def __init__(self, deployment: Deployment, node: str, address: str, calls: Iterable[Callee]) -> None:
        self.deployment, self.node, self.address = deployment, node, address
        self.listeners = {called: free_port(address) for called in sorted(calls)}
        self.machine: Machine | None = None
        self.application: Process | None = None

    @property
    def identity(self) -> str:
        return f"{self.deployment.namespace}/default"

    def definition(self) -> dict[str, Any]:
        """services.d/<deployment>.yaml."""
        found = self.deployment
        ports = [("http", found.http), ("grpc", found.grpc), ("tcp", found.tcp)]
        return {
            "name": found.name,
            "namespace": found.namespace,
            "serviceAccount": "default",
            "labels": dict(found.labels),
            "ports": [
                {"port": port, "name": f"{protocol}-{port}", "protocol": protocol, "address": self.address}
                for protocol, listed in ports
                for port in listed
            ],
            "health": {"type": "http", "path": "/healthz", "intervalSeconds": 0.5},
            "upstreams": [
                {**called._asdict(), "listen": f"{self.address}:{port}"} for called, port in self.listeners.items()
            ],
        }

    def command(self) -> list[str]:
        found = self.deployment
        said = [("http", found.http), ("grpc", found.grpc), ("tcp", found.tcp)]
        return [
            *(sys.executable, "-m", "tests.conformance.echo"),
            *("--deployment", found.name, "--pod", f"{found.name}-{self.node}", "--namespace", found.namespace),
            *("--address", self.address),
            *(word for name, ports in said for port in ports for word in (f"--{name}", str(port))),
        ]

    def stop(self) -> None:
        for part in (self.machine, self.application):
            if part:
                part.stop()

    # -- as the published client in the pod

    def ask(self, case: Case) -> Answer:
        """One request of a published test, through this host's proxy."""
        with self._client(case) as call:
            return call()

    def backends(self, case: Case, count: int) -> list[str]:
        """Which Deployments answer so many requests."""
        with self._client(case) as call:
            return [call().backend for _ in range(count)]

    @contextlib.contextmanager
    def _client(self, case: Case) -> Iterator[Callable[[], Answer]]:
        """Makes the request, over one connection."""
        to, headers = callee(case), {"Host": case.host, **case.headers}
        if case.protocol == "grpc":
            with self.grpc(to, case.host) as call:
                yield lambda: call(GRPC_METHOD)
        else:
            with self.http(to) as ask:
                yield lambda: ask("GET", case.path or "/", headers)

    @contextlib.contextmanager
    def http(self, to: Callee) -> Iterator[Callable[..., Answer]]:
        """`ask(method, path, headers)` over one connection."""
        connection = http.client.HTTPConnection(self.address, self.listeners[to], timeout=CALL_SECONDS)
        with contextlib.closing(connection):
            yield partial(_http, connection)

    @contextlib.contextmanager
    def grpc(self, to: Callee, authority: str = "echo") -> Iterator[Callable[..., Answer]]:
        """`call(method, metadata)` over one channel."""
        options = (("grpc.default_authority", authority), ("grpc.use_local_subchannel_pool", 1))
        with grpc.insecure_channel(f"{self.address}:{self.listeners[to]}", options) as channel:
            yield partial(_grpc, channel)

    def tcp(self, to: Callee, line: str = "hello") -> dict[str, Any]:
        """One line over a new connection, and what came back; nothing if it was closed."""
        with (
            socket.create_connection((self.address, self.listeners[to]), timeout=CALL_SECONDS) as connection,
            connection.makefile("rb") as answer,
        ):
            try:
                connection.sendall(line.encode() + b"\n")
                return json.loads(answer.readline() or b"{}")
            except ConnectionError:
                return {}

    def seen(self, identifier: str) -> int:
        """How often something with this id came to the application here, asked beside the mesh."""
        connection = http.client.HTTPConnection(self.address, self.deployment.http[0], timeout=CALL_SECONDS)
        with contextlib.closing(connection):
            connection.request("GET", f"/seen/{identifier}")
            return int(connection.getresponse().read())


def _http(connection: http.client.HTTPConnection, method: str, path: str, headers: Mapping[str, str]) -> Answer:
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in {"Host": "echo", **headers}.items():
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    body, kind = response.read(), response.headers.get_content_type()
    echoed = json.loads(body) if body and kind == "application/json" else {}
    return Answer(response.status, tuple(response.getheaders()), echoed)


def _grpc(channel: grpc.Channel, method: str, metadata: Mapping[str, str] | None = None) -> Answer:
    """The status is 200, or that of gRPC."""
    call = channel.unary_unary(method)
    try:
        body, done = call.with_call(b"", timeout=CALL_SECONDS, metadata=tuple((metadata or {}).items()))
    except grpc.RpcError as exc:
        return Answer(exc.code().value[0])
    return Answer(200, (*done.initial_metadata(), *done.trailing_metadata()), json.loads(body))


def places(network: str, pods: int) -> list[tuple[str, int]]:
    """What gate and pods listen on, with the ports that Deployments have."""
    ports = (top.MTLS_PORT, 7070, 8080, 9090)
    hosts = [(f"{network}.{10 + number}", port) for number in range(pods) for port in ports]
    return [(f"{network}.1", top.GATE_PORT), (f"{network}.1", top.MTLS_PORT), *hosts]


def free_network(pods: int) -> str:
    """A /24 of loopback in which nobody listens there; from a random one on, as others may look at the same time."""
    reason, first = "", secrets.randbelow(199)
    for number in (1 + (first + step) % 199 for step in range(199)):
        if not (reason := taken(places(f"127.7.{number}", pods))):
            return f"127.7.{number}"
    raise AssertionError(f"no free loopback addresses: {reason}")


class Hosts:
    """A store gate, and a host for each Deployment. Everything that was started is stopped by close()."""

    def __init__(self, folder: Path, url: str, etcd: Iterable[str], pki: Path) -> None:
        self._folder, self._url, self._etcd, self._pki = folder, url, tuple(etcd), pki
        self._mark, self._envoy = secrets.token_hex(8), str(find_envoy())
        self.pods: list[Pod] = []
        self.gate: Machine | None = None
        self._network = ""

    def deploy(self, deployments: list[Deployment], calls: Mapping[str, Iterable[Callee]]) -> None:
        """Choose addresses. `calls`: namespace -> what its pods of echo-v1 call."""
        self._network = free_network(len(deployments))
        for number, found in enumerate(deployments):
            wanted = calls.get(found.namespace, ()) if found.name == "echo-v1" else ()
            self.pods.append(Pod(found, f"host-{number}", f"{self._network}.{10 + number}", wanted))

    def caller(self, namespace: str) -> Pod:
        """The pod from which the published tests of a namespace call."""
        return next(p for p in self.pods if (p.deployment.namespace, p.deployment.name) == (namespace, "echo-v1"))

    def start_gate(self, token: str) -> None:
        plane = top.Plane(PLANE, "gate", f"{self._network}.1")
        gate = gate_settings(plane, etcd=self._etcd, pki=self._pki)
        self.gate = self._machine("gate", plane.address, gate=gate)
        self.gate.write(token)
        self.gate.start()
        self.gate.agent.wait_for_port(plane.address, top.GATE_PORT, timeout=60)

    def start(self, pod: Pod, token: str) -> None:
        env = {MARK: self._mark, HOST_MARK: f"{self._mark}/{_SCOPE}/{pod.node}"}
        log = self._folder / pod.node / "application.log"
        pod.application = Process(f"application of {pod.node}", pod.command(), log=log, env=env).start()
        pod.machine = self._machine(pod.node, pod.address, definition=pod.definition())
        pod.machine.write(token)
        pod.machine.start()

    def _machine(self, name: str, address: str, *, gate: Any = None, definition: Any = None) -> Machine:
        home = self._folder / name
        found = top.Topology((), (top.Plane(PLANE, "gate", f"{self._network}.1"),))
        settings = top.agent_settings(name, address, str(home), found, self._envoy)
        settings |= {"controlplanes": [self._url], "scrape": "", "gate": gate}
        return Machine(name, home, self._mark, scope=_SCOPE, settings=settings, definition=definition)

    def check(self) -> None:
        """Raise, with the end of its log, if a process ended by itself."""
        for part in [self.gate, *(pod.machine for pod in self.pods)]:
            if part:
                part.agent.check()
        for pod in self.pods:
            if pod.application:
                pod.application.check()

    def close(self) -> None:
        for pod in self.pods:
            pod.stop()
        if self.gate:
            self.gate.stop()
