"""What the play `restore --tags store` finds in a real etcd, and refuses. With --check: the rest needs systemd."""

import asyncio
import json
import shutil
import sys
from pathlib import Path

from controlplane.demo.binaries import find_etcd
from controlplane.demo.etcd_cluster import EtcdCluster
from mesh.keys import EPOCH
from mesh.store.protocol import Op, Put
from tests.integration.collection.alone import ETC, MARKS, Alone, keep, run_alone

pytestmark = MARKS

CONFIRMED = ("-e", "holdfast_restore_confirm=mesh.example")
ROOT, OTHER = (f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n" for text in ("MIIB", "MIIC"))


class Lost(Alone):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.etcd = EtcdCluster(folder / "store", members=1)
        for name in ("ca", "root", "root-key"):
            shutil.copy(self.etcd.pki / f"{name}.pem", ETC / "etcd")
        programs = Path("/opt/holdfast/etcd/current")
        programs.mkdir(parents=True)
        (programs / "etcdctl").symlink_to(find_etcd().etcdctl)
        keep(self.backup / "store.ndjson.vault", "{}")
        keep(self.backup / "seal-key.vault", "the key")
        (self.backup / "ca.pem").write_text(ROOT)
        self.describe_backup()

    def restore(self, *words: str) -> str:
        endpoints = json.dumps({"__holdfast_etcd_endpoints": self.etcd.endpoints})
        return self.play("--check", "--tags", "store", "-e", "holdfast_backup=backup", "-e", endpoints, *words)

    def write(self, *ops: Op) -> None:
        async def once() -> None:
            store = self.etcd.store("root")
            try:
                await store.txn((), ops)
            finally:
                await store.close()

        asyncio.run(once())


def scenario(folder: Path) -> None:
    it = Lost(folder)
    try:
        # Nobody listens yet.
        assert "If its data is lost: ansible-playbook holdfast.mesh.site --tags etcd,openbao" in it.restore()
        it.etcd.launch()
        asyncio.run(it.etcd.ready())
        # Empty, and without users: it would be restored, and get them. With --check nothing is.
        said = it.restore()
        assert "failed=0" in said
        assert list(it.secrets.iterdir()) == []
        assert {path.name for path in ETC.rglob("*") if path.is_file()} == {"ca.pem", "root.pem", "root-key.pem"}
        # A mesh is there; it is given up, and is this one, whose root has been replaced since.
        it.write(Put(EPOCH, b'"e"'))
        assert "The store holds a mesh" in it.restore("-e", "holdfast_restore_confirm=other.example")
        (ETC / "ca.pem").write_text(OTHER + ROOT)
        assert "failed=0" in it.restore(*CONFIRMED)
        # These hosts were set up as another one.
        (ETC / "ca.pem").write_text(OTHER)
        assert "was set up as a control-plane node of another mesh" in it.restore(*CONFIRMED)
    finally:
        it.etcd.close()


def test_a_store_is_overwritten_only_if_it_is_given_up_and_this_mesh_s(tmp_path: Path):
    run_alone(__name__, tmp_path)


if __name__ == "__main__":
    scenario(Path(sys.argv[1]))
