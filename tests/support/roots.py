"""A property of the builtin signer that holds on any store."""

import asyncio
import time

from ca import verify
from ca.seal import Cipher
from ca.signer.builtin import BuiltinSigner
from mesh.store.protocol import Store
from tests.support.ca import DOMAIN, SEAL_KEY, key_and_csr, public


async def replicas_agree_on_one_root(store: Store, replicas: int = 8) -> None:
    """Whoever is first makes it; an intermediate of each is good under the root that any of them names."""
    signers = [BuiltinSigner(store, Cipher([SEAL_KEY]), DOMAIN, clock=time.time) for _ in range(replicas)]
    roots: dict[int, tuple[str, ...]] = {}

    async def start(number: int) -> None:
        roots[number] = await signers[number].roots()

    async with asyncio.TaskGroup() as group:
        for number in range(replicas):
            group.create_task(start(number))
    assert len(set(roots.values())) == 1
    for signer in signers:
        key, csr = key_and_csr()
        chain = await signer.sign_intermediate(csr, 3600)
        assert isinstance(verify.issuer(chain, roots[0], public(key), time.time()), verify.Issuer)
