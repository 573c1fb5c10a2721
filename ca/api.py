"""Issuer: attest -> authorize -> build -> sign -> verify -> audit, for every certificate that leaves this CA.

It has no transport: the control plane's REST API calls it with decoded messages and the facts of the connection.
Each decision is audited, refusals included; the audit line names the node, the identity, how the caller proved itself,
and the serial and digest of what was issued, so that a certificate can be found again and put on the deny list.
"""

import asyncio
import ipaddress
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ca import policy, template, verify
from ca.attest import join_token, node_cert
from ca.attest.node_records import NodeRecords
from ca.limits import Buckets, Rate, source_of
from ca.policy import Claims, Denied, Grant, Lifetimes, Standing
from ca.wire import JoinAnswer, JoinRequest, RenewRequest, SignAnswer, Signed, SignItem, SignRequest
from mesh import keys
from mesh.model.checks import shown
from mesh.store.protocol import Store

_HARMLESS = frozenset(string.ascii_letters + string.digits + "-./_")
MAX_ITEMS = 256
"""Of one SignRequest."""
TAKEN_SECONDS = 10.0
"""Until a host whose address another one holds may try again: by then a host that is gone has been missed."""


class Audit(Protocol):
    """Where decisions are recorded, durably, in order."""

    def record(self, event: str, **fields: object) -> None: ...

    def refused(self, address: str, event: str, **fields: object) -> None:
        """The same, of a caller who proved nothing; of many such lines only their number need be kept."""


class LeafSigner(Protocol):
    """ca.authority.Authority, as this module needs it."""

    @property
    def roots(self) -> tuple[str, ...]: ...

    def issue(self, grant: Grant, public_key: template.PublicKey, now: float) -> str | Denied: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """A host renews each identity every few hours and all of them at once after a restart."""

    identity: Rate = Rate(0.5, 30)
    """One identity on one node."""
    node: Rate = Rate(20, 600)
    """All of one node."""
    failed_joins: Rate = Rate(1, 30)
    """Of one source address: whoever guesses tokens or proofs is slowed down, a fleet that joins is not."""


@dataclass(frozen=True, slots=True)
class About:
    """What a joining host is told of its mesh."""

    trust_domain: str
    cluster: str
    gates: tuple[str, ...]
    controlplanes: tuple[str, ...]


