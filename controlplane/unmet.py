"""What an apply should say of the routes and policies that it names, though all of it was written. Pure."""

from collections.abc import Collection, Iterable, Mapping

from controlplane.history import Change
from mesh import codec
from mesh.compile import conditions
from mesh.model import Object, Ref

KINDS = ("HTTPRoute", "GRPCRoute", "TCPRoute", "TrafficPolicy")
MOST = 100
"""Named in one answer; `get -o yaml` shows all conditions of an object."""


def concerned(named: Collection[str]) -> bool:
    """Can there be a warning of any of these?"""
    return any(name.startswith(KINDS) for name in named)


def warnings(named: Collection[str], changes: Iterable[Change], known: Mapping[Ref, Object]) -> list[dict[str, str]]:
    """One `{object, condition, reason, message}` for each condition that is not met, among the objects as they become.

    `named` are the objects of the call, `Kind namespace/name`; `known` is all that operators wrote, from before or
    after the change.
    """
    after = dict(known)
    for change in changes:
        after.pop(change.ref, None)
        if change.after is not None:
            after[change.ref] = codec.decode(change.ref.kind, change.after)
    found = conditions.unmet((obj for ref, obj in after.items() if str(ref) in named), after)
    return [
        {"object": str(obj.ref), "condition": unmet.type, "reason": unmet.reason, "message": unmet.message}
        for (obj, unmet), _ in zip(found, range(MOST), strict=False)
    ]
