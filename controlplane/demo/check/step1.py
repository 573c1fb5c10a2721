"""Step 1: the hosts join with one-time tokens."""

from controlplane.cli.errors import CliError
from controlplane.demo.check.context import Context
from controlplane.demo.check.result import Findings

TITLE = "hosts join with one-time tokens"


async def run(context: Context, findings: Findings) -> None:
    mesh, api = context.mesh, context.api
    objection = await mesh.settled(api)
    findings.expect(not objection, objection)
    nodes = {n["metadata"]["name"]: n["spec"] for n in (await api.get("/v1/objects/nodes"))["items"]}
    findings.figure("nodes joined", len(nodes))
    for name, machine in (mesh.gates | mesh.hosts).items():
        findings.expect(name in nodes, f"{name} is not among the nodes")
        findings.expect(machine.agent.running, f"the agent of {name} does not run")
    for host in mesh.topology.hosts:
        spec = nodes.get(host.name, {})
        findings.expect(
            spec.get("identities") == [host.identity],
            f"{host.name} may run {spec.get('identities')}, its token said {host.identity}",
        )
    await _token_is_used_up(context, findings)


async def _token_is_used_up(context: Context, findings: Findings) -> None:
    """The token that a host has joined with, tried by a stranger with another key."""
    from cryptography.hazmat.primitives.asymmetric import ec

    from controlplane.demo.check.forge import intermediate_request

    host = context.mesh.topology.host("web-1")
    body = {
        "token": (context.mesh.host(host.name).home / "token").read_text().strip(),
        "node": host.name,
        "address": host.address,
        "csr": intermediate_request(ec.generate_private_key(ec.SECP256R1()), "stranger"),
    }
    try:
        await context.api.call("POST", "/v1/join", body=body)
    except CliError as exc:
        findings.figure("a used token with another key", f"refused: {exc.message}")
    else:
        findings.expect(False, "a used token let another key join")
