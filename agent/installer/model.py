"""What an installation consists of."""

from dataclasses import dataclass, field
from typing import Optional

NAME = "holdfast"
HOME = "/var/lib/holdfast-install"
"""The installer's own: what was made, its copy for the removal, downloads under way."""
OPT = "/opt/holdfast"
CURRENT = OPT + "/current"
ENVOYS = OPT + "/envoy"
CONFIG = "/etc/holdfast"
AGENT_YAML = CONFIG + "/agent.yaml"
SHARED = (OPT, CONFIG)
"""Where other parts of Holdfast (a member of etcd, say) may have come to live since; they are not ours to remove."""
DATA = "/var/lib/holdfast"
LOGS = "/var/log/holdfast"
UNIT_FOLDER = "/etc/systemd/system"
AGENT_UNIT = "holdfast-agent.service"
ENVOY_UNIT = "holdfast-envoy.service"
HOST_UNIT = "holdfast-host.service"
COMMAND = "/usr/local/bin/holdfast-agent"
UNITS = (HOST_UNIT, ENVOY_UNIT, AGENT_UNIT)
"""In the order in which they start."""
AGENT_USER = "holdfast"
ENVOY_USER = "holdfast-envoy"
OLDEST_PYTHON = (3, 11)


class InstallError(Exception):
    """It cannot go on: what is wrong, and what to do."""


@dataclass(frozen=True)
class Service:
    """A local service as the command line has it."""

    name: str
    namespace: str
    account: str
    port: int
    protocol: str


@dataclass(frozen=True)
class Options:
    """What the operator asks for."""

    node: str = ""
    address: str = ""
    bind: str = ""
    """Where Envoy listens here; empty: at the address, or, where that is another machine's, everywhere."""
    gateway: bool = False
    """It passes connections between clusters."""
    controlplanes: tuple = ()
    identities: tuple = ()
    services: tuple = ()
    """Of Service."""
    files: tuple = ()
    """(name, text) of services.d."""
    settings: str = ""
    """The text of agent.yaml; empty: the least that it needs."""
    upgrade: bool = False


@dataclass(frozen=True)
class Facts:
    """What there is on this host."""

    root: bool = True
    python: tuple = (3, 11)
    python_faults: tuple = ()
    """Parts of the standard library that are missing."""
    arch: str = "x86_64"
    systemd: bool = True
    nftables: bool = True
    skew: Optional[float] = None
    """Seconds that the control plane's clock is ahead; None: it was not asked."""
    unreachable: str = ""
    """Why the control plane cannot be used."""
    free: dict = field(default_factory=dict)
    """Path -> (device, free bytes)."""
    taken: tuple = ()
    """Ports that somebody else holds: `15443 (mTLS)`."""
    there: frozenset = frozenset()
    """Paths and users that exist."""
    recorded: frozenset = frozenset()
    """Names of things that an earlier run of the installer has recorded."""
    logins: tuple = ()
    """Those of the users that are there and can be logged in to."""
    halves: tuple = ()
    """Of our users: (name, "user" or "group"), where one of the two is there and the other is not."""
    installed: str = ""
    """The version that CURRENT points to; empty: none."""
    node: str = ""
    """Of an agent.yaml that is there."""
    address: str = ""
    """By which this host reaches the control plane."""
    elsewhere: bool = False
    """The address that the operator names is none of this host's: a machine in front forwards to it (NAT)."""
    unbindable: bool = False
    """Nothing can listen at the address that the operator says it shall."""


@dataclass(frozen=True)
class Thing:
    """Something that the installation makes on the host."""

    kind: str
    """user, folder, file, link, tree (a virtual environment or an Envoy) or unit."""
    name: str
    """Its path; a user's name."""
    mode: int = 0o755
    owner: str = "root"
    text: str = ""
    target: str = ""
    stamp: str = ""
    """A tree: what it is made from. It is whole when this stands in it."""

    @property
    def key(self):
        return self.kind + " " + self.name
