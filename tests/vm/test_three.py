"""Three hosts that are etcd, OpenBao and control plane, as the README has them: one is lost for good, one reboots, all
data of all three are lost. Callers notice nothing of it; nor that a host that serves them reboots.
"""

import json
import re

import pytest

from controlplane.distribution.folder import Order
from controlplane.distribution.folder import build as build_dist
from tests.vm.controller import Played
from tests.vm.fleet import Fleet
from tests.vm.host import Host
from tests.vm.rolled import Rolled, ready
from tests.vm.versions import HERE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

CONFIRMED = ("-e", "holdfast_restore_confirm=vm.holdfast")
NEW_OPENBAO = ("-e", "holdfast_restore_openbao=vm.holdfast")
UNITS = ("holdfast-agent", "holdfast-envoy", "holdfast-host")

LOSE = "systemctl stop holdfast-etcd holdfast-openbao; rm -rf /var/lib/holdfast-etcd/data /var/lib/holdfast-openbao/*"


class Three(Rolled):
    @property
    def bao_token(self) -> str:
        return str(json.loads(self.secret("openbao-init"))["token"])

    def sealed(self, host: Host) -> bool:
        return bool(json.loads(self.bao("sys/seal-status", host))["sealed"])

    def voters(self) -> dict[str, str]:
        """OpenBao's raft configuration, as whoever leads has it: each member that has a vote, and its address."""
        found = json.loads(self.bao("sys/storage/raft/configuration", token=self.bao_token))
        return {one["node_id"]: one["address"] for one in found["data"]["config"]["servers"] if one["voter"]}

    def members(self) -> dict[str, int]:
        """Etcd's."""
        return {one["name"]: one["ID"] for one in json.loads(self.etcdctl("member list -w json"))["members"]}

    def signer_faults(self) -> dict[str, str]:
        """As `status` has them."""
        found = json.loads(self.holdfast("status", "-o", "json"))
        return {one["replica"]: one["signerFault"] for one in found["replicas"] if one["signerFault"]}

    def let_lead(self, host: Host) -> None:
        """In etcd and in OpenBao."""
        for member in self.planes:
            if self.leads(member) and member is not host:
                self.etcdctl(f"move-leader {self.members()[host.name]:x}", member)
                break
        host.wait(lambda: self.leads(host), what="it leads etcd")
        host.wait(lambda: self._pass_on(host), timeout=180, what="it leads OpenBao")

    def leads(self, host: Host) -> bool:
        """Etcd."""
        status = json.loads(self.etcdctl("endpoint status -w json", host))[0]["Status"]
        return bool(status["leader"] == status["header"]["member_id"])

    def _pass_on(self, host: Host) -> bool:
        for member in self.planes:
            if json.loads(self.bao("sys/leader", member))["is_self"]:
                if member is host:
                    return True
                self.bao("sys/step-down", member, method="PUT", token=self.bao_token)
        return False

    def processes(self) -> dict[str, list[str]]:
        """What runs on the hosts that serve: nobody has touched it if it is the same later."""
        show = f"systemctl show -p MainPID --value {' '.join(UNITS)}; sha256sum /etc/holdfast/agent.yaml"
        return {host.name: host.run(show).out.split() for host in self.agents}

    def whole(self) -> None:
        """All three of everything are there, and serve."""
        assert set(self.members()) == {host.name for host in self.planes}
        assert self.voters() == {host.name: f"{host.address}:8201" for host in self.planes}
        for host in self.planes:
            self.etcdctl("endpoint health", host)
            assert not self.sealed(host)
            host.wait(lambda host=host: ready(host), timeout=60, what="its node is ready")
            host.wait(lambda host=host: ": serving," in gate(host), timeout=60, what="its gate serves")
        found = json.loads(self.holdfast("status", "-o", "json"))
        assert {item["replica"] for item in found["replicas"]} == {host.name for host in self.planes}
        assert found["nodes"]["lost"] == []

    def settled(self) -> None:
        """Another run of the play finds nothing to do."""
        again = self.controller.play("site")
        assert set(again.changed.values()) == {0}, again.text[-6000:]


def gate(host: Host) -> str:
    return host.run("/opt/holdfast/current/bin/holdfast-agent status", check=False).out


def unharmed(found: dict[str, dict[str, int]], *plays: Played) -> None:
    assert found["faults"] == {}, (found, *(played.text[-2000:] for played in plays))
    assert sum(found["answers"].values()) > 100


