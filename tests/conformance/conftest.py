"""One mesh for all modules here, in whatever order they run: routes come and go on it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.demo.etcd_cluster import EtcdCluster
from tests.conformance.mesh import Mesh


@pytest.fixture(scope="session")
def mesh() -> Iterator[Mesh]:
    # Short: unix sockets are under it.
    with tempfile.TemporaryDirectory(prefix="hf-gw-") as name:
        folder = Path(name)
        cluster = EtcdCluster(folder / "etcd", members=1)
        found = Mesh(folder, cluster)
        try:
            found.start()
            yield found
        finally:
            found.close()
            cluster.close()
