"""Random changes of a small mesh: Services, routes, grants, policies and endpoints of few names, so that they meet."""

import random

import yaml

from mesh import codec
from mesh.model import GATEWAY, Endpoint, EndpointSpec, GatewaySpec, Metadata, Object, Revision, Upstream, World
from mesh.model.world import Change, EndpointRemoved, Removed, Upserted
from tests.support.meshes import definition, endpoint, local

SERVICES = ("api", "v1", "v2", "db", "nobody")
NAMESPACES = ("shop", "other")
PEERS = ("west", "north")
FAR = tuple(f"{service}.{peer}" for service in ("api", "db") for peer in PEERS)
HOST = local(
    definition(
        "web",
        upstreams=[
            Upstream(service=s, namespace=n, port=port, listen=f"127.0.0.1:{9000 + 100 * i + 10 * j + k}")
            for i, s in enumerate((*SERVICES, "api.west", "db.north"))
            for j, n in enumerate(NAMESPACES)
            for k, port in enumerate((80, 5432))
        ],
    ),
    gateway=GatewaySpec(),
)


class Changes:
    """Random objects of few names, so that they meet."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def next(self, world: World) -> list[Change]:
        return [self._one(world) for _ in range(self._rng.choice((1, 1, 1, 2, 3)))]

    def objects(self, world: World) -> list[Upserted | Removed]:
        """Of objects alone, each once."""
        found: dict[object, Upserted | Removed] = {}
        while not found:
            for change in self.next(world):
                match change:
                    case Upserted(Endpoint()):
                        pass
                    case Upserted(obj):
                        found[obj.ref] = change
                    case Removed(ref):
                        found[ref] = change
        return list(found.values())

    def _one(self, world: World) -> Change:
        if self._rng.random() < 0.3:
            return self._endpoint(world)
        removable = sorted(ref for ref in world.objects if ref.kind != "MeshConfig")
        if removable and self._rng.random() < 0.25:
            return Removed(self._rng.choice(removable))
        make = self._rng.choice(
            (
                self.service, self.service, self._http, self._http, self._tcp, self._grant, self._policy,
                self._peering, self._imported, self._imported, self._bundle, self._export,
            )
        )  # fmt: skip
        obj = codec.decode_strict(yaml.safe_load(make()))
        assert isinstance(obj, Object), obj
        return Upserted(obj, Revision(1))

    def _endpoint(self, world: World) -> Change:
        service, number = self._rng.choice((*SERVICES, *FAR)), self._rng.randint(0, 3)
        if self._rng.random() < 0.1:
            spec = EndpointSpec(
                service=GATEWAY.name, node=f"n{number}", address=f"10.0.0.{number + 1}", port=15444,
                service_account="gateway", ports=(15444,), health=self._rng.choice(("healthy", "draining")),
            )  # fmt: skip
            meta = Metadata(name=f"gateway-n{number}", namespace=GATEWAY.namespace)
            return Upserted(Endpoint(metadata=meta, spec=spec), Revision(1))
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

    def service(self) -> str:
        accounts = self._rng.choice(("[api]", "[api, web]", "[]"))
        http = self._rng.choice(("http", "grpc", "tcp"))
        clusters = self._rng.choice(("[]", "[]", "['*']", "[west]", "[north, gone]"))
        return f"""
apiVersion: holdfast.dev/v1
kind: Service
metadata: {{name: {self._name()}, namespace: {self._place()}}}
spec:
  ports: [{{port: 80, protocol: {http}}}, {{port: 5432}}]
  serviceAccounts: {accounts}
  clusters: {clusters}
"""

    def _peering(self) -> str:
        peer, through = self._rng.choice(PEERS), self._rng.choice(("Direct", "Gateway"))
        return f"""
apiVersion: holdfast.dev/v1
kind: Peering
metadata: {{name: {peer}}}
spec: {{trustDomain: {peer}.test, through: {through}}}
"""

    def _imported(self) -> str:
        service, _, peer = self._rng.choice(FAR).partition(".")
        domain = self._rng.choice((peer, peer, peer, "stranger"))
        return f"""
apiVersion: holdfast.dev/v1
kind: ImportedService
metadata: {{name: {service}.{peer}, namespace: {self._place()}}}
spec:
  service: {service}
  cluster: {peer}
  trustDomain: {domain}.test
  ports: [{{port: 80, protocol: {self._rng.choice(("http", "tcp"))}}}, {{port: 5432}}]
  serviceAccounts: {self._rng.choice(("[api]", "[api, web]", "[]"))}
"""

    def _bundle(self) -> str:
        domain = f"{self._rng.choice((*PEERS, 'stranger'))}.test"
        pem = "-----BEGIN CERTIFICATE-----\\nAAAA\\n-----END CERTIFICATE-----\\n"
        return f"""
apiVersion: holdfast.dev/v1
kind: TrustBundle
metadata: {{name: {domain}}}
spec: {{trustDomain: {domain}, roots: ["{pem}"]}}
"""

    def _export(self) -> str:
        return f"""
apiVersion: holdfast.dev/v1
kind: ExportPolicy
metadata: {{name: x{self._rng.randint(0, 1)}, namespace: {self._place()}}}
spec: {{services: [{self._name()}], to: [{self._rng.choice(("'*'", "west", "gone"))}]}}
"""

    def _backends(self, port: int) -> str:
        chosen = self._rng.sample((*SERVICES, *FAR, "gone"), self._rng.randint(1, 3))
        kind = "group: holdfast.dev, kind: ImportedService, "
        return ", ".join(
            f"{{{kind if '.' in n else ''}name: {n}, namespace: {self._place()}, port: {port}, "
            f"weight: {self._rng.randint(0, 3)}}}"
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
