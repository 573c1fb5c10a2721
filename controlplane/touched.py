"""What a batch of events changed in the view (`controlplane.view`), for those that have to look again. Pure."""

from dataclasses import dataclass, field

from mesh.model import Ref, ServiceRef


@dataclass(slots=True)
class Touched:
    """What a batch of events changed."""

    services: set[ServiceRef] = field(default_factory=set)
    """Their own objects."""
    instances: set[Ref] = field(default_factory=set)
    """Their records, or an endpoint of theirs."""
    nodes: set[str] = field(default_factory=set)
    """Their own objects, or when they joined, or whether they have instances at all."""
    endpoints: set[ServiceRef] = field(default_factory=set)
    """Own Services of which an endpoint changed."""
    imports: set[str] = field(default_factory=set)
    """Peers of which something imported changed."""
    replicas: bool = False
    bundles: bool = False
    config: bool = False
    peerings: bool = False
    """Peerings or ExportPolicies."""

    def add(self, other: "Touched") -> None:
        self.services |= other.services
        self.instances |= other.instances
        self.nodes |= other.nodes
        self.replicas |= other.replicas
        self.bundles |= other.bundles
        self.config |= other.config
        self.endpoints |= other.endpoints
        self.imports |= other.imports
        self.peerings |= other.peerings

    def __bool__(self) -> bool:
        changed = self.services or self.instances or self.nodes or self.endpoints or self.imports
        return bool(changed or self.replicas or self.bundles or self.config or self.peerings)
