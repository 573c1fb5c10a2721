"""Whatever changes, what is taken over from before gives what a run from nothing gives."""

import random

import pytest
import yaml

from mesh import codec
from mesh.compile import Compiler, check, project
from mesh.compile.compiler import compile as compile_anew
from mesh.model import Endpoint, Object, Ref, Revision, ServiceRef, Upstream, World
from mesh.model.world import Change, EndpointRemoved, Removed, Upserted
from tests.support.meshes import bundle, config, definition, endpoint, local

SERVICES = ("api", "v1", "v2", "db", "nobody")
NAMESPACES = ("shop", "other")
STEPS = 150

HOST = local(
    definition(
        "web",
        upstreams=[
            Upstream(service=s, namespace=n, port=port, listen=f"127.0.0.1:{9000 + 100 * i + 10 * j + k}")
            for i, s in enumerate(SERVICES)
            for j, n in enumerate(NAMESPACES)
            for k, port in enumerate((80, 5432))
        ],
    )
)


class Changes:
    """Random objects of few names, so that they meet."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def next(self, world: World) -> list[Change]:
        return [self._one(world) for _ in range(self._rng.choice((1, 1, 1, 2, 3)))]

    def _one(self, world: World) -> Change:
        if self._rng.random() < 0.3:
            return self._endpoint(world)
        removable = sorted(ref for ref in world.objects if ref.kind != "MeshConfig")
        if removable and self._rng.random() < 0.25:
            return Removed(self._rng.choice(removable))
        make = self._rng.choice(
            (self._service, self._service, self._http, self._http, self._tcp, self._grant, self._policy)
        )
        obj = codec.decode_strict(yaml.safe_load(make()))
        assert isinstance(obj, Object), obj
        return Upserted(obj, Revision(1))

    def _endpoint(self, world: World) -> Change:
        service, number = self._rng.choice(SERVICES), self._rng.randint(0, 3)
        if world.endpoints and self._rng.random() < 0.3:
            ref = self._rng.choice(sorted(world.endpoints))
            return EndpointRemoved(ref, self._rng.choice(sorted(world.endpoints[ref])))
        made: Endpoint = endpoint(
            service, f"n{number}", f"10.0.0.{number + 1}", ports=(80, 5432),
            health=self._rng.choice(("healthy", "unhealthy", "lost")),
        )  # fmt: skip
        return Upserted(made, Revision(1))

    def _name(self) -> str:
        return self._rng.choice(SERVICES)

    def _place(self) -> str:
        return self._rng.choice(("shop", "shop", "shop", "other"))

    def _service(self) -> str:
        accounts = self._rng.choice(("[api]", "[api, web]", "[]"))
        http = self._rng.choice(("http", "grpc", "tcp"))
        return f"""
apiVersion: holdfast.dev/v1
kind: Service
metadata: {{name: {self._name()}, namespace: {self._place()}}}
spec:
  ports: [{{port: 80, protocol: {http}}}, {{port: 5432}}]
  serviceAccounts: {accounts}
"""

    def _backends(self, port: int) -> str:
        chosen = self._rng.sample((*SERVICES, "gone"), self._rng.randint(1, 3))
        return ", ".join(
            f"{{name: {n}, namespace: {self._place()}, port: {port}, weight: {self._rng.randint(0, 3)}}}"
            for n in chosen
        )

    def _http(self) -> str:
        kind = self._rng.choice(("HTTPRoute", "HTTPRoute", "GRPCRoute"))
        port = self._rng.choice(("", ", port: 80"))
        parent = f"{{group: '', kind: Service, name: {self._name()}, namespace: {self._place()}{port}}}"
        return f"""
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: r{self._rng.randint(0, 3)}, namespace: {self._place()}}}
spec:
  parentRefs: [{parent}]
  rules: [{{backendRefs: [{self._backends(80)}]}}]
"""

    def _tcp(self) -> str:
        return f"""
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {{name: t{self._rng.randint(0, 1)}, namespace: {self._place()}}}
spec:
  parentRefs: [{{group: "", kind: Service, name: {self._name()}}}]
  rules: [{{backendRefs: [{self._backends(5432)}]}}]
"""

    def _grant(self) -> str:
        return f"""
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {{name: g{self._rng.randint(0, 1)}, namespace: {self._place()}}}
spec:
  from: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: {self._place()}}}]
  to: [{{group: "", kind: Service}}]
"""

    def _policy(self) -> str:
        says = self._rng.choice((
            "circuitBreaking: {maxConnections: 5}", "timeouts: {connect: 2s}",
            "outlierDetection: {consecutiveErrors: 3}",
            "loadBalancing: {algorithm: Maglev, hash: [{header: x}]}", "locality: {strict: true}",
        ))  # fmt: skip
        port = self._rng.choice(("", ", port: 80", ", port: 5432"))
        return f"""
apiVersion: holdfast.dev/v1
kind: TrafficPolicy
metadata: {{name: p{self._rng.randint(0, 3)}, namespace: {self._place()}}}
spec:
  target: {{service: {self._name()}{port}}}
  {says}
"""


@pytest.mark.parametrize("seed", range(4))
def test_what_is_taken_over_is_what_a_run_from_nothing_gives(seed: int):
    changes, compiler = Changes(random.Random(seed)), Compiler()
    world = World().apply([Upserted(o, Revision(1)) for o in (config(), bundle("x"))], Revision(1))
    for step in range(STEPS):
        world = world.apply(changes.next(world), Revision(step + 2))
        view = compiler.project(world, HOST)
        fresh = project(world, HOST)
        assert view.frame == fresh.frame, step
        snapshot, anew = compiler.compile(view), compile_anew(fresh)
        assert check(snapshot) == (), step
        assert snapshot.digest == anew.digest, step
        assert {url: dict(r) for url, r in snapshot.resources.items()} == {
            url: dict(r) for url, r in anew.resources.items()
        }, step


def test_a_change_elsewhere_finds_the_same_objects_again():
    """Not equal ones: the same, so that what is made of them is not even compared."""
    changes, compiler = Changes(random.Random(3)), Compiler()
    world = World().apply([Upserted(config(), Revision(1))], Revision(1))
    for step in range(60):
        world = world.apply(changes.next(world), Revision(step + 2))
    before = compiler.project(world, HOST)
    compiler.compile(before)
    text = changes._service().replace("name: ", "name: unrelated-")
    obj = codec.decode_strict(yaml.safe_load(text))
    assert isinstance(obj, Object)
    after = compiler.project(world.apply([Upserted(obj, Revision(99))], Revision(99)), HOST)
    assert all(a is b for a, b in zip(before.frame.outbound, after.frame.outbound, strict=True))
    assert all(a is b for a, b in zip(before.frame.backends, after.frame.backends, strict=True))
    assert Ref("Service", obj.metadata.namespace, obj.metadata.name) == obj.ref
    assert ServiceRef(obj.metadata.namespace, obj.metadata.name) not in after.endpoints
