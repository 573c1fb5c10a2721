"""What is done once to a mesh, beside its running nodes: init, backup, restore. The CLI calls these.

`init_mesh` may be repeated: each step looks first, so a run that broke off is simply run again.
"""

import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ca import bundle
from ca.seal import Cipher
from ca.signer.protocol import Signer
from controlplane import auth
from controlplane.backup import BackupError, Progress, Restored, dump, silent, unfinished
from controlplane.backup import restore as restore_into
from controlplane.commit import declare
from controlplane.facts import CONFIG_KEY
from controlplane.issuing import make_signer
from controlplane.settings import Settings
from mesh import codec, keys
from mesh.model import CLUSTER_SINGLETON, MeshConfig, MeshConfigSpec, Metadata, Namespace, Ref, Revision, Violation
from mesh.store.errors import Conflict
from mesh.store.etcd import EtcdAdmin, EtcdStore, Tls
from mesh.store.protocol import Compare, Put, Store
from mesh.validate import validate

AUTHOR = "holdfast init"
_clock = time.time  # noqa: TID251 - this module is the composition root of the commands that call it
DAY = 86400.0


class SetupError(Exception):
    """It cannot be done; the text says what to do instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InitOptions:
    trust_domain: str
    cluster: str = "default"
    etcd_root_cert: str = ""
    """Files: the certificate and key of etcd's user root. Empty: users, roles and authentication are there already."""
    etcd_root_key: str = ""
    admin: str = "admin"
    admin_ttl: float = 30 * DAY
    new_token: bool = False
    """Make an admin token even if an operator is there already: for a token that was lost."""
    liveness_grace: float = 15.0


@dataclass(frozen=True, slots=True)
class InitResult:
    trust_domain: str
    cluster: str
    roots: tuple[str, ...]
    """PEM; operators verify the control plane by them."""
    admin_token: str
    """Shown once. Empty: operators were there already, and a new token was not asked for."""
    expires: float
    fresh: bool
    """False: the mesh was there already."""


async def init_mesh(settings: Settings, options: InitOptions, progress: Progress = silent) -> InitResult:
    """Users and authentication of etcd, the mesh's first objects, its root of trust, its first operator.

    Raises:
        SetupError, StoreError, SignerError, SealError.

    """
    _check(options)
    progress("etcd users and authentication", 0, 4)
    if options.etcd_root_cert:
        await _prepare_etcd(settings, options)
    cipher, store = Cipher.from_file(Path(settings.seal_key_file)), open_store(settings)
    try:
        signer = make_signer(settings, store, cipher, options.trust_domain, _clock)
        try:
            return await init_store(store, signer, options, _clock(), progress)
        finally:
            await signer.close()
    finally:
        await store.close()


async def init_store(
    store: Store, signer: Signer, options: InitOptions, now: float, progress: Progress = silent
) -> InitResult:
    """All but etcd's own set-up."""
    progress("mesh configuration", 1, 4)
    fresh = await _first_objects(store, options, now)
    progress("root of trust", 2, 4)
    roots = await signer.roots()
    published = await bundle.publish(store, options.trust_domain, roots, now)
    progress("first operator", 3, 4)
    token, expires = await _first_operator(store, options, now)
    progress("done", 4, 4)
    return InitResult(options.trust_domain, options.cluster, published.spec.roots, token, expires, fresh)


def _check(options: InitOptions) -> None:
    faults: list[Violation] = list(validate(_config(options), None))
    if not 60 <= options.admin_ttl <= 366 * DAY:
        faults.append(Violation(path="admin ttl", reason="from a minute to 366 days"))
    if bool(options.etcd_root_cert) != bool(options.etcd_root_key):
        faults.append(Violation(path="etcd root", reason="certificate and key belong together"))
    if faults:
        raise SetupError("; ".join(f"{fault.path}: {fault.reason}" for fault in faults))


def _config(options: InitOptions) -> MeshConfig:
    return MeshConfig(
        metadata=Metadata(name=CLUSTER_SINGLETON),
        spec=MeshConfigSpec(
            trust_domain=options.trust_domain,
            cluster=options.cluster,
            liveness_grace_seconds=options.liveness_grace,
        ),
    )


async def _prepare_etcd(settings: Settings, options: InitOptions) -> None:
    tls = Tls(_read(settings.etcd.ca) or b"", _read(options.etcd_root_cert), _read(options.etcd_root_key))
    admin = EtcdAdmin(
        settings.etcd.endpoints,
        tls=tls,
        server_name=settings.etcd.server_name,
        timeout=settings.etcd.timeout_seconds,
    )
    try:
        await admin.ensure_users()
        await admin.enable_auth()
    finally:
        await admin.close()


