"""A real etcd cluster on loopback: TLS for clients and peers, authentication, users by certificate.

For the demo, the benches and the tests, which also stop, kill and pause its members and restore its snapshots.
"""

import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from controlplane import etcd_pki
from controlplane.demo.binaries import EtcdBinaries, find_etcd
from controlplane.demo.process import Process, free_ports
from mesh.store.errors import StoreError, Unavailable
from mesh.store.etcd import EtcdAdmin, EtcdStore, Tls

START_SECONDS = 60.0
TOOL_SECONDS = 60.0

SETTINGS: Mapping[str, str] = {
    # A call's objects go in one transaction, so the default of 128 operations would be far too few.
    "max-txn-ops": "10000",
    "max-request-bytes": str(4 * 2**20),
    "quota-backend-bytes": str(2 * 2**30),
    # Without it history grows until the quota is used up. An agent that was away for longer lists again.
    "auto-compaction-mode": "periodic",
    "auto-compaction-retention": "1h",
    "heartbeat-interval": "100",
    "election-timeout": "1000",
    # Nothing of ours uses the JSON gateway; a closed door needs no guard.
    "enable-grpc-gateway": "false",
    "log-level": "warn",
    "tls-min-version": "TLS1.2",
}


ALONE: Mapping[str, str] = {"heartbeat-interval": "20", "election-timeout": "100"}
"""For a cluster of one, which nobody can take the lead from: it only waits for less before it leads."""


class _Seat(NamedTuple):
    name: str
    address: str
    client_port: int
    peer_port: int

    @property
    def endpoint(self) -> str:
        return f"{self.address}:{self.client_port}"

    @property
    def peer(self) -> str:
        return f"{self.name}=https://{self.address}:{self.peer_port}"


