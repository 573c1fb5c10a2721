"""Makes a peering: a token here, its acceptance there, and then each side has the other's Peering and trust bundle.

Every step may be repeated: the token's use is marked first, by whom; what follows writes what is not there yet. So an
answer that is lost leaves nothing half done that the same call, again, would not finish.
"""

import base64
import hmac
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass

import msgspec
import structlog

from ca import client as ca_client
from ca import keys as ca_keys
from controlplane.applier import Applied, Applier
from controlplane.commit import declare
from controlplane.peered import learned
from controlplane.view import View
from mesh import codec, keys
from mesh.model import Metadata, Peering, PeeringSpec, Ref, Revision, TrustBundle, Violation
from mesh.model.checks import label_fault
from mesh.store.errors import Conflict
from mesh.store.protocol import Compare, Item, Put, Store
from multicluster import link, tokens, trust, wire
from multicluster.session import Me
from multicluster.tokens import Acceptance, Application, BadToken, Record, Token

log = structlog.get_logger(__name__)

ATTEMPTS = 4
# One text for whatever is wrong with it: a caller without one learns nothing by trying.
NO = "the peering token is not valid here: unknown, expired, or used by another cluster"
_NOBODY = tokens.secret_digest("")


class PeeringError(Exception):
    """There is no peering, and why."""

    def __init__(self, reason: str, *, status: int = 422, violations: Collection[Violation] = ()) -> None:
        super().__init__(reason)
        self.status, self.violations = status, tuple(violations)


@dataclass(frozen=True, slots=True)
class Made:
    token: str
    """To be shown once; it is stored nowhere."""
    id: str
    expires: float


