"""What the agent asks of the CA, and what came of it. Plain data: it crosses a pipe (see process)."""

from mesh.model import Frozen, Identity

NODE = "node"
GATE = "gate"


UNJOINED = "this host has not joined"
"""So the problem of an agent without an identity begins."""


def way(node: str) -> str:
    """What to do, word by word. For a host that was made anew under its old name it is the same."""
    return (
        f"with an operator's rights `holdfast token create {node} -i NAMESPACE/ACCOUNT --out FILE`, then on this host "
        "`holdfast-agent join --token-file FILE`"
    )


class JoinOrder(Frozen, frozen=True, kw_only=True):
    urls: tuple[str, ...]
    token: str
    node: str
    address: str
    key_pem: str
    """Kept until the join has succeeded: only the same key may repeat it."""


class SignOrder(Frozen, frozen=True, kw_only=True):
    urls: tuple[str, ...]
    roots: tuple[str, ...]
    trust_domain: str
    node: str
    own: Identity
    """The node's identity; it may have expired, then it is renewed by proof of its key first."""
    wanted: tuple[str, ...]
    """`<namespace>/<service-account>`, `node` or `gate`."""


class Order(Frozen, frozen=True, kw_only=True):
    """One line to the helper: one of these."""

    now: float
    key: bool = False
    """A fresh key is wanted, for a join."""
    join: JoinOrder | None = None
    sign: SignOrder | None = None


class Joined(Frozen, frozen=True, kw_only=True):
    own: Identity
    roots: tuple[str, ...]
    trust_domain: str
    cluster: str
    roles: tuple[str, ...]
    permitted: tuple[str, ...]
    gates: tuple[str, ...]
    controlplanes: tuple[str, ...]


class Outcome(Frozen, frozen=True, kw_only=True):
    key_pem: str = ""
    joined: Joined | None = None
    held: dict[str, Identity] = {}
    """What was issued, by the name it was asked for."""
    denied: dict[str, str] = {}
    """Name -> reason. The others are issued all the same."""
    roots: tuple[str, ...] = ()
    error: str = ""
    """Why nothing more came of it."""
    refused: bool = False
    """The CA said no to the whole: the same again will not succeed before `retry_after` seconds, if ever."""
    retry_after: float = 0.0
    clock: bool = False
    """This host's clock is why; `error` says how far it is off."""
