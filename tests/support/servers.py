"""Real servers for the CA's tests, one of each for a test module."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ca.signer.vault import VaultSettings
from controlplane.demo.bao import Bao
from controlplane.demo.etcd_cluster import EtcdCluster
from tests.support.ca import DOMAIN


@contextmanager
def openbao(directory: Path, *, login_ttl: str = "1h") -> Iterator[Bao]:
    """OpenBao with its PKI and AppRole set up."""
    with Bao(directory, login_ttl=login_ttl) as bao:
        bao.set_up(DOMAIN)
        yield bao


def vault_settings(bao: Bao, timeout: float = 5.0) -> VaultSettings:
    return VaultSettings(
        address=bao.address,
        ca_file=str(bao.ca_file),
        role_id_file=str(bao.role_id_file),
        secret_id_file=str(bao.secret_id_file),
        timeout=timeout,
    )


@contextmanager
def etcd(directory: Path, members: int = 1) -> Iterator[EtcdCluster]:
    """etcd with TLS and authentication."""
    cluster = EtcdCluster(directory, members=members)
    try:
        asyncio.run(cluster.start())
        yield cluster
    finally:
        cluster.close()