@pytest.fixture(scope="module")
def three(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Three:
    dist = tmp_path_factory.mktemp("dist") / "dist"
    build_dist(dist, Order(**HERE), lambda _: None)
    made = Three(fleet, tmp_path_factory.mktemp("controller"), dist, planes=3, members=3)
    made.roll_out()
    made.answers()
    return made


def test_a_host_of_the_control_plane_is_lost_for_good_and_a_new_one_takes_its_place(three: Three):
    """The first of the group, and the one that leads. What its operator may not do meanwhile is refused in time."""
    lost, other = three.planes[:2]
    three.let_lead(lost)
    three.whole()
    before, running = three.members(), three.processes()
    with three.load() as found, three.watched() as away:
        lost.kill()
        three.asked = other
        backup = three.backup()
        refused = three.controller.play("restore", "-e", f"holdfast_backup={backup}", *CONFIRMED, check=False)
        assert "cp-1 cannot be reached, and a restore needs all of cp-1, cp-2, cp-3" in refused.words
        assert "take it out of the inventory" in refused.words
        assert all(ready(host) for host in three.planes[1:])
        three.fleet.replace(lost)
        three.controller.forget_connections()
        # A disk that was not mounted looks the same: nobody has given it up yet.
        unasked = three.controller.play("site", "--tags", "etcd,openbao", check=False)
        assert "say -e holdfast_replace=cp-1" in unasked.words
        assert three.members() == before
        played = three.controller.play("site", "-e", "holdfast_replace=cp-1")
    three.asked = three.cp
    unharmed(found, played)
    assert away == []
    three.whole()
    assert {name for name, member in three.members().items() if before[name] != member} == {"cp-1"}
    assert three.processes() == running
    three.settled()


def test_a_host_of_the_control_plane_reboots_and_one_play_unseals_its_openbao(three: Three):
    host, running = three.planes[1], three.processes()
    with three.load() as found, three.watched() as away:
        host.reboot()
        host.wait(lambda: ready(host), timeout=60, what="its node is ready")
        assert three.sealed(host)
        host.wait(lambda: list(three.signer_faults()) == [host.name], timeout=120, what="an operator is told of it")
        opened = three.controller.play("site", "--tags", "openbao")
        assert opened.changed == {"cp-1": 0, "cp-2": 1, "cp-3": 0, "web": 0, "api-2": 0}
    unharmed(found, opened)
    assert away == []
    three.whole()
    host.wait(lambda: three.signer_faults() == {}, timeout=120, what="all signers answer again")
    assert three.processes() == running


def test_all_data_of_all_members_are_lost_and_restored_also_by_plays_that_are_killed(three: Three):
    controller, backup, epoch, root = three.controller, three.backup(), three.epoch(), three.root()
    versions, running = three.versions(), three.processes()
    words = ("restore", "-e", f"holdfast_backup={backup}", *NEW_OPENBAO, *CONFIRMED)
    sealed = re.compile(r"^TASK \[holdfast.mesh.openbao : Ask this member how it is", re.MULTILINE)
    with three.load() as found:
        for host in three.planes:
            host.run(LOSE)
        early = controller.play(*words, check=False)
        assert "holdfast.mesh.site --tags etcd,openbao makes an empty one" in early.words
        controller.play("site", "--tags", "etcd,openbao")
        assert three.root() != root
        controller.play(*words, until=sealed)
        controller.play(*words, "--tags", "openbao")
        # As a play leaves it that is killed while it unseals them: one is open, too few to be asked anything.
        for host in three.planes[1:]:
            host.run("systemctl restart holdfast-openbao")
        played = controller.play(*words)
        assert three.root() == root
        assert three.epoch() not in {"", epoch}
    unharmed(found, played)
    three.back_at(versions)
    three.whole()
    assert three.processes() == running


def test_a_host_that_serves_reboots_and_its_callers_do_not_notice(three: Three):
    """Its service's unit is tied to the service, as docs/operations.md has it."""
    host = three.api
    host.run("holdfast-agent service hook api --unit api.service --write && systemctl daemon-reload")
    before = host.boot_id()
    with three.load() as found:
        three.called("api-2")
        host.reboot()
        three.called("api-2")
    assert host.boot_id() != before
    unharmed(found)
    assert set(found["answers"]) == {"web", "api-2"}