class Issuer:
    """One per replica; holds its limits in memory, so n replicas allow n times as much."""

    def __init__(
        self,
        store: Store,
        authority: LeafSigner,
        audit: Audit,
        *,
        about: About,
        holder: Callable[[str, str], str],
        may_look_up: Callable[[str, str, float], float],
        life: Callable[[], Lifetimes] = Lifetimes,
        limits: Limits = Limits(),
        trusted: Callable[[], tuple[str, ...]] | None = None,
    ) -> None:
        """`holder`: (address, node) -> another node that is connected from this address; empty: there is none.

        `may_look_up`: (key, source address, now) -> 0 if the store may be asked for this record, or seconds to wait.
        `trusted`: all roots of this trust domain, if more than the ones that this replica's own chains lead to.
        """
        self._holder, self._may_look_up = holder, may_look_up
        self._store, self._authority, self._audit, self._about, self._life = store, authority, audit, about, life
        self._per_identity, self._per_node = Buckets(limits.identity), Buckets(limits.node)
        self._failures = Buckets(limits.failed_joins)
        self._trusted = trusted or (lambda: authority.roots)
        self._nodes = NodeRecords(store)
        self._issuers: dict[tuple[str, tuple[str, ...]], verify.Issuer] = {}

    async def join(self, request: JoinRequest, peer_ip: str, now: float) -> JoinAnswer | Denied:
        """A new host, by its token."""
        fault = await self._token_fault(request, peer_ip, now)
        outcome = fault or await self._join(request, now)
        if isinstance(outcome, Denied):
            if not outcome.retry_after:
                self._failures.take(source_of(peer_ip), now)
            told = {"allowed": False, "node": _plain(request.node), "peer": peer_ip, "reason": outcome.reason}
            if fault:
                self._audit.refused(peer_ip, "ca.join", **told)
            else:
                self._audit.record("ca.join", **told)
        return outcome

    async def _token_fault(self, request: JoinRequest, peer_ip: str, now: float) -> Denied | None:
        """Why this caller may not join, as far as it takes no token to hear it. Costs a read and a hash at most."""
        if wait := self._closed(peer_ip, now):
            return Denied("too many failed attempts from this address", retry_after=wait)
        if fault := policy.name_fault("node", request.node) or _address_fault(request.address):
            return Denied(fault)
        presented = join_token.parse(request.token)
        if isinstance(presented, Denied):
            return presented
        if wait := self._may_look_up(keys.TOKENS + presented.id, peer_ip, now):
            return Denied("too many unknown tokens", retry_after=wait)
        found = await join_token.check(self._store, request.token, request.node, now)
        return found if isinstance(found, Denied) else None

    async def _join(self, request: JoinRequest, now: float) -> JoinAnswer | Denied:
        """With a good token."""
        if other := self._holder(request.address, request.node):
            # It may be the same machine under a new name, whose old agent was not missed yet: so not for ever.
            reason = f"the address {request.address} is that of node {other}, which is connected"
            return Denied(reason, retry_after=TAKEN_SECONDS)
        key = verify.csr(request.csr)
        if isinstance(key, Denied):
            return key
        used = await join_token.consume(self._store, request.token, request.node, request.address, key, now)
        if isinstance(used, Denied):
            return used
        claims, standing = used
        chain, node = self._issue(claims, "node", standing, key, now), standing.node
        if isinstance(chain, Denied):
            return chain
        assert node is not None
        return JoinAnswer(
            chain=chain,
            roots=self._trusted(),
            trust_domain=self._about.trust_domain,
            cluster=self._about.cluster,
            node=node.metadata.name,
            identities=node.spec.identities,
            roles=node.spec.roles,
            gates=self._about.gates,
            controlplanes=self._about.controlplanes,
        )

    async def sign(self, claims: Claims, request: SignRequest, now: float) -> SignAnswer | Denied:
        """Certificates for a node that TLS has identified, one outcome an item."""
        if len(request.items) > MAX_ITEMS:
            return Denied(f"at most {MAX_ITEMS} items in one request")
        standing = await self._standing(claims.node)
        signed = []
        for number, item in enumerate(request.items):
            if number:
                await asyncio.sleep(0)  # a large batch leaves room for others between its items
            signed.append(self._sign_item(claims, item, standing, now))
        return SignAnswer(signed=tuple(signed), roots=self._trusted())

    def _sign_item(self, claims: Claims, item: SignItem, standing: Standing, now: float) -> Signed:
        # Policy before cryptography: who may not have it costs nothing.
        grant = self._authorize(claims, item.identity, standing, now)
        if isinstance(grant, Denied):
            return _not(item, grant)
        key = verify.csr(item.csr)
        if isinstance(key, Denied):
            self._refused(claims, item.identity, key)
            return _not(item, key)
        chain = self._build(claims, item.identity, grant, key, now)
        if isinstance(chain, Denied):
            return _not(item, chain)
        return Signed(identity=item.identity, chain=chain)

    async def renew(self, request: RenewRequest, now: float, peer_ip: str = "") -> Signed | Denied:
        """A node certificate, by proof of the old key; the old certificate may have expired up to 90 days ago."""
        if wait := self._closed(peer_ip, now):
            return Denied("too many failed attempts from this address", retry_after=wait)
        proved = node_cert.prove_expired(request, self._trusted(), self._about.trust_domain, now)
        if isinstance(proved, Denied):
            return self._not_renewed(proved, peer_ip, now)
        claims, key = proved
        standing = await self._standing(claims.node)
        if fault := policy.standing_fault(claims, standing):
            return self._not_renewed(Denied(fault), peer_ip, now, node=_plain(claims.node))
        chain = self._issue(claims, "node", standing, key, now)
        return chain if isinstance(chain, Denied) else Signed(identity="node", chain=chain)

    def _not_renewed(self, why: Denied, peer_ip: str, now: float, **more: object) -> Denied:
        """What was shown does not count, or not any more."""
        self._failures.take(source_of(peer_ip), now)
        self._audit.refused(peer_ip, "ca.renew", allowed=False, peer=peer_ip, reason=why.reason, **more)
        return why

    def _issue(
        self, claims: Claims, wanted: str, standing: Standing, key: template.PublicKey, now: float
    ) -> str | Denied:
        grant = self._authorize(claims, wanted, standing, now)
        return grant if isinstance(grant, Denied) else self._build(claims, wanted, grant, key, now)

    def _authorize(self, claims: Claims, wanted: str, standing: Standing, now: float) -> Grant | Denied:
        grant = policy.authorize(claims, wanted, standing, self._about.trust_domain, self._life())
        if isinstance(grant, Grant):
            wait = self._per_node.take(claims.node, now)
            wait = wait or self._per_identity.take(f"{claims.node} {wanted}", now)
            if not wait:
                return grant
            grant = Denied(f"too many certificates for {claims.node}; try again in {wait:.0f} s", retry_after=wait)
        self._refused(claims, wanted, grant)
        return grant

    def _build(self, claims: Claims, wanted: str, grant: Grant, key: template.PublicKey, now: float) -> str | Denied:
        """Build, sign, and verify what was signed. What fails that is not handed out."""
        chain = self._authority.issue(grant, key, now)
        leaf = chain if isinstance(chain, Denied) else self._verified(chain, grant, key, now)
        if isinstance(chain, Denied) or isinstance(leaf, Denied):
            fault = chain if isinstance(chain, Denied) else leaf
            assert isinstance(fault, Denied)
            self._refused(claims, wanted, fault)
            return fault
        self._audit.record(
            "ca.issue",
            allowed=True,
            node=claims.node,
            method=claims.method,
            spiffe_id=str(grant.spiffe_id),
            dns_names=list(grant.dns_names),
            serial=leaf.serial,
            digest=leaf.digest,
            not_after=leaf.not_after,
        )
        return chain

    def _verified(self, chain: str, grant: Grant, key: template.PublicKey, now: float) -> verify.Leaf | Denied:
        """Checked against the roots, not against what the signer says of itself."""
        issuer = self._issuer_of(verify.parts(chain)[1], now)
        leaf = issuer if isinstance(issuer, Denied) else verify.chain(chain, grant, key, issuer, now)
        if isinstance(leaf, Denied):
            return Denied(f"the CA signed something else than was granted: {leaf.reason}", retry_after=60.0)
        return leaf

    def _issuer_of(self, chain: str, now: float) -> verify.Issuer | Denied:
        """An intermediate's way to the root is verified once; it changes every ten days."""
        known = self._issuers.get((chain, self._authority.roots))
        if known is not None:
            return known
        issuer = verify.issuer(chain, self._authority.roots, None, now)
        if isinstance(issuer, verify.Issuer):
            self._issuers = {(chain, self._authority.roots): issuer}
        return issuer

    def _refused(self, claims: Claims, wanted: str, why: Denied) -> None:
        self._audit.record(
            "ca.issue",
            allowed=False,
            node=_plain(claims.node),
            method=claims.method,
            wanted=_plain(wanted),
            reason=why.reason,
        )

    def _closed(self, peer_ip: str, now: float) -> float:
        """Seconds until an address that failed often may try again."""
        level = self._failures.level(source_of(peer_ip), now)
        return 0.0 if level >= 1 else 1.0

    async def _standing(self, name: str) -> Standing:
        """Read for every request: an eviction counts at once."""
        return Standing(None) if policy.name_fault("node", name) else await self._nodes.get(name)


def _not(item: SignItem, why: Denied) -> Signed:
    return Signed(identity=item.identity[:256], denied=why.reason, retry_after=why.retry_after)


def _plain(text: str) -> str:
    """For the record: a name as it is, hostile text made short and printable."""
    return text if len(text) <= 128 and not (set(text) - _HARMLESS) else shown(text)


def _address_fault(text: str) -> str:
    """What other hosts dial: an IP address of one host."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return f"the address {shown(text)} is not an IP address"
    if address.is_unspecified or address.is_multicast or getattr(address, "scope_id", None):
        return f"the address {shown(text)} is not one that other hosts can dial"
    return ""