class EtcdCluster:
    """`await start()`, then use it; `close()` stops all. Members are numbered from 0.

    All its files are under `folder`: pki/, member-N/, logs. Ports and data stay over stops and starts of a member.
    """

    def __init__(
        self,
        folder: Path,
        *,
        members: int = 3,
        addresses: Sequence[str] = ("127.0.0.1",),
        settings: Mapping[str, str] | None = None,
        binaries: EtcdBinaries | None = None,
    ) -> None:
        """Choose ports and make certificates.

        Args:
            folder: Made if missing.
            members: How many.
            addresses: Loopback addresses, dealt out in turn.
            settings: More flags of etcd, without the dashes.
            binaries: Where etcd is; found or built if not told.

        """
        self._folder, self._binaries = folder, binaries or find_etcd()
        self._settings = {**SETTINGS, **(ALONE if members == 1 else {}), **(settings or {})}
        self._seats = []
        for number in range(members):
            address = addresses[number % len(addresses)]
            self._seats.append(_Seat(f"etcd-{number}", address, *free_ports(2, address)))
        self._write_certificates()
        self._processes = [self._process(number) for number in range(members)]
        self._restores = 0

    # -- who is where

    @property
    def endpoints(self) -> tuple[str, ...]:
        """`<address>:<port>` of the members."""
        return tuple(seat.endpoint for seat in self._seats)

    @property
    def pki(self) -> Path:
        """Holds ca.pem, and <user>.pem with <user>-key.pem for each user."""
        return self._folder / "pki"

    @property
    def members(self) -> tuple[Process, ...]:
        return tuple(self._processes)

    def tls(self, user: str = etcd_pki.CONTROLPLANE_USER) -> Tls:
        """The credentials of a user."""
        return Tls(
            (self.pki / "ca.pem").read_bytes(),
            (self.pki / f"{user}.pem").read_bytes(),
            (self.pki / f"{user}-key.pem").read_bytes(),
        )

    def store(self, user: str = etcd_pki.CONTROLPLANE_USER, *, timeout: float = 5.0) -> EtcdStore:
        """A new client of all members. The caller closes it."""
        return EtcdStore(self.endpoints, tls=self.tls(user), timeout=timeout)

    def admin(self) -> EtcdAdmin:
        """A client as root. The caller closes it."""
        return EtcdAdmin(self.endpoints, tls=self.tls(etcd_pki.ROOT_USER))

    # -- life

    async def start(self) -> Self:
        """Start all members, wait until each sees a leader, then make the users and switch authentication on."""
        self.launch()
        await self.ready()
        admin = self.admin()
        try:
            await admin.ensure_users()
            await admin.enable_auth()
        finally:
            await admin.close()
        return self

    def launch(self) -> None:
        """Start those members that do not run, and wait for nothing."""
        for process in self._processes:
            if not process.running:
                process.start()

    async def ready(self, timeout: float = START_SECONDS) -> None:  # noqa: ASYNC109 - also bounds what is not async
        """Return once every member that runs sees a leader and gets a proposal through to it."""
        admin, deadline = self.admin(), time.monotonic() + timeout
        try:
            while True:
                states = zip(self._processes, await admin.status(), strict=True)
                waiting = [(p, s) for p, s in states if p.running and (not s.version or s.problems)]
                if not waiting and await self._all_propose():
                    return
                for process in self._processes:
                    if process.exit_code is not None and process.exit_code > 0:
                        process.check()
                if time.monotonic() > deadline:
                    process, state = waiting[0] if waiting else (self._processes[0], None)
                    process.wait_until(lambda: False, what=f"be ready ({state})", timeout=0)
        finally:
            await admin.close()

    async def _all_propose(self) -> bool:
        """Seeing a leader is not enough: what a member forwards to it over a connection not yet back is lost."""
        running = [seat.endpoint for seat, p in zip(self._seats, self._processes, strict=True) if p.running]
        for endpoint in running:
            store = EtcdStore([endpoint], tls=self.tls(etcd_pki.ROOT_USER), timeout=2)
            try:
                # Goes through the whole cluster's log, and leaves no trace in the data.
                await (await store.lease(1)).revoke()
            except Unavailable:
                return False
            finally:
                await store.close()
        return bool(running)

    def start_member(self, number: int) -> None:
        self._processes[number].start()

    def stop_member(self, number: int) -> None:
        self._processes[number].stop()

    def kill_member(self, number: int) -> None:
        self._processes[number].kill9()

    def pause_member(self, number: int) -> None:
        self._processes[number].pause()

    def resume_member(self, number: int) -> None:
        self._processes[number].resume()

    async def leader(self) -> int:
        """The leader's number; -1 if nobody says that it leads."""
        admin = self.admin()
        try:
            states = await admin.status()
        finally:
            await admin.close()
        return next((number for number, state in enumerate(states) if state.leader), -1)

    def stop(self) -> None:
        """Stop all members; they can be started again."""
        for process in self._processes:
            process.kill9()

    def close(self) -> None:
        """Stop all, for good. May be repeated."""
        self.stop()

    async def __aenter__(self) -> Self:
        try:
            return await self.start()
        except BaseException:
            self.close()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- snapshots

    def save_snapshot(self, path: Path) -> Path:
        """Save the state of the whole cluster to a file."""
        self._tool(
            self._binaries.etcdctl,
            f"--endpoints=https://{self.endpoints[self._a_running_member()]}",
            f"--cacert={self.pki / 'ca.pem'}",
            f"--cert={self.pki / 'root.pem'}",
            f"--key={self.pki / 'root-key.pem'}",
            "snapshot",
            "save",
            str(path),
        )
        return path

    def restore_snapshot(self, path: Path) -> None:
        """Put every member back to a snapshot, as an operator would after a loss; they are stopped afterwards.

        The data they had is kept beside the new. The cluster's id stays the same: it is made of names and addresses.
        """
        self.stop()
        self._restores += 1
        for seat in self._seats:
            data = self._data(seat)
            if data.exists():
                data.rename(data.with_name(f"{data.name}.before-{self._restores}"))
            self._tool(
                self._binaries.etcdutl,
                "snapshot",
                "restore",
                str(path),
                f"--name={seat.name}",
                f"--data-dir={data}",
                f"--initial-cluster={self._initial_cluster()}",
                f"--initial-advertise-peer-urls=https://{seat.address}:{seat.peer_port}",
            )

    def wipe(self) -> None:
        """Stop all members and delete their data."""
        self.stop()
        for seat in self._seats:
            shutil.rmtree(self._data(seat), ignore_errors=True)

    # -- parts

    def _a_running_member(self) -> int:
        return next(number for number, process in enumerate(self._processes) if process.running)

    def _tool(self, program: Path, *arguments: str) -> None:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=TOOL_SECONDS, check=False)
        if done.returncode:
            raise StoreError(f"{program.name} {arguments[0]}: {done.stderr[-2000:]}")

    def _data(self, seat: _Seat) -> Path:
        return self._folder / seat.name / "data"

    def _initial_cluster(self) -> str:
        return ",".join(seat.peer for seat in self._seats)

    def _process(self, number: int) -> Process:
        seat = self._seats[number]
        pki = self.pki
        client, peer = f"https://{seat.endpoint}", f"https://{seat.address}:{seat.peer_port}"
        flags = {
            "name": seat.name,
            "data-dir": str(self._data(seat)),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": self._initial_cluster(),
            "initial-cluster-token": "holdfast",
            "cert-file": str(pki / f"{seat.name}.pem"),
            "key-file": str(pki / f"{seat.name}-key.pem"),
            "trusted-ca-file": str(pki / "ca.pem"),
            "peer-cert-file": str(pki / f"{seat.name}.pem"),
            "peer-key-file": str(pki / f"{seat.name}-key.pem"),
            "peer-trusted-ca-file": str(pki / "ca.pem"),
            "client-cert-auth": "true",
            "peer-client-cert-auth": "true",
            **self._settings,
        }
        command = [str(self._binaries.etcd), *(f"--{name}={value}" for name, value in flags.items())]
        return Process(seat.name, command, log=self._folder / seat.name / "log")

    def _write_certificates(self) -> None:
        self.pki.mkdir(parents=True, exist_ok=True)
        now = time.time()
        ca = etcd_pki.make_ca(now)
        pairs = {
            user: etcd_pki.make_client(ca, user, now)
            for user in (etcd_pki.ROOT_USER, etcd_pki.CONTROLPLANE_USER, etcd_pki.GATE_USER)
        }
        pairs |= {seat.name: etcd_pki.make_member(ca, seat.name, [seat.address], now) for seat in self._seats}
        (self.pki / "ca.pem").write_bytes(ca.cert)
        for name, pair in pairs.items():
            (self.pki / f"{name}.pem").write_bytes(pair.cert)
            key = self.pki / f"{name}-key.pem"
            key.touch(mode=0o600)
            key.chmod(0o600)
            key.write_bytes(pair.key)
