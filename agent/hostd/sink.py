"""Where a call by name goes while no rule redirects it: nowhere. A device that sends nothing, and a route to it. Pure.

127.0.0.0/8 is the host's own, so without the redirection a call to a virtual address would reach whoever listens on
that port on 0.0.0.0. A route for the virtual addresses alone, narrower and in the same table, leads to a device that
sends and receives nothing. With the rules in force that does not matter, since a redirected packet is routed anew;
without them the first packet is lost, and TCP sends it again after a second, when the rules are back.

The source is 127.0.0.1, as before. A device other than `lo` takes such packets only with `route_localnet`.
"""

from agent.hostd.wanted import VIRTUAL

DEVICE = "holdfast0"
KINDS = ("dummy", "bridge")
"""The first one that the kernel has. A bridge without ports sends nothing either."""
MTU = 65535
"""As large as `lo`'s, nearly: a connection learns its segments' size from this route."""

SHOW = ("-4", "route", "show", "exact", str(VIRTUAL), "table", "local")
REMOVE = ("link", "delete", DEVICE)
"""With its route."""


QUIET = ("link", "set", DEVICE, "addrgenmode", "none")
"""No address for IPv6, where the kernel has that."""
UP = ("link", "set", DEVICE, "arp", "off", "up")
ROUTE = (
    "route", "replace", "unicast", str(VIRTUAL), "dev", DEVICE, "scope", "link", "src", "127.0.0.1", "table", "local",
)  # fmt: skip


def make(kind: str) -> tuple[str, ...]:
    return "link", "add", DEVICE, "mtu", str(MTU), "type", kind


def stands(shown: str, localnet: str) -> bool:
    """Is it as it should be?

    Args:
        shown: What `ip` prints for `SHOW`.
        localnet: The device's `route_localnet`.

    """
    return f"{VIRTUAL} dev {DEVICE} " in shown and localnet.strip() == "1"
