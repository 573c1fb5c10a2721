"""What stands in for refused objects, to and from the disk: a restart must not offer to Envoy again what it refused.

Pure.
"""

from typing import cast

import msgspec

from agent.pipeline import Substitute, Substitutes
from agent.quarantine import InForce, Replacement
from agent.state import StoredSubstitute, StoredWorld
from mesh import codec
from mesh.model import Object, Ref


def with_substitutes(stored: StoredWorld, substitutes: Substitutes) -> StoredWorld:
    """The world to store, with what stands in."""
    return msgspec.structs.replace(
        stored,
        substitutes=tuple(
            StoredSubstitute(
                kind=ref.kind,
                namespace=ref.namespace,
                name=ref.name,
                refused=codec.encode(s.refused) if s.refused else None,
                refused_revision=int(s.refused.metadata.resource_version or 0) if s.refused else 0,
                instead=codec.encode(s.instead.object) if s.instead.object else None,
                in_force=s.instead.in_force,
                reason=s.reason,
            )
            for ref, s in sorted(substitutes.items())
        ),
    )


def substitutes(stored: StoredWorld) -> Substitutes:
    """What stood in. One that cannot be read any more is left out: its object gets another try."""
    found = {}
    for kept in stored.substitutes:
        ref = Ref(kept.kind, kept.namespace, kept.name)
        try:
            refused = _read(kept.kind, kept.refused, kept.refused_revision)
            instead = _read(kept.kind, kept.instead, 0)
        except codec.Undecodable:
            continue
        found[ref] = Substitute(refused, Replacement(ref, instead, cast("InForce", kept.in_force)), kept.reason)
    return found


def _read(kind: str, raw: bytes | None, revision: int) -> Object | None:
    return codec.decode(kind, raw, revision) if raw is not None else None
