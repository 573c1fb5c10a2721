"""Step 2: an allowed call is answered and its caller is known; one that no rule allows is refused, and says why."""

import json

from controlplane.demo import topology as top
from controlplane.demo.check.context import Context
from controlplane.demo.check.probe import call
from controlplane.demo.check.result import Findings
from mesh.model import DEFAULT_DENY

TITLE = "web → api answers and knows its caller; db → api is refused by the default deny"


async def run(context: Context, findings: Findings) -> None:
    web = context.mesh.topology.host("web-1")
    answer = await call(web.address, web.port, name="web", path="/api/hello")
    said = json.loads(answer.body).get("api") if answer.answered else None
    said = said if isinstance(said, dict) else {}
    findings.figure("web → api", f"status {answer.status} from {said.get('instance', '-')}")
    findings.figure("api saw", said.get("caller", ""))
    findings.expect(answer.answered, f"web's own answer: {answer}")
    findings.expect(said.get("caller") == top.spiffe_id("web"), f"api saw {said.get('caller')!r} as the caller")

    answer = await call(web.address, web.port, name="web", path="/db?line=ping")
    findings.figure("web → db (TCP)", json.loads(answer.body).get("db", answer.body) if answer.body else "-")
    findings.expect(answer.answered and "db-1: ping" in answer.body, f"web could not ask db: {answer}")

    await _denied(context, findings)


async def _denied(context: Context, findings: Findings) -> None:
    """As db's application, through db's own proxy; then as whoever holds db's key, straight at api's port."""
    address, port = context.local("db-1", "api")
    through = await call(address, port, path="/hello")
    straight = await context.call("api-1", as_=context.held("db-1"))
    for name, outcome in (("db → api", through), ("db's key → api's port", straight)):
        findings.figure(name, f"status {outcome.status}, denied by {outcome.denied_by or '-'}")
        findings.expect(outcome.status == 403, f"{name}: not refused with 403 but {outcome}")
        findings.expect(
            outcome.denied_by == DEFAULT_DENY, f"{name}: the denial does not name {DEFAULT_DENY}: {outcome}"
        )
