"""An HTTP connection manager: a request in, a verdict out."""

from dataclasses import replace
from typing import Any

from mesh import pb
from mesh.compile.simulate.fields import known
from mesh.compile.simulate.filters import Passing, first_answer
from mesh.compile.simulate.forward import act, edits_of
from mesh.compile.simulate.replies import sent
from mesh.compile.simulate.request import Refused, Request, received
from mesh.compile.simulate.routing import Chosen, choose
from mesh.compile.simulate.run import Run
from mesh.compile.simulate.verdict import Closed, Direct, Edits, NoRoute, To, Verdict


def handle(run: Run, hcm: Any, request: Request, listener: str) -> Verdict:
    """What becomes of a request on a connection that was let in."""
    known(hcm)
    known(hcm.rds)
    config = run.find(pb.ROUTE, hcm.rds.route_config_name)
    if config is None:
        run.note("route", listener, "rds.route_config_name", f"there is no {hcm.rds.route_config_name}")
        return Closed(reason="the listener waits for its routes")
    seen = received(hcm, request)
    if isinstance(seen, Refused):
        return _refused(run, hcm, config, seen, listener)
    chosen = choose(run, config, seen)
    passing = Passing()
    outcome: Verdict | None = first_answer(run, hcm, chosen, seen, listener, passing)
    if outcome is not None:
        edits = _edits_of_upstream(chosen, passing)
    elif chosen is not None:
        outcome, edits = act(run, chosen, seen, passing), edits_of(chosen, "response", passing.metadata)
    else:
        outcome, edits = NoRoute(status=404), ()
    if isinstance(outcome, To | Closed) or passing.preflight:
        return outcome
    return sent(hcm, replace(outcome, response=edits), passing, grpc=seen.grpc)


def _refused(run: Run, hcm: Any, config: Any, refused: Refused, listener: str) -> Verdict:
    run.note("request", listener, "", "it is refused before any filter sees it")
    chosen = choose(run, config, refused.looked) if refused.looked is not None else None
    reply = Direct(status=400, body=refused.body, response=_edits_of_upstream(chosen, Passing()))
    return sent(hcm, reply, Passing(), grpc=refused.grpc)


def _edits_of_upstream(chosen: Chosen | None, passing: Passing) -> tuple[Edits, ...]:
    """An answer that is not the route's own is edited as an upstream's would be, where the route has an upstream."""
    return edits_of(chosen, "response", passing.metadata) if chosen is not None and chosen.cluster else ()
