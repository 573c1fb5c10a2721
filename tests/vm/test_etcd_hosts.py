"""The store's members on hosts: one is lost with its disk and replaced, space is given back, a used-up quota is told,
and data that differ. Clients write to all three meanwhile.
"""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from controlplane.distribution.folder import Order
from controlplane.distribution.folder import build as build_dist
from mesh.store.errors import StoreError
from mesh.store.etcd import EtcdStore, Tls
from mesh.store.protocol import Put
from tests.vm.controller import Controller, Played
from tests.vm.fleet import Fleet
from tests.vm.host import Host
from tests.vm.versions import HERE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

NAMES = ("etcd-1", "etcd-2", "etcd-3")
QUOTA = 32 * 2**20
SETTINGS = {
    "holdfast_etcd_quota_bytes": QUOTA,
    "holdfast_etcd_corrupt_check_time": "5s",
    "holdfast_etcd_defragment_min_bytes": 2**20,
}
FOLDER = "/etc/holdfast/etcd"
DATA = "/var/lib/holdfast-etcd/data"
DEFRAGMENT = "holdfast-etcd-defragment"


@dataclass
class Written:
    """What a client's writes came to."""

    keys: int = 0
    """Writes that were acknowledged: `written/0` to this one."""
    faults: list[str] = field(default_factory=list)
    """Each was written again, and went through then."""
    gap: float = 0.0
    """Seconds, the longest time without an acknowledged write."""


class Members:
    """Three hosts with the role etcd."""

    def __init__(self, fleet: Fleet, controller: Controller) -> None:
        self.fleet, self.controller = fleet, controller
        self.hosts = {host.name: host for host in fleet.up(*NAMES, variant="bare")}
        groups = {"holdfast_etcd": list(self.hosts.values()), "holdfast_controlplane": [self.hosts["etcd-1"]]}
        controller.write(groups, {}, **SETTINGS)

    def lose(self, host: Host) -> None:
        """With its disk; a new host takes its name and address."""
        self.fleet.replace(host)
        self.controller.forget_connections()

    def play(self, *words: str, check: bool = True) -> Played:
        return self.controller.play("site", "--tags", "etcd", *words, check=check)

    def etcdctl(self, host: Host, words: str) -> str:
        tls = f"--cacert {FOLDER}/ca.pem --cert {FOLDER}/root.pem --key {FOLDER}/root-key.pem"
        return host.run(f"/opt/holdfast/etcd/current/etcdctl {tls} --endpoints https://{host.address}:2379 {words}").out

    @property
    def leader(self) -> Host:
        for host in self.hosts.values():
            status = json.loads(self.etcdctl(host, "endpoint status -w json"))[0]["Status"]
            if status["leader"] == status["header"]["member_id"]:
                return host
        raise AssertionError("no member leads")

    def ids(self) -> dict[str, int]:
        members = json.loads(self.etcdctl(self.hosts["etcd-1"], "member list -w json"))["members"]
        return {member["name"]: member["ID"] for member in members}

    def processes(self) -> dict[str, str]:
        return {name: host.run("systemctl show -p MainPID holdfast-etcd").out for name, host in self.hosts.items()}

    def keys(self, host: Host) -> int:
        """As this member alone has them."""
        return int(
            self.etcdctl(host, "get --prefix written/ --count-only --consistency=s -w fields | grep Count | tr -dc 0-9")
        )

    def size(self, host: Host) -> int:
        return int(json.loads(self.etcdctl(host, "endpoint status -w json"))[0]["Status"]["dbSize"])

    def store(self) -> EtcdStore:
        ca, cert, key = (
            self.hosts["etcd-1"].run(f"cat {FOLDER}/{name}.pem").out.encode() for name in ("ca", "root", "root-key")
        )
        return EtcdStore([f"{host.address}:2379" for host in self.hosts.values()], tls=Tls(ca, cert, key))

    @contextmanager
    def writing(self) -> Iterator[Written]:
        """A client with three endpoints writes, one key after the other, until the block ends."""
        written, enough, store = Written(), threading.Event(), self.store()
        thread = threading.Thread(target=lambda: asyncio.run(_write(store, written, enough)))
        thread.start()
        try:
            yield written
        finally:
            enough.set()
            thread.join()