async def _first_objects(store: Store, options: InitOptions, now: float) -> bool:
    """Epoch, MeshConfig and the namespace `default`, in one transaction. False: they are there."""
    for _ in range(3):
        if await unfinished(store):
            raise SetupError("a restore into this store was broken off; repeat `holdfast restore`")
        item = await store.get(CONFIG_KEY)
        if item is not None:
            _same_mesh(item.value, options)
            return False
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        meta = {"uid": secrets.token_hex(16), "generation": 1, "creation_timestamp": stamp}
        config = _config(options)
        config = msgspec.structs.replace(config, metadata=msgspec.structs.replace(config.metadata, **meta))
        namespace = Namespace(metadata=Metadata(name="default", **{**meta, "uid": secrets.token_hex(16)}))  # type: ignore[arg-type]
        namespace_key = keys.key_for(Ref("Namespace", "", "default"))
        absent = [Compare(key, Revision(0)) for key in (CONFIG_KEY, keys.EPOCH)]
        ops = [
            Put(keys.EPOCH, codec.encode_struct(secrets.token_hex(16))),
            Put(CONFIG_KEY, codec.encode(config)),
            Put(namespace_key, codec.encode(namespace)),
        ]
        transaction = declare(AUTHOR, absent, ops, {})
        try:
            await store.txn(transaction.compares, transaction.ops)
        except Conflict:
            if await store.get(CONFIG_KEY) is None:
                raise SetupError("the store holds an epoch but no MeshConfig: it is not empty; restore it") from None
            continue
        return True
    raise SetupError("somebody else initialises this store at the same time; run it again")


def _same_mesh(value: bytes, options: InitOptions) -> None:
    try:
        there = codec.decode("MeshConfig", value)
    except codec.Undecodable as exc:
        raise SetupError(f"the store holds a MeshConfig that cannot be read: {exc}") from exc
    assert isinstance(there, MeshConfig)
    if (there.spec.trust_domain, there.spec.cluster) != (options.trust_domain, options.cluster):
        raise SetupError(
            f"this store holds another mesh already: trust domain {there.spec.trust_domain},"
            f" cluster {there.spec.cluster}. Nothing was changed"
        )


async def _first_operator(store: Store, options: InitOptions, now: float) -> tuple[str, float]:
    listing = await store.list(keys.OPERATORS)
    if listing.items and not options.new_token:
        return "", 0.0
    text, key, record = auth.new_token(options.admin, "admin", now, options.admin_ttl)
    await store.txn([Compare(key, Revision(0))], [Put(key, codec.encode_struct(record))])
    return text, record.expires


def open_store(settings: Settings) -> EtcdStore:
    """The mesh's store, as this node's user. The caller closes it."""
    etcd = settings.etcd
    tls = Tls(_read(etcd.ca) or b"", _read(etcd.cert), _read(etcd.key))
    return EtcdStore(etcd.endpoints, tls=tls, server_name=etcd.server_name, timeout=etcd.timeout_seconds)


def _read(path: str) -> bytes | None:
    try:
        return Path(path).read_bytes() if path else None
    except OSError as exc:
        raise SetupError(f"{path} cannot be read: {exc.strerror}") from exc


async def backup(settings: Settings, write: Callable[[bytes], object], progress: Progress = silent) -> int:
    """Everything at one revision, line by line to `write`; how many lines."""
    store = open_store(settings)
    try:
        config = await store.get(CONFIG_KEY)
        if config is None:
            raise SetupError("this store holds no mesh")
        found = codec.decode("MeshConfig", config.value)
        assert isinstance(found, MeshConfig)
        spec = found.spec
        lines = list(await dump(store, cluster=spec.cluster, trust_domain=spec.trust_domain, now=_clock()))
    finally:
        await store.close()
    for number, line in enumerate(lines, 1):
        write(line)
        if number % 100 == 0 or number == len(lines):
            progress("writing the backup", number, len(lines))
    return len(lines)


async def restore(
    settings: Settings, lines: Iterable[bytes], *, overwrite: bool = False, progress: Progress = silent
) -> Restored:
    """Make the store be what a backup holds. The control-plane nodes must be stopped meanwhile.

    Raises:
        BackupError, SetupError, StoreError.

    """
    store = open_store(settings)
    try:
        return await restore_store(store, lines, overwrite=overwrite, progress=progress)
    finally:
        await store.close()


async def restore_store(
    store: Store, lines: Iterable[bytes], *, overwrite: bool, progress: Progress = silent
) -> Restored:
    running = [item.key.removeprefix(keys.REPLICAS) for item in (await store.list(keys.REPLICAS)).items]
    if running:
        raise SetupError(f"control-plane nodes are running ({', '.join(running)}); stop them, wait 10 s, and repeat")
    return await restore_into(
        store, lines, overwrite=overwrite, author="holdfast restore", new_epoch=secrets.token_hex(16), now=_clock(),
        progress=progress,
    )  # fmt: skip


__all__ = [
    "BackupError",
    "InitOptions",
    "InitResult",
    "Restored",
    "SetupError",
    "backup",
    "init_mesh",
    "init_store",
    "open_store",
    "restore",
    "restore_store",
]