class PeeringDesk:
    """Both sides' work, at any replica."""

    def __init__(
        self,
        store: Store,
        view: View,
        applier: Applier,
        me: Me,
        addresses: Callable[[], tuple[str, ...]],
        wall: Callable[[], float],
    ) -> None:
        self._store, self._view, self._applier, self._me = store, view, applier, me
        self._addresses, self._wall = addresses, wall

    async def mint(self, *, ttl: float, root: str, author: str, peer: str = "") -> Made:
        """A token for one cluster: this one, or whichever it will be. `root`: of the certificate of this node's server.

        Raises:
            PeeringError: its time or the peer's name is impossible.

        """
        if peer and (fault := label_fault(peer)):
            raise PeeringError(f"the peer's name: {fault}")
        if not tokens.MIN_TTL <= ttl <= tokens.MAX_TTL:
            raise PeeringError(f"a peering token lasts {tokens.MIN_TTL:g} to {tokens.MAX_TTL:g} seconds")
        now = self._wall()
        secret = base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")
        token = Token(
            id=os.urandom(8).hex(),
            secret=secret,
            cluster=self._me.cluster,
            trust_domain=self._me.trust_domain,
            pin=ca_keys.pin(root),
            addresses=self._addresses(),
        )
        digest = tokens.secret_digest(secret)
        record = Record(secret_sha256=digest, created=now, expires=now + ttl, author=author, peer=peer)
        key = keys.PEERING_TOKENS + token.id
        await self._store.txn([Compare(key, Revision(0))], [Put(key, codec.encode_struct(record))])
        return Made(tokens.text_of(token), token.id, record.expires)

    async def accept(self, text: str, author: str, *, anew: bool = False) -> Peering:
        """Use another cluster's token: the Peering with it, once both sides have theirs.

        A peer that is known already must be known by the root that the token names, unless it is to be known `anew`.

        Raises:
            PeeringError: the token is none, its maker says no, or is not reached.

        """
        try:
            token = tokens.parse(text)
        except BadToken as exc:
            raise PeeringError(str(exc)) from exc
        await self._check(token.cluster, token.trust_domain)
        held = self._view.bundle(token.trust_domain)
        if not anew and held is not None and token.pin not in {ca_keys.pin(root) for root in held.spec.roots}:
            reason = f"{token.cluster} is a peer already, and the token names a root that it does not have"
            raise PeeringError(f"{reason}: if it was set up anew, say so with --anew", status=409)
        bundle = self._own_bundle()
        wanted = Application(
            id=token.id,
            secret=token.secret,
            cluster=self._me.cluster,
            trust_domain=self._me.trust_domain,
            addresses=self._addresses(),
            bundle=trust.document(bundle.spec.sequence, bundle.spec.roots).decode(),
        )
        answer = await _apply_there(token, wanted)
        if (answer.cluster, answer.trust_domain) != (token.cluster, token.trust_domain):
            raise PeeringError("the cluster that answers is not the one that the token names", status=502)
        return await self._keep(answer.cluster, answer.trust_domain, answer.addresses, answer.bundle, author)

    async def establish(self, wanted: Application) -> Acceptance:
        """The maker's side: another cluster shows a token.

        Raises:
            PeeringError: it is no good one, or the cluster cannot be a peer of this one.

        """
        now = self._wall()
        item, record = await self._shown(wanted, now)
        if fault := label_fault(wanted.cluster) or wire.address_faults(wanted.addresses):
            raise PeeringError(f"the accepting cluster: {fault}")
        bundle = _bundle(wanted.bundle, wanted.trust_domain)
        user = tokens.user(wanted.cluster, trust.digest(bundle.sequence, bundle.roots))
        if record.consumed_by and not hmac.compare_digest(record.consumed_by.encode(), user.encode()):
            raise PeeringError(NO, status=403)
        if record.made and await self._store.get(keys.key_for(Ref("Peering", "", wanted.cluster))) is None:
            raise PeeringError("the peering that this token made was deleted here: a new token is needed", status=403)
        await self._check(wanted.cluster, wanted.trust_domain)
        await self._check_claim(wanted, bundle, record)
        if not record.consumed_by:
            record = msgspec.structs.replace(record, consumed_by=user, consumed_at=now)
            item = await self._mark(item, record)
        author = f"peering:{wanted.cluster}"
        await self._keep(wanted.cluster, wanted.trust_domain, wanted.addresses, wanted.bundle, author)
        if not record.made:
            await self._mark(item, msgspec.structs.replace(record, made=True))
        own = self._own_bundle().spec
        return Acceptance(
            cluster=self._me.cluster,
            trust_domain=self._me.trust_domain,
            addresses=self._addresses(),
            bundle=trust.document(own.sequence, own.roots).decode(),
        )

    async def _mark(self, item: Item, record: Record) -> Item:
        """Write down what became of a token."""
        value = codec.encode_struct(record)
        try:
            done = await self._store.txn([Compare(item.key, item.revision)], [Put(item.key, value)])
        except Conflict as exc:
            raise PeeringError("the token is being used by another call; try again", status=409) from exc
        return item._replace(value=value, revision=done)

    async def _shown(self, wanted: Application, now: float) -> tuple[Item, Record]:
        try:
            item = await self._store.get(keys.PEERING_TOKENS + keys.part(wanted.id[:64]))
            record = codec.decode_struct(Record, item.value) if item else None
        except (keys.BadKeyError, codec.Undecodable):
            item = record = None
        # Compared in any case, so that an unknown id takes as long as a wrong secret.
        fits = hmac.compare_digest(record.secret_sha256 if record else _NOBODY, tokens.secret_digest(wanted.secret))
        if item is None or record is None or not fits or now >= record.expires:
            raise PeeringError(NO, status=403)
        return item, record

    async def _check(self, cluster: str, trust_domain: str) -> None:
        """Can it be a peer of this cluster?"""
        if cluster == self._me.cluster:
            raise PeeringError(
                f"both clusters are called {cluster!r}: each needs a name of its own, which `holdfast init mesh"
                " --cluster` gives for good"
            )
        if trust_domain == self._me.trust_domain:
            raise PeeringError(f"both clusters are of trust domain {trust_domain!r}: each needs one of its own")
        for item in (await self._store.list(keys.prefix_for("Peering"))).items:
            try:
                other = codec.decode("Peering", item.value)
            except codec.Undecodable:
                continue
            assert isinstance(other, Peering)
            name, domain = other.metadata.name, other.spec.trust_domain
            if (name == cluster) != (domain == trust_domain):
                raise PeeringError(f"there is a peering {name} with trust domain {domain}: delete it first", status=409)

    async def _check_claim(self, wanted: Application, bundle: trust.Bundle, record: Record) -> None:
        """Whoever holds a token may be a new peer. To take the place of one that is there, it must be made for that:
        with the roots that it brings, it would speak for the other's whole trust domain.
        """
        if record.peer:
            if record.peer != wanted.cluster:
                raise PeeringError(f"this token is for the cluster {record.peer} alone", status=403)
            return
        if await self._store.get(keys.key_for(Ref("Peering", "", wanted.cluster))) is None:
            return
        held = self._view.bundle(wanted.trust_domain)
        if held is None or set(held.spec.roots) != set(bundle.roots):
            reason = f"{wanted.cluster} is a peer already, with other roots than these: to peer with it anew, make a"
            raise PeeringError(f"{reason} token with `holdfast peering token --for {wanted.cluster}`", status=403)

    async def _keep(
        self, cluster: str, trust_domain: str, addresses: tuple[str, ...], document: str, author: str
    ) -> Peering:
        """The Peering first: a bundle without one is removed."""
        bundle = _bundle(document, trust_domain)
        peering = await self._write_peering(cluster, trust_domain, addresses, author)
        await self._write_bundle(bundle, trust_domain, author)
        log.info("peering made", peer=cluster, trust_domain=trust_domain, addresses=addresses)
        return peering

    async def _write_peering(self, cluster: str, trust_domain: str, addresses: tuple[str, ...], author: str) -> Peering:
        """A new one, or the one that is there, with new addresses."""
        item = await self._store.get(keys.key_for(Ref("Peering", "", cluster)))
        fresh = Peering(
            metadata=Metadata(name=cluster), spec=PeeringSpec(trust_domain=trust_domain, addresses=addresses)
        )
        if item is not None:
            before = codec.decode("Peering", item.value)
            assert isinstance(before, Peering)
            outcome = learned(before, addresses)
            if isinstance(outcome, str):
                raise PeeringError(outcome)
            fresh = outcome
        done = await self._applier.apply((_document(fresh),), (), author=author, source="apply")
        if not isinstance(done, Applied):
            violations = getattr(done, "violations", ())
            raise PeeringError("the Peering cannot be written", violations=violations)
        return fresh

    async def _write_bundle(self, bundle: trust.Bundle, trust_domain: str, author: str) -> None:
        """An operator's token stands behind it, so it replaces whatever was known, also of a higher sequence."""
        made = trust.accept(None, bundle, trust_domain, {self._me.trust_domain})
        key = keys.key_for(made.ref)
        for _ in range(ATTEMPTS):
            item = await self._store.get(key)
            if item is not None and item.value == codec.encode(made):
                return
            compare = Compare(key, item.revision if item else Revision(0))
            transaction = declare(author, (compare,), (Put(key, codec.encode(made)),), {})
            try:
                await self._store.txn(transaction.compares, transaction.ops)
            except Conflict:
                continue
            return
        raise PeeringError("the trust bundle is being changed by others; try again", status=409)

    def _own_bundle(self) -> TrustBundle:
        bundle = self._view.bundle(self._me.trust_domain)
        if bundle is None:
            raise PeeringError("this node does not know its own trust bundle yet; try again soon", status=503)
        return bundle


