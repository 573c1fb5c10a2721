"""What a newcomer is told once the demo is up: where everything is, and what to try."""

from controlplane.demo import sites
from controlplane.demo import topology as top
from controlplane.demo.clusters import Clusters
from controlplane.demo.mesh import Mesh, counted

ENV_FILE = "env.sh"


def write_env(mesh: Mesh) -> None:
    """A file to source: the CLI then talks to this demo."""
    connection = mesh.connection
    lines = [
        "# source this file; then `holdfast` talks to the demo",
        f"export HOLDFAST_ADDR={','.join(connection.addresses)}",
        f"export HOLDFAST_TOKEN_FILE={mesh.token_file}",
        f"export HOLDFAST_CA={mesh.ca_file}",
        f"export HOLDFAST_NAMESPACE={top.NAMESPACE}",
        "",
    ]
    (mesh.folder / ENV_FILE).write_text("\n".join(lines))


def where(mesh: Mesh) -> list[tuple[str, str, str]]:
    """Part, address, files."""
    shown = [
        (f"etcd, {counted(mesh.plan.etcd_members, 'member')}", " ".join(mesh.etcd.endpoints), str(mesh.folder / "etcd"))
    ]
    shown.append(("OpenBao", mesh.bao.address, str(mesh.folder / "bao")))
    for plane in mesh.topology.planes:
        shown.append((f"control plane {plane.name}", plane.url, str(mesh.folder / plane.name)))
        shown.append((f"store gate {plane.gate}", plane.gate_address, str(mesh.gates[plane.gate].home)))
    for host in mesh.topology.hosts:
        place = f"{host.address}:{top.MTLS_PORT} (mTLS), {host.address}:{host.port} (application)"
        shown.append((f"host {host.name}", place, str(mesh.hosts[host.name].home)))
    for gateway in mesh.topology.gateways:
        place = f"{gateway.address}:{top.GATEWAY_PORT} (other clusters)"
        shown.append((f"gateway {gateway.name}", place, str(mesh.gateways[gateway.name].home)))
    return shown


def tries(mesh: Mesh) -> list[tuple[str, str]]:
    """What it shows, command."""
    web, api, db = (mesh.topology.host(name) for name in ("web-1", "api-1", "db-1"))
    to_api = dict(db.calls)["api"]
    return [
        ("talk to this mesh", f"source {mesh.folder / ENV_FILE}"),
        ("web asks api; api names the caller it saw", f"curl -s http://{web.address}:{web.port}/api/hello"),
        ("web asks db, over TCP", f"curl -s 'http://{web.address}:{web.port}/db?line=hello'"),
        ("db may not call api", f"curl -si http://{db.address}:{to_api}/hello"),
        ("who may call whom", "holdfast get authorizationpolicies"),
        ("every proxy, and what is in force in it", "holdfast proxy status"),
        ("follow the endpoints", "holdfast watch endpoints"),
        (
            "make one api unhealthy, and see",
            f"curl -s -X POST 'http://{api.address}:{api.port}/control/health?ok=false'",
        ),
        ("the mesh at a glance; what is wrong with it", "holdfast status; holdfast doctor"),
    ]


def text(mesh: Mesh) -> str:
    """All of it as plain text."""
    lines = ["", "The mesh is up.", ""]
    lines += [f"  {part:<22} {place:<54} {files}" for part, place, files in where(mesh)]
    lines += ["", "Try, in another terminal:", ""]
    for what, command in tries(mesh):
        lines += [f"  # {what}", f"  {command}", ""]
    lines.append("Ctrl-C stops all of it.")
    return "\n".join(lines)


def of_clusters(clusters: Clusters) -> str:
    """The same of several clusters."""
    lines = ["", f"{len(clusters.names)} clusters are up and peered."]
    for name, mesh in clusters.meshes.items():
        lines += ["", f"{name}:"]
        lines += [f"  {part:<22} {place:<54} {files}" for part, place, files in where(mesh)]
    here, there = clusters.names[:2]
    first = clusters[here]
    web, batch = (first.topology.host(name).address for name in ("web-1", "batch-1"))
    only = sites.to_one(clusters.names, there)
    tries = (
        (f"talk to {here}", f"source {first.folder / ENV_FILE}"),
        ("its peers, and what they told", "holdfast peering list; holdfast get importedservices"),
        ("web asks api, wherever it is", f"curl -s http://{web}:{sites.to_all('http')}/hello"),
        (f"web asks api in {there}; api names the caller it saw", f"curl -s http://{web}:{only}/hello"),
        ("batch may not", f"curl -si http://{batch}:{only}/hello"),
    )
    lines += ["", "Try, in another terminal:", ""]
    for what, command in tries:
        lines += [f"  # {what}", f"  {command}", ""]
    lines.append("Ctrl-C stops all of it.")
    return "\n".join(lines)
