"""What `explain` says of a call is what becomes of it: generated routes and requests, through real Envoys."""

import os
import random

import pytest

from mesh.compile import explain, project
from mesh.compile.explain import Present
from mesh.model.explained import AnswerQuestion, CallQuestion, Outcome
from tests.integration.traffic.rig import INSTANCES, Reply, Rig

pytestmark = pytest.mark.real

CONFIGS, REQUESTS = int(os.environ.get("HOLDFAST_CONFIGS", "25")), 40
"""The long form has 250: 10,000 calls."""
PATHS = ("/", "/a", "/a/", "/a/b", "/ab", "/v1", "/v1/x?q=1", "/v22/y", "/old/x", "/old", "/none")
HEADERS = (("version", "one"), ("version", "two"), ("colour", "blue"))
METHODS = ("GET", "POST", "DELETE")


class Configs:
    """Random routes for `api`, as YAML."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def next(self) -> str:
        rules = "\n".join(self._rule() for _ in range(self._rng.randint(1, 5)))
        routes = f"""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r, namespace: shop}}
spec:
  parentRefs: [{{group: "", kind: Service, name: api, port: 80}}]
  rules:
{rules}
"""
        return routes + self._policy()

    def _policy(self) -> str:
        """Who may call one of the instances."""
        target = self._rng.choice(list(INSTANCES))
        return f"""
---
apiVersion: holdfast.dev/v1
kind: AuthorizationPolicy
metadata: {{name: never, namespace: shop}}
spec: {{target: {{service: {target}}}, action: Deny, rules: [{{name: nobody, from: [{{principals: [shop/web]}}]}}]}}
"""

    def _rule(self) -> str:
        matches = ", ".join(self._match() for _ in range(self._rng.randint(0, 2)))
        if self._rng.random() < 0.15:
            redirect = "{type: RequestRedirect, requestRedirect: {hostname: new.test, statusCode: 301}}"
            return f"  - {{matches: [{matches}], filters: [{redirect}]}}"
        chosen = self._rng.sample([*INSTANCES, "gone"], self._rng.randint(1, 3))
        backends = ", ".join(f"{{name: {name}, port: 80, weight: {self._rng.randint(0, 3)}}}" for name in chosen)
        rewrite = ""
        if self._rng.random() < 0.3:
            full = "{type: ReplaceFullPath, replaceFullPath: /full}"
            rewrite = f", filters: [{{type: URLRewrite, urlRewrite: {{path: {full}}}}}]"
        return f"  - {{matches: [{matches}], backendRefs: [{backends}]{rewrite}}}"

    def _match(self) -> str:
        path = self._rng.choice((
            "", "path: {value: /a}", "path: {type: Exact, value: /a}", "path: {value: /old}",
            'path: {type: RegularExpression, value: "/v[0-9]+/.*"}', "path: {value: /v1}",
        ))  # fmt: skip
        more = self._rng.choice(
            ("", "method: POST", "headers: [{name: Version, value: two}]", 'queryParams: [{name: q, value: "1"}]')
        )
        return "{" + ", ".join(part for part in (path, more) if part) + "}"


def seen(reply: Reply) -> tuple[str, int, str, str]:
    """Who answered, the status, where to, and the path that the application saw."""
    if reply.status == 200:
        return (reply.by, 200, "", str(reply.seen["path"]))
    return ("", reply.status, reply.headers.get("location", ""), "")


def foretold(outcome: Outcome, allowed: dict[str, bool]) -> tuple[str, int, str, str]:
    if outcome.verdict != "to":
        return ("", outcome.status, outcome.location, "")
    name = outcome.service.partition(".")[0]
    return (name, 200, "", outcome.path) if allowed[name] else ("", 403, "", "")


class Explained:
    """Both sides of the rig, as their agents would explain them."""

    def __init__(self, mesh: Rig) -> None:
        self._caller = self._present(mesh, "caller")
        self._callees = {name: self._present(mesh, name) for name in INSTANCES}

    @staticmethod
    def _present(mesh: Rig, name: str) -> Present:
        host = mesh.caller if name == "caller" else mesh.callees[name]
        local, snapshot = host.published
        return Present(snapshot, project(mesh.world, local).frame, mesh.world, local)

    def outcomes(self, path: str, method: str, headers: tuple[tuple[str, str], ...]) -> list[Outcome]:
        asked = CallQuestion(
            name="web", namespace="shop", service="api", service_namespace="shop", port=80,
            path=path, method=method, headers=headers, host="app",
        )  # fmt: skip
        return list(explain.call(self._caller, asked).outcomes)

    def allowed(self, outcome: Outcome, name: str) -> bool:
        asked = AnswerQuestion(
            service=name, namespace="shop", port=80, caller="spiffe://east.test/ns/shop/sa/web",
            path=outcome.path or "/", host="app",
        )  # fmt: skip
        return all(found.verdict == "to" for found in explain.answer(self._callees[name], asked).outcomes)


def test_what_is_explained_is_what_happens(mesh: Rig):
    rng, told, single = random.Random(17), 0, 0
    configs = Configs(rng)
    for _ in range(CONFIGS):
        mesh.objects(configs.next())
        explained = Explained(mesh)
        for _ in range(REQUESTS):
            path, method = rng.choice(PATHS), rng.choice(METHODS)
            headers = tuple(rng.sample(HEADERS, rng.randint(0, 1)))
            outcomes = explained.outcomes(path, method, headers)
            assert sum(outcome.share for outcome in outcomes) == pytest.approx(1.0)
            may = {
                foretold(o, {n: explained.allowed(o, n) for n in INSTANCES if o.service.startswith(f"{n}.")})
                for o in outcomes
            }
            assert seen(mesh.get(path, method=method, headers=headers)) in may, (path, method, headers, outcomes)
            told, single = told + 1, single + (len(may) == 1)
    print(f"{told} calls foretold, {single} of them with one outcome only")
    assert single > told / 4
