"""A call crosses from one cluster into another: who answers knows who called; who may not is refused by name."""

import json

from controlplane.demo import sites
from controlplane.demo.check.clusters.context import Scene
from controlplane.demo.check.probe import Outcome, call
from controlplane.demo.check.result import Findings
from mesh.model import DEFAULT_DENY

TITLE = "web here → api elsewhere, through gateways of both; batch is refused by name"
CALLS = 8
"""Each on a connection of its own."""


async def run(scene: Scene, findings: Findings) -> None:
    for there in scene.elsewhere:
        with findings.part(there):
            await _one_way(scene, findings, scene.here, there)
    with findings.part(f"{scene.elsewhere[0]} → {scene.here}"):
        await _one_way(scene, findings, scene.elsewhere[0], scene.here)


async def _one_way(scene: Scene, findings: Findings, here: str, there: str) -> None:
    names = scene.clusters.names
    port = sites.to_one(names, there)
    before = [await scene.connections(name) for name in (here, there)]
    answers = [await call(scene.web(here), port, path="/hello") for _ in range(CALLS)]
    after = [await scene.connections(name) for name in (here, there)]
    said = [json.loads(a.body) if a.answered else {} for a in answers]
    findings.figure("web → api", _words(answers[0], said[0]))
    findings.figure("api saw", str(said[0].get("caller", "")))
    unanswered = [a for a in answers if not a.answered]
    findings.expect(not unanswered, f"{len(unanswered)} of {CALLS} were not answered: {unanswered[:2]}")
    wanted = sites.spiffe_id(here, sites.WEB)
    findings.expect(all(s.get("caller") == wanted for s in said), f"api did not see {wanted} as the caller: {said}")
    strangers = {str(s.get("instance", "")) for s in said if not str(s.get("instance", "")).endswith(f".{there}")}
    findings.expect(not strangers, f"others than api of {there} answered: {strangers}")
    for name, least, most in zip((here, there), before, after, strict=True):
        findings.expect(most > least, f"no gateway of {name} took a connection")
    findings.figure("connections at gateways", f"{here} +{after[0] - before[0]}, {there} +{after[1] - before[1]}")

    batch = scene.clusters[here].topology.host("batch-1").address
    refused = await call(batch, port, path="/hello")
    findings.figure("batch → api", f"status {refused.status}, denied by {refused.denied_by or '-'}")
    findings.expect(refused.status == 403, f"batch was not refused with 403 but {refused}")
    findings.expect(refused.denied_by == DEFAULT_DENY, f"the denial does not name {DEFAULT_DENY}: {refused}")


def _words(answer: Outcome, said: dict[str, object]) -> str:
    return f"status {answer.status} from {said.get('instance', '-')}"
