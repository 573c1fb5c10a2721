"""The load of bench/issuing.py, a process of its own: python -m bench.signing JOB.json; its outcome is JSON on stdout.

One connection a node, each sends its next request when its answer is there. Requests are bytes made beforehand, so that
the load takes little of the machine that it shares with what is measured.
"""

import asyncio
import itertools
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from bench.proc import cpu_seconds
from bench.stats import quantile
from ca.wire import SignAnswer, SignItem, SignRequest

SERVER_NAME = "controlplane.holdfast"
DENIALS_KEPT = 10


class Host(msgspec.Struct, frozen=True):
    name: str
    pem: str
    """File: the node's chain and key."""
    roots: str
    csrs: dict[str, str]
    """Identity -> CSR."""


class Job(msgspec.Struct, frozen=True):
    url: str
    hosts: tuple[Host, ...]
    requests: int
    """Of each connection."""
    batch: int
    server: int
    """Process of the control-plane node; its processor time is read."""


class Outcome(msgspec.Struct):
    seconds: float
    signed: int
    p50: float
    p99: float
    cpu: float
    server_cpu: float
    denied: list[str]


def requests(host: Host, batch: int, authority: str) -> Iterator[bytes]:
    """For ever, over all identities in turn."""
    items = [SignItem(identity=identity, csr=csr) for identity, csr in host.csrs.items()]
    turn = itertools.cycle(items)
    bodies = [msgspec.json.encode(SignRequest(items=tuple(itertools.islice(turn, batch)))) for _ in range(len(items))]
    head = f"POST /v1/sign HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/json\r\nContent-Length: "
    return itertools.cycle([f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies])


class Client:
    def __init__(self, host: Host, job: Job) -> None:
        self._host, parts = host, urlsplit(job.url)
        self._address, self._port = parts.hostname, parts.port
        self._requests, self._count = requests(host, job.batch, parts.netloc), job.requests
        self.taken: list[float] = []
        self.answers: list[SignAnswer] = []
        self.failures: list[str] = []

    async def connect(self) -> None:
        """With one request, so that the handshake and all that is done once a connection is over."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self._host.roots)
        context.load_cert_chain(self._host.pem)
        self._reader, self._writer = await asyncio.open_connection(
            self._address, self._port, ssl=context, server_hostname=SERVER_NAME, limit=2**20
        )
        await self._one(next(self._requests))
        self.taken, self.answers = [], []

    async def run(self) -> None:
        for _ in range(self._count):
            started = time.perf_counter()
            await self._one(next(self._requests))
            self.taken.append(time.perf_counter() - started)
        self._writer.close()

    async def _one(self, request: bytes) -> None:
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        body = await self._reader.readexactly(length)
        if head.startswith(b"http/1.1 200"):
            self.answers.append(msgspec.json.decode(body, type=SignAnswer))
        else:
            self.failures.append(body.decode(errors="replace")[:300])

    def signed(self) -> int:
        return sum(1 for answer in self.answers for item in answer.signed if item.chain)

    def denied(self) -> list[str]:
        return [*self.failures, *(item.denied for a in self.answers for item in a.signed if not item.chain)]

    def look(self) -> None:
        """Is the last certificate what was asked for? Raises if it is not."""
        from cryptography import x509

        last = self.answers[-1].signed[-1]
        leaf = x509.load_pem_x509_certificate(last.chain.encode())
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        namespace, _, account = last.identity.partition("/")
        asked = x509.load_pem_x509_csr(self._host.csrs[last.identity].encode())
        if not uri.endswith(f"/ns/{namespace}/sa/{account}") or leaf.public_key() != asked.public_key():
            raise ValueError(f"asked for {last.identity}, got {uri}")


async def load(job: Job) -> Outcome:
    clients = [Client(host, job) for host in job.hosts]
    for client in clients:
        await client.connect()
    started, cpu, server = time.perf_counter(), time.process_time(), cpu_seconds(job.server)
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run())
    seconds, used = time.perf_counter() - started, time.process_time() - cpu
    server_used = cpu_seconds(job.server) - server
    denied = [why for client in clients for why in client.denied()]
    if not denied:
        for client in clients:
            client.look()
    taken = [one for client in clients for one in client.taken]
    return Outcome(
        seconds=seconds,
        signed=sum(client.signed() for client in clients),
        p50=quantile(taken, 0.5),
        p99=quantile(taken, 0.99),
        cpu=used,
        server_cpu=server_used,
        denied=denied[:DENIALS_KEPT],
    )


if __name__ == "__main__":
    found = asyncio.run(load(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job)))
    sys.stdout.buffer.write(msgspec.json.encode(found))
