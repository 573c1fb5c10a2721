"""One exchange with the CA: keys made, requests signed, answers checked. Runs in a process of its own (see process)."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent import memfile
from agent.identity.orders import GATE, NODE, Joined, JoinOrder, Order, Outcome, SignOrder
from agent.installer.preflight import MAX_SKEW, skew_fault
from ca import client
from ca.wire import JoinRequest, RenewRequest, Signed, SignItem, SignRequest
from mesh import spiffe
from mesh.model import Identity


class NotAsAskedError(Exception):
    """The CA sent something else than was asked for."""


async def run(order: Order) -> Outcome:
    """Do it. Expected failures are part of the outcome."""
    try:
        if order.key:
            return Outcome(key_pem=client.new_key())
        if order.join is not None:
            return await join(order.join, order.now)
        if order.sign is not None:
            return await sign(order.sign, order.now)
    except client.CaRefused as exc:
        return Outcome(error=str(exc), refused=True, retry_after=exc.retry_after)
    except (client.CaClientError, NotAsAskedError, ssl.SSLError, ValueError) as exc:
        return Outcome(error=str(exc) or type(exc).__name__)
    return Outcome(error="an order asks for nothing")


async def join(order: JoinOrder, now: float) -> Outcome:
    """A token becomes a node identity. Everything but the pinned root comes over a verified connection."""
    try:
        pin = client.pin_of_token(order.token)
    except ValueError as exc:
        return Outcome(error=str(exc), refused=True)
    found = await client.fetch_roots(order.urls, pin)
    if found.date is not None and abs(found.date - now) > MAX_SKEW:
        # A clock that is behind would fail next, in TLS, with words that name certificates and not clocks.
        return Outcome(error=skew_fault(found.date - now), clock=True)
    roots = found.roots
    request = JoinRequest(
        token=order.token.strip(), node=order.node, address=order.address, csr=client.new_csr(order.key_pem)
    )
    async with client.CaClient(order.urls, roots) as ca:
        answer = await ca.join(request)
    expected = str(spiffe.node(answer.trust_domain, order.node))
    return Outcome(
        joined=Joined(
            own=accept(answer.chain, order.key_pem, expected, now),
            # The pinned root is in it, or the answer is not from the mesh that the token is for.
            roots=tuple(dict.fromkeys((*roots, *answer.roots))),
            trust_domain=answer.trust_domain,
            cluster=answer.cluster,
            roles=answer.roles,
            permitted=answer.identities,
            gates=answer.gates,
            controlplanes=answer.controlplanes,
        )
    )


async def sign(order: SignOrder, now: float) -> Outcome:
    """All that is wanted in one call, each with a fresh key."""
    own, held = order.own, {}
    if own.not_after <= now:
        own = held[NODE] = await _by_proof(order, now)
    names = [name for name in order.wanted if name not in held]
    if not names:
        return Outcome(held=held)
    keys = {name: client.new_key() for name in names}
    request = SignRequest(items=tuple(SignItem(identity=n, csr=client.new_csr(k)) for n, k in keys.items()))
    with _files(own) as files:
        async with client.CaClient(order.urls, order.roots, identity=files) as ca:
            answer = await ca.sign(request)
    denied: dict[str, str] = {}
    for signed in answer.signed:
        key = keys.get(signed.identity)
        if key is None:
            continue
        if signed.denied or not signed.chain:
            denied[signed.identity] = signed.denied or "the CA sent no certificate"
            continue
        try:
            held[signed.identity] = accept(signed.chain, key, _expected(order, signed.identity), now)
        except NotAsAskedError as exc:
            denied[signed.identity] = str(exc)
    silent = [name for name in names if name not in held and name not in denied]
    denied |= dict.fromkeys(silent, "the CA did not answer for it")
    return Outcome(held=held, denied=denied, roots=answer.roots)


async def _by_proof(order: SignOrder, now: float) -> Identity:
    key = client.new_key()
    csr = client.new_csr(key)
    request = RenewRequest(chain=order.own.chain_pem, csr=csr, proof=client.prove(order.own.key_pem, csr))
    async with client.CaClient(order.urls, order.roots) as ca:
        signed: Signed = await ca.renew(request)
    if signed.denied:
        raise client.CaRefused(signed.denied, status=403)
    return accept(signed.chain, key, _expected(order, NODE), now)


def _expected(order: SignOrder, name: str) -> str:
    if name in {NODE, GATE}:
        return str(spiffe.node(order.trust_domain, order.node))
    namespace, _, account = name.partition("/")
    return str(spiffe.workload(order.trust_domain, namespace, account))


@contextmanager
def _files(identity: Identity) -> Iterator[client.ClientIdentity]:
    """Python's TLS reads certificates by the names of files only."""
    with memfile.named(identity.chain_pem.encode()) as chain, memfile.named(identity.key_pem.encode()) as key:
        yield client.ClientIdentity(Path(chain), Path(key))


def accept(chain_pem: str, key_pem: str, expected: str, now: float) -> Identity:
    """What was issued, if it is for our key and has the name that was asked for.

    Its life counts from now: certificates are backdated for clocks that are behind, and a short-lived one would be
    past its third before it came.

    Raises:
        NotAsAskedError: it is not.

    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    try:
        leaf, *_ = x509.load_pem_x509_certificates(chain_pem.encode())
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        key = serialization.load_pem_private_key(key_pem.encode(), None).public_key()
    except (ValueError, x509.ExtensionNotFound) as exc:
        raise NotAsAskedError("the CA sent what is not a certificate with a name") from exc
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if uris != [expected]:
        raise NotAsAskedError(f"the CA issued {uris!r} where {expected!r} was asked for")
    if leaf.public_key() != key:
        raise NotAsAskedError("the CA certified a key that is not ours")
    return Identity(
        spiffe_id=expected,
        chain_pem=chain_pem,
        key_pem=key_pem,
        not_before=max(now, leaf.not_valid_before_utc.timestamp()),
        not_after=leaf.not_valid_after_utc.timestamp(),
    )
