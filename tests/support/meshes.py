"""Worlds, hosts and identities for tests of what is compiled, with real certificates."""

import datetime as dt
from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mesh.model import (
    AuthorizationPolicy,
    AuthorizationPolicySpec,
    AuthorizationRule,
    AuthorizationSource,
    AuthorizationTarget,
    Endpoint,
    EndpointSpec,
    ExportPolicy,
    ExportPolicySpec,
    Identity,
    ImportedService,
    ImportedServiceSpec,
    LocalPort,
    MeshConfig,
    MeshConfigSpec,
    Metadata,
    NodeLocal,
    Object,
    Peering,
    PeeringSpec,
    Revision,
    Service,
    ServiceDefinition,
    ServicePort,
    ServiceSpec,
    TrustBundle,
    TrustBundleSpec,
    Upstream,
    World,
)
from mesh.model.world import Upserted

DOMAIN, CLUSTER = "east.test", "east"
FAKE_ROOT = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def world(*objects: Object, base: World | None = None, revision: int = 1) -> World:
    return (base or World()).apply([Upserted(o, Revision(revision)) for o in objects], Revision(revision))


def config(default: str = "Deny", cluster: str = CLUSTER) -> MeshConfig:
    spec = MeshConfigSpec(trust_domain=f"{cluster}.test", cluster=cluster, authorization_default=default)
    return MeshConfig(metadata=Metadata(name="default"), spec=spec)


def bundle(*roots: str, domain: str = DOMAIN) -> TrustBundle:
    return TrustBundle(metadata=Metadata(name=domain), spec=TrustBundleSpec(trust_domain=domain, roots=roots))


def peering(cluster: str, **spec: object) -> Peering:
    return Peering(metadata=Metadata(name=cluster), spec=PeeringSpec(trust_domain=f"{cluster}.test", **spec))


def export(*services: str, to: Iterable[str] = ("*",), **spec: object) -> ExportPolicy:
    return ExportPolicy(
        metadata=Metadata(name="exported", namespace="shop"),
        spec=ExportPolicySpec(services=services, to=tuple(to), **spec),
    )


def imported(found: Service, cluster: str) -> ImportedService:
    """As a peer's control plane writes it of its neighbour's Service."""
    return ImportedService(
        metadata=Metadata(name=f"{found.metadata.name}.{cluster}", namespace=found.metadata.namespace),
        spec=ImportedServiceSpec(
            service=found.metadata.name,
            cluster=cluster,
            trust_domain=f"{cluster}.test",
            ports=found.spec.ports,
            service_accounts=found.spec.service_accounts,
        ),
    )


def service(
    name: str, *, port: int = 80, protocol: str = "http", accounts: Iterable[str] | None = None, **spec: object
):
    ports = spec.pop("ports", (ServicePort(port=port, protocol=protocol, target_port=spec.pop("target", 0)),))
    return Service(
        metadata=Metadata(name=name, namespace="shop"),
        spec=ServiceSpec(ports=ports, service_accounts=tuple(accounts if accounts is not None else (name,)), **spec),
    )


def endpoint(
    service_name: str, name: str, address: str, *, mtls_port: int = 15443, ports=(80,), health="healthy", **more: object
):
    spec = EndpointSpec(
        service=service_name,
        node=name,
        address=address,
        port=mtls_port,
        service_account=service_name,
        ports=tuple(ports),
        health=health,
        **more,
    )
    return Endpoint(metadata=Metadata(name=f"{service_name}-{name}", namespace="shop"), spec=spec)


def rule(*principals: str, name: str = "", ports=(), namespaces=()) -> AuthorizationRule:
    sources = (AuthorizationSource(principals=principals, namespaces=tuple(namespaces)),)
    return AuthorizationRule(name=name, sources=sources if principals or namespaces else (), ports=tuple(ports))


def policy(name: str, target: str, *rules: AuthorizationRule, action: str = "Allow") -> AuthorizationPolicy:
    spec = AuthorizationPolicySpec(target=AuthorizationTarget(service=target), action=action, rules=rules)
    return AuthorizationPolicy(metadata=Metadata(name=name, namespace="shop"), spec=spec)


def definition(name: str, *ports: LocalPort, upstreams: Iterable[Upstream] = (), **more: object) -> ServiceDefinition:
    return ServiceDefinition(name=name, namespace="shop", ports=ports, upstreams=tuple(upstreams), **more)


def local(*definitions: ServiceDefinition, identities: dict[str, Identity] | None = None, **more: object) -> NodeLocal:
    held = {d.identity: fake_identity(d.identity) for d in definitions} if identities is None else identities
    values = {
        "node": "vm-1",
        "address": "127.0.0.1",
        "trust_domain": DOMAIN,
        "cluster": CLUSTER,
        "bundle_roots": (FAKE_ROOT,),
        "access_log": "/dev/null",
        **more,
    }
    return NodeLocal(definitions=definitions, identities=held, **values)


def fake_identity(name: str) -> Identity:
    """Looks like one; Envoy would not take it."""
    namespace, _, account = name.partition("/")
    spiffe_id = f"spiffe://{DOMAIN}/ns/{namespace}/sa/{account}"
    return Identity(spiffe_id=spiffe_id, chain_pem=f"chain {name}", key_pem=f"key {name}", not_before=0, not_after=9e9)


class TestCa:
    """A root of a trust domain, issuing what a test asks for."""

    __test__ = False

    def __init__(self, domain: str = DOMAIN) -> None:
        self.domain = domain
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"{domain} root")])
        now = dt.datetime.now(dt.UTC)
        self._root = (
            _builder(self._name, self._name, self._key.public_key(), now - dt.timedelta(days=1), now + dt.timedelta(9))
            .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def root(self) -> str:
        return self._root.public_bytes(serialization.Encoding.PEM).decode()

    def identity(
        self, path: str, *, hours: float = 1.0, dns: str = "", uri: str = "", more: Iterable[str] = ()
    ) -> Identity:
        """For `/ns/shop/sa/web`; a negative life is over already. `more`: URI names besides."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        begin, end = now - dt.timedelta(hours=24), now + dt.timedelta(hours=hours)
        uri = uri or f"spiffe://{self.domain}{path}"
        sans: list[x509.GeneralName] = [x509.UniformResourceIdentifier(name) for name in (uri, *more)]
        if dns:
            sans.append(x509.DNSName(dns))
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        leaf = (
            _builder(x509.Name([]), self._name, key.public_key(), begin, end)
            .add_extension(x509.SubjectAlternativeName(sans), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Identity(
            spiffe_id=uri,
            chain_pem=leaf.public_bytes(serialization.Encoding.PEM).decode(),
            key_pem=key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ).decode(),
            not_before=begin.timestamp(),
            not_after=end.timestamp(),
        )

    def workload(self, name: str, **more: object) -> Identity:
        namespace, _, account = name.partition("/")
        return self.identity(f"/ns/{namespace}/sa/{account}", **more)


def _builder(subject, issuer, key, begin, end) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)
