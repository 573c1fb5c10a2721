"""A store, a real authority and the issuer on top, for tests of the whole path."""

import asyncio

import msgspec

from ca import keys
from ca.api import Limits
from ca.attest import join_token
from ca.policy import Claims, Lifetimes
from ca.wire import JoinAnswer, JoinRequest, RenewRequest, SignItem, SignRequest
from mesh import codec
from mesh.model import Metadata, Node, NodeSpec
from mesh.store.memory import MemoryStore
from mesh.store.protocol import Put
from tests.fakes.lying_signer import LyingAuthority
from tests.support.ca import (
    NOW,
    Records,
    key_and_csr,
    make_authority,
    make_issuer,
    mint,
)


class Ca:
    """A store, a real authority and the issuer on top."""

    def __init__(
        self, tmp_path, *, limits: Limits = Limits(), lie: str = "", life: Lifetimes = Lifetimes(), connected=None
    ) -> None:
        self.store, self.records = MemoryStore(), Records()
        self.authority = make_authority(tmp_path, life=life)
        signer = LyingAuthority(self.authority, lie) if lie else self.authority
        self.issuer = make_issuer(
            self.store, signer, self.records, limits, life=lambda: life, connected=connected or {}
        )

    async def start(self):
        await self.authority.start()
        return self

    async def put(self, name: str = "vm-1", **spec) -> None:
        node = Node(metadata=Metadata(name=name), spec=NodeSpec(**spec))
        await self.store.txn([], [Put(join_token.node_key(name), codec.encode(node))])

    async def join(self, *, token: str = "", csr: str = "", node: str = "vm-1", now: float = NOW, **more):
        token = token or (await mint(self.store, self.authority, node)).token
        request = {"address": "10.0.0.1", "csr": csr or key_and_csr()[1], **more}
        return await self.issuer.join(JoinRequest(token=token, node=node, **request), "192.0.2.1", now)

    async def sign(self, *identities: str, node: str = "vm-1", csr: str = "", now: float = NOW, issued: float = NOW):
        items = tuple(SignItem(identity=identity, csr=csr or key_and_csr()[1]) for identity in identities)
        return await self.issuer.sign(claims(node, issued), SignRequest(items=items), now)


def claims(node: str = "vm-1", issued: float = NOW) -> Claims:
    """What TLS says of an agent."""
    return Claims(node, "node_certificate", issued)


def run(tmp_path, scenario, **options):
    async def go():
        return await scenario(await Ca(tmp_path, **options).start())

    return asyncio.run(go())


async def renewed(ca, answer, key: str, now: float, **change):
    _, csr = key_and_csr()
    request = RenewRequest(chain=answer.chain, csr=csr, proof=keys.prove(key, csr))
    return await ca.issuer.renew(msgspec.structs.replace(request, **change), now, "192.0.2.1")


async def joined(ca):
    key, csr = key_and_csr()
    answer = await ca.join(csr=csr)
    assert isinstance(answer, JoinAnswer)
    return answer, key
