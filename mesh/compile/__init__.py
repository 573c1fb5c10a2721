"""What the mesh means for one proxy. Pure: no clock, loop, network, disk or log.

    World, NodeLocal --project--> NodeView --compile--> Snapshot --check--> faults (none, or it is not published)

1. `project` takes what this host needs and nothing more; bad data ends there, as a Problem beside the rest.
2. `Compiler.compile` is a function of the view alone. It remembers what it made, so an endpoint event costs that
   endpoint's Service and nothing else.
3. `check` says whether all references are closed, before anything leaves the process; a Checker at the cost of what
   changed.
4. `difference` says what a proxy would see of another snapshot, resource by resource.

    view, project       NodeView and how it is made       names      every resource name, once
    callee, standby     the part of it for calls that come in
    inbound, outbound   listeners, routes, clusters       tls        mTLS contexts, secrets
    gate, eastwest      the store gate, gateways          access     policies as RBAC
    endpoints           load assignments, spliced         http, parts  what several of them share
    attach, rules       routes and policies: which count for whom, in which order; routes makes Envoy's of them
    policies            what policies say of requests: tries, faults, limits make Envoy's words of it
    calls, callee       the two sides of a projection     conditions   what became of a route, for its status
    backends            endpoints of a call, in one cluster or several; passages: what a gateway passes on

    simulate            what an Envoy with a Snapshot does with one request; it knows nothing of the others
"""

from mesh.compile.check import Checker, check
from mesh.compile.compiler import Compiler, compile  # noqa: A004 - the word of the architecture
from mesh.compile.difference import Difference, difference
from mesh.compile.project import interest, project
from mesh.compile.types import Problem, Resource, Resources, Snapshot
from mesh.compile.view import NodeView

__all__ = [
    "Checker",
    "Compiler",
    "Difference",
    "NodeView",
    "Problem",
    "Resource",
    "Resources",
    "Snapshot",
    "check",
    "compile",
    "difference",
    "interest",
    "project",
]