def _document(peering: Peering) -> dict[str, object]:
    """As an operator would write it."""
    meta = peering.metadata
    return {
        "apiVersion": peering.api_version,
        "kind": peering.kind,
        "metadata": {"name": meta.name, "labels": meta.labels, "annotations": meta.annotations},
        "spec": msgspec.to_builtins(peering.spec),
    }


def _bundle(document: str, trust_domain: str) -> trust.Bundle:
    try:
        return trust.read(document.encode("utf-8", "surrogatepass"), trust_domain)
    except trust.Refused as exc:
        raise PeeringError(f"the trust bundle of {trust_domain[:80]}: {exc}") from exc


async def _apply_there(token: Token, wanted: Application) -> Acceptance:
    """Show the token to the cluster that made it, and to nobody else: its root must have the token's pin."""
    try:
        found = await ca_client.fetch_roots(token.addresses, token.pin)
    except ca_client.CaClientError as exc:
        raise PeeringError(f"the cluster that made the token is not reached: {exc}", status=502) from exc
    context, failures = ca_client.server_context(found.roots), list[str]()
    for address in token.addresses:
        try:
            return await link.call(
                address, "POST", link.ESTABLISH_PATH, context, ca_client.SERVER_NAME, wanted, Acceptance
            )
        except link.RefusedError as exc:
            raise PeeringError(f"the cluster that made the token says no: {exc}", status=422) from exc
        except link.LinkError as exc:
            failures.append(str(exc))
    raise PeeringError(f"the cluster that made the token does not answer: {'; '.join(failures)}", status=502)
