"""Would Envoy take this snapshot? `envoy --mode validate` of a bootstrap that holds its resources as static ones.

It opens no port, uses no shared memory and asks nobody; what only a running Envoy can refuse (an address in use) is
not seen. The resources hold private keys, so they are in no file system: Envoy gets them as its standard input.
"""

import asyncio
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent import memfile
from agent.envoy import bootstrap
from agent.envoy.bootstrap import BootstrapSettings
from mesh import pb
from mesh.compile.types import Resources, Snapshot

TIMEOUT_SECONDS = 30.0
MAX_REASON = 500
AT_ONCE = 2

_NAME = "trial.pb"

_LOG_HEAD = re.compile(r"^\[[^\]]*\]\[\d+\]\[(?:error|critical)\]\[\w+\] (?:\[[^\]]*\] )?")
_NOISE = re.compile(r"^error initializing (?:config|configuration) '[^']*(?:' '[^']*)*': *", re.DOTALL)
_DEBUG_MARK = re.compile(r"goo\.gle/debug\w+")
"""Protobuf puts it into every message that it prints, so that nobody parses them."""


class Trial:
    def __init__(self, command: str, directory: Path, settings: BootstrapSettings) -> None:
        self._command, self._directory = command, directory
        # Names of agent and node do not matter, but references to ADS must resolve.
        self._inline = json.dumps(bootstrap.document(settings))
        self._few = asyncio.Semaphore(AT_ONCE)

    async def run(self, snapshot: Snapshot) -> str | None:
        """Envoy's reason to refuse it, or None. Few at a time: each costs a core for some 100 ms."""
        async with self._few:
            with memfile.opened(static_resources(snapshot)) as resources, self._folder() as folder:
                return await self._validate(resources, folder)

    @contextmanager
    def _folder(self) -> Iterator[int]:
        """A descriptor of the directory, in which a process finds its standard input under a name that Envoy takes.

        Envoy tells the form of a file by the end of its name, so it takes no /dev/fd/0; and it takes no name that leads
        to /proc or /dev, unless that begins with /dev/fd/.
        """
        self._directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        name = self._directory / _NAME
        if not name.is_symlink():
            name.unlink(missing_ok=True)
            name.symlink_to("/proc/self/fd/0")
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    async def _validate(self, resources: int, folder: int) -> str | None:
        process = await asyncio.create_subprocess_exec(
            *(self._command, "--mode", "validate", "-c", f"/dev/fd/{folder}/{_NAME}", "--config-yaml", self._inline),
            *("--log-level", "error", "--concurrency", "1"),
            stdin=resources,
            pass_fds=(folder,),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                _, words = await process.communicate()
        except TimeoutError:
            return f"no verdict in {TIMEOUT_SECONDS:g} s"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return reason(words.decode(errors="replace")) if process.returncode else None


def reason(log: str) -> str:
    """What Envoy says, without when and where it says it."""
    lines = [_LOG_HEAD.sub("", line) for line in log.splitlines() if line.strip()]
    words = _NOISE.sub("", " ".join(lines))
    words = " ".join(_DEBUG_MARK.sub("", words).split())
    # A protobuf constraint is told after the whole message that broke it.
    _, constraint, broken = words.rpartition("Proto constraint validation failed")
    words = constraint + broken
    return words[:MAX_REASON] or "refused without a reason"


def static_resources(snapshot: Snapshot) -> bytes:
    """An encoded Bootstrap that holds all of a snapshot. What has no static form is wrapped in what has."""
    bootstrap = pb.bootstrap()
    static = bootstrap.static_resources
    resources = snapshot.resources
    for body in _bodies(resources.get(pb.CLUSTER, {})):
        static.clusters.add().MergeFromString(body)
    for body in _bodies(resources.get(pb.LISTENER, {})):
        static.listeners.add().MergeFromString(body)
    for body in _bodies(resources.get(pb.SECRET, {})):
        secret = static.secrets.add()
        secret.MergeFromString(body)
        static.clusters.append(_user(secret))
    for body in _bodies(resources.get(pb.ENDPOINT, {})):
        assignment = pb.ClusterLoadAssignment.FromString(body)
        assignment.cluster_name = f"trial of endpoints {assignment.cluster_name}"
        static.clusters.add(name=assignment.cluster_name, type=pb.Cluster.STATIC, load_assignment=assignment)
    for number, body in enumerate(_bodies(resources.get(pb.ROUTE, {}))):
        static.listeners.append(_holder(pb.RouteConfiguration.FromString(body), number))
    return pb.encode(bootstrap)


def _bodies(resources: Resources) -> Iterator[bytes]:
    for name in sorted(resources):
        yield resources[name].body


def _user(secret: pb.Secret) -> pb.Cluster:
    """A secret is looked into only when something uses it."""
    tls = pb.CommonTlsContext()
    if secret.HasField("validation_context"):
        tls.validation_context_sds_secret_config.name = secret.name
    else:
        tls.tls_certificate_sds_secret_configs.add(name=secret.name)
    socket = pb.TransportSocket(name="tls", typed_config=pb.any_of(pb.UpstreamTlsContext(common_tls_context=tls)))
    return pb.Cluster(name=f"trial of secret {secret.name}", type=pb.Cluster.STATIC, transport_socket=socket)


def _holder(routes: pb.RouteConfiguration, number: int) -> pb.Listener:
    """Each has an address of its own: Envoy refuses two listeners on one."""
    manager = pb.HttpConnectionManager(stat_prefix="trial", route_config=routes)
    manager.http_filters.add(name="router").typed_config.Pack(pb.Router())
    listener = pb.Listener(name=f"trial of routes {routes.name}")
    listener.address.pipe.path = f"@trial-{number}"
    listener.filter_chains.add().filters.add(name="http").typed_config.Pack(manager)
    return listener
