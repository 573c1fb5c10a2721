"""What a node must know of its mesh before it can serve: the MeshConfig, from the store, or from this node's disk.

The copy on disk lets a node restart while the store is away.
"""

from pathlib import Path

import structlog

from ca import disk
from controlplane.backup import unfinished
from mesh import codec, keys
from mesh.aio import Backoff, pause
from mesh.model import CLUSTER_SINGLETON, MeshConfig, Ref
from mesh.store.errors import StoreError
from mesh.store.protocol import Store

log = structlog.get_logger(__name__)

FILE = "mesh.json"
CONFIG_KEY = keys.key_for(Ref("MeshConfig", "", CLUSTER_SINGLETON))


async def learn(store: Store, data_dir: Path, backoff: Backoff) -> MeshConfig:
    """Read it, from the store if that answers, else from disk; wait while neither has it."""
    while True:
        try:
            found = await _stored(store)
        except StoreError as exc:
            if (kept := from_disk(data_dir)) is not None:
                log.warning("the store is away; going on with what is on disk", error=str(exc))
                return kept
            log.warning("waiting for the store", error=str(exc))
        else:
            if found is not None:
                keep(data_dir, found)
                return found
            log.warning("the mesh is not initialised, or being restored; run `holdfast init mesh`")
        await pause(backoff.next())


async def _stored(store: Store) -> MeshConfig | None:
    if await unfinished(store):
        return None
    item = await store.get(CONFIG_KEY)
    if item is None:
        return None
    try:
        config = codec.decode("MeshConfig", item.value, item.revision)
    except codec.Undecodable as exc:
        log.error("the MeshConfig cannot be read", error=str(exc))  # noqa: TRY400 - expected
        return None
    return config if isinstance(config, MeshConfig) else None


def from_disk(data_dir: Path) -> MeshConfig | None:
    try:
        config = codec.decode("MeshConfig", (data_dir / FILE).read_bytes())
    except (OSError, codec.Undecodable):
        return None
    return config if isinstance(config, MeshConfig) else None


def keep(data_dir: Path, config: MeshConfig) -> None:
    disk.write_private(data_dir / FILE, codec.encode(config))