async def _write(store: EtcdStore, written: Written, enough: threading.Event) -> None:
    last = time.monotonic()
    try:
        while not enough.is_set():
            try:
                await store.txn([], [Put(f"written/{written.keys:08}", b"x")])
            except StoreError as exc:
                written.faults.append(str(exc))
                continue
            finally:
                written.gap = max(written.gap, time.monotonic() - last)
            written.keys, last = written.keys + 1, time.monotonic()
            await asyncio.sleep(0.01)
    finally:
        await store.close()


def went_on(written: Written) -> None:
    """What was on its way to a leader that is gone ends with its time, 5 s; no other write is held up for long."""
    print(f"{written.keys} writes, longest pause {written.gap:.2f} s, repeated {written.faults}")
    assert written.gap < 10, "no leader, or a client that stays with a member that is gone"
    assert len(written.faults) < 10, written.faults


@pytest.fixture(scope="module")
def members(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Members:
    dist = tmp_path_factory.mktemp("dist") / "dist"
    build_dist(dist, Order(**HERE), lambda _: None)
    made = Members(fleet, Controller(tmp_path_factory.mktemp("controller"), dist))
    made.play()
    return made


def test_a_member_whose_host_was_lost_is_replaced_and_clients_write_throughout(members: Members):
    lost = members.hosts["etcd-3"]
    if members.leader is not lost:
        members.etcdctl(members.leader, f"move-leader {members.ids()['etcd-3']:x}")
    before, running = members.ids(), members.processes()
    with members.writing() as written:
        lost.wait(lambda: members.keys(members.hosts["etcd-1"]) > 0, what="clients write")
        members.lose(lost)
        refused = members.play(check=False)
        assert refused.code != 0
        assert "-e holdfast_replace=etcd-3" in refused.words
        assert members.ids() == before
        assert lost.run(f"test -e {DATA}", check=False).code != 0
        played = members.play("-e", "holdfast_replace=etcd-3")
    after = members.ids()
    assert set(after) == set(NAMES)
    assert {name for name in NAMES if after[name] == before[name]} == {"etcd-1", "etcd-2"}
    assert played.changed["etcd-2"] == 0
    assert {**members.processes(), "etcd-3": ""} == {**running, "etcd-3": ""}
    went_on(written)
    for host in members.hosts.values():
        members.etcdctl(host, "endpoint health")
        host.wait(lambda host=host: members.keys(host) >= written.keys, what="all that was acknowledged is here")


def test_a_second_run_changes_nothing_and_settings_are_changed_one_member_after_the_other(members: Members):
    assert members.play().changed == dict.fromkeys(NAMES, 0)
    before = members.processes()
    with members.writing() as written:
        members.play("-e", "holdfast_etcd_log_level=info")
    after = members.processes()
    assert all(after[name] != before[name] for name in NAMES)
    went_on(written)


def test_the_timer_gives_back_space_member_by_member_while_clients_write(members: Members):
    one = members.hosts["etcd-1"]
    fill(members, QUOTA // 2)
    compact(members, one)
    sizes = {name: members.size(host) for name, host in members.hosts.items()}
    assert min(sizes.values()) > QUOTA // 3
    now = "[Timer]\nOnCalendar=\nOnCalendar=*:*:0/2\nRandomizedDelaySec=0\n"
    with members.writing() as written:
        for host in members.hosts.values():
            host.write(f"/run/systemd/system/{DEFRAGMENT}.timer.d/now.conf", now)
            host.run("systemctl daemon-reload")
        for host in members.hosts.values():
            host.run(f"systemctl restart {DEFRAGMENT}.timer")
        for name, host in members.hosts.items():
            host.wait(lambda name=name, host=host: members.size(host) < sizes[name] // 4, timeout=60, what="space")
    for host in members.hosts.values():
        host.run(f"rm -r /run/systemd/system/{DEFRAGMENT}.timer.d; systemctl daemon-reload")
        assert "defragmented: " in host.journal(DEFRAGMENT)
        assert "Failed" not in host.journal(DEFRAGMENT)
    went_on(written)


def test_a_quota_that_is_used_up_is_told_and_what_the_timer_starts_makes_room_again(members: Members):
    one = members.hosts["etcd-1"]
    with pytest.raises(StoreError, match="space exceeded"):
        fill(members, 2 * QUOTA)
    assert "NOSPACE" in members.etcdctl(one, "alarm list")
    compact(members, one)
    for host in members.hosts.values():
        host.run(f"systemctl start {DEFRAGMENT}", timeout=120)
        assert "alarm disarm" in host.journal(DEFRAGMENT, lines=5)
        assert members.size(host) < QUOTA // 4
    members.etcdctl(one, "alarm disarm")
    with members.writing() as written:
        one.wait(lambda: written.keys > 20, what="clients write")


MARK, SPOILT = b"a value that is spoilt on a disk", b"A VALUE THAT WAS SPOILT ON DISK!"
SPOIL = """
import mmap, sys
with open(sys.argv[1], "r+b") as file, mmap.mmap(file.fileno(), 0) as data:
    at, found = 0, 0
    while (at := data.find(sys.argv[2].encode(), at)) >= 0:
        data[at : at + len(sys.argv[3])] = sys.argv[3].encode()
        found += 1
    sys.exit(not found)
"""


def test_data_that_differ_are_found_and_the_member_is_replaced(members: Members):
    one, spoilt = members.hosts["etcd-1"], members.hosts["etcd-3"]
    if members.leader is spoilt:
        members.etcdctl(spoilt, f"move-leader {members.ids()['etcd-1']:x}")
    members.etcdctl(one, f"put marked '{MARK.decode()}'")
    spoilt.write("/run/spoil.py", SPOIL)
    words = f"{DATA}/member/snap/db '{MARK.decode()}' '{SPOILT.decode()}'"
    spoilt.wait(lambda: spoilt.run(f"python3 /run/spoil.py {words}").code == 0, what="its value is on disk")
    bad = members.ids()["etcd-3"]
    one.wait(lambda: "CORRUPT" in members.etcdctl(one, "alarm list"), timeout=60, what="the leader compares")
    assert f"memberID:{bad} alarm:CORRUPT" in members.etcdctl(one, "alarm list")
    # Nobody is told anything wrong: etcd refuses all, until an operator has looked.
    with pytest.raises(StoreError, match="corrupt"):
        fill(members, 1)
    # Nor does it start again with such data.
    spoilt.run("systemctl restart --no-block holdfast-etcd")
    spoilt.wait(lambda: "inconsistency" in spoilt.journal("holdfast-etcd"), timeout=60, what="it compares first")
    spoilt.run(f"systemctl stop holdfast-etcd && rm -rf {DATA}")
    members.etcdctl(one, "alarm disarm")
    members.play("-e", "holdfast_etcd_replace=etcd-3")
    assert members.etcdctl(spoilt, "get --print-value-only --consistency=s marked").strip() == MARK.decode()
    assert members.etcdctl(one, "alarm list").strip() == ""
    for host in members.hosts.values():
        members.etcdctl(host, "endpoint health")


def fill(members: Members, size: int) -> None:
    """The same key, written until about so many bytes of history are there."""

    async def write() -> None:
        store = members.store()
        try:
            for _ in range(max(1, size // 2**18)):
                await store.txn([], [Put("filled", bytes(2**18))])
        finally:
            await store.close()

    asyncio.run(write())


def compact(members: Members, host: Host) -> None:
    """What etcd does by itself after an hour."""
    revision = json.loads(members.etcdctl(host, "get filled -w json"))["header"]["revision"]
    members.etcdctl(host, f"compact {revision} --physical")
