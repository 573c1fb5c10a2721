"""ExternalService: a name outside of the mesh that its applications call."""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Literal

from mesh.model.base import Frozen, Object, Ref, ServiceRef, Violation
from mesh.model.checks import address_fault, at, ip_of, port_fault, repeated, shown
from mesh.model.routing import subdomain_fault, too_many
from mesh.model.service import Protocol

MAX_ADDRESSES, MAX_PORTS, MAX_NAMES, MAX_CERTIFICATES = 64, 64, 32, 64

_CERTIFICATE = re.compile(r"\s*-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----\s*")
_URI = re.compile(r"[a-z][a-z0-9+.-]*://[!-~]{1,2040}\Z")


class ExternalTls(Frozen, frozen=True, kw_only=True):
    """What the proxy does on the way out. A server is always verified: its chain, and one of its names."""

    mode: Literal["None", "Originate"] = "None"
    """Originate: the proxy speaks TLS. None: what the application sends goes out as it is."""
    sni: str = ""
    """Empty: the host."""
    ca_certificates: str = ""
    """PEM of the only roots that count; empty: those that the caller's host trusts."""
    subject_alt_names: tuple[str, ...] = ()
    """DNS names, URIs or IP addresses, of which the certificate must have one; empty: the SNI."""


class ExternalPort(Frozen, frozen=True, kw_only=True):
    port: int
    """The number callers know."""
    protocol: Protocol = "tcp"
    """What the server speaks: http is HTTP/1.1; http2 and grpc are HTTP/2."""
    target_port: int = 0
    """Where it is dialled; 0: the same number."""
    tls: ExternalTls = ExternalTls()


class ExternalServiceSpec(Frozen, frozen=True, kw_only=True):
    """Hosts or addresses."""

    hosts: tuple[str, ...] = ()
    """One DNS name, which proxies resolve by themselves."""
    addresses: tuple[str, ...] = ()
    """Fixed IP addresses."""
    ports: tuple[ExternalPort, ...] = ()


class ExternalService(Object, frozen=True, kw_only=True):
    """An upstream names it as it names a Service of its namespace; where there are both, the Service is meant."""

    api_version: str = "holdfast.dev/v1"
    kind: Literal["ExternalService"] = "ExternalService"
    spec: ExternalServiceSpec

    @property
    def service(self) -> ServiceRef:
        return ServiceRef(self.metadata.namespace, self.metadata.name)

    @property
    def host(self) -> str:
        """Its DNS name; empty: it has addresses only."""
        return self.spec.hosts[0] if self.spec.hosts else ""

    def authority(self, port: ExternalPort) -> str:
        """What it is called in requests to this port; empty: it has no name. A port that goes without saying is left
        out.
        """
        number, usual = port.target_port or port.port, 443 if port.tls.mode == "Originate" else 80
        return self.host if not self.host or number == usual else f"{self.host}:{number}"

    def check(self, existing: Mapping[Ref, Object]) -> Iterator[Violation]:
        del existing
        spec = self.spec
        if bool(spec.hosts) == bool(spec.addresses):
            yield Violation(path="spec", reason="exactly one of hosts and addresses is needed")
        yield from too_many("spec.hosts", spec.hosts, 1)
        for index, host in enumerate(spec.hosts):
            yield from at(f"spec.hosts[{index}]", _host_fault(host))
        yield from too_many("spec.addresses", spec.addresses, MAX_ADDRESSES)
        for index, address in enumerate(spec.addresses):
            yield from at(f"spec.addresses[{index}]", _address_fault(address))
        yield from repeated("spec.addresses", "", spec.addresses)
        yield from too_many("spec.ports", spec.ports, MAX_PORTS, 1)
        yield from repeated("spec.ports", ".port", (port.port for port in spec.ports))
        for index, port in enumerate(spec.ports):
            where = f"spec.ports[{index}]"
            yield from at(f"{where}.port", port_fault(port.port))
            if port.target_port:
                yield from at(f"{where}.targetPort", port_fault(port.target_port))
            yield from _tls_faults(f"{where}.tls", port.tls, self.host)


def _host_fault(host: str) -> str:
    if ip_of(host):
        return f"{shown(host)} is an IP address: put it in addresses"
    if "*" in host:
        return f"{shown(host)}: one name, which can be resolved, is needed"
    return subdomain_fault(host)


def _address_fault(address: str) -> str:
    if fault := address_fault(address):
        return fault
    found = ip_of(address)
    nowhere = found is not None and (found.is_unspecified or found.is_multicast)
    return f"{shown(address)} is nobody's address" if nowhere else ""


def _tls_faults(where: str, tls: ExternalTls, host: str) -> Iterator[Violation]:
    if tls.mode == "None":
        for field, value in (
            ("sni", tls.sni),
            ("caCertificates", tls.ca_certificates),
            ("subjectAltNames", tls.subject_alt_names),
        ):
            if value:
                yield Violation(path=f"{where}.{field}", reason="means nothing without mode: Originate")
        return
    if tls.sni:
        yield from at(f"{where}.sni", _host_fault(tls.sni))
    if not (host or tls.sni or tls.subject_alt_names):
        reason = "is missing: with addresses alone there is no name to compare the server's certificate with"
        yield Violation(path=f"{where}.subjectAltNames", reason=reason)
    yield from too_many(f"{where}.subjectAltNames", tls.subject_alt_names, MAX_NAMES)
    for index, name in enumerate(tls.subject_alt_names):
        yield from at(f"{where}.subjectAltNames[{index}]", _name_fault(name))
    yield from repeated(f"{where}.subjectAltNames", "", tls.subject_alt_names)
    if tls.ca_certificates:
        yield from at(f"{where}.caCertificates", _pem_fault(tls.ca_certificates))


def _name_fault(name: str) -> str:
    if ip_of(name) or _URI.match(name) or not subdomain_fault(name):
        return ""
    return f"{shown(name)} is neither a DNS name nor a URI nor an IP address"


def _pem_fault(text: str) -> str:
    """Are they certificates in PEM, and nothing else? A key among them would be published."""
    rest, count = text, 0
    while rest.strip():
        found = _CERTIFICATE.match(rest)
        if not found or not _is_der(found[1]):
            return f"the {count + 1}. part is not a PEM certificate"
        rest, count = rest[found.end() :], count + 1
    if not count:
        return "there is no certificate in it"
    return f"{count} certificates are more than {MAX_CERTIFICATES}" if count > MAX_CERTIFICATES else ""


def _is_der(text: str) -> bool:
    try:
        return base64.b64decode("".join(text.split()), validate=True)[:1] == b"\x30"
    except binascii.Error:
        return False
