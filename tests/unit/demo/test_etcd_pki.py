"""etcd's own certificates, as OpenSSL's verifier (through cryptography) sees them."""

import datetime as dt
import ipaddress

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from controlplane import etcd_pki

NOW = 1_800_000_000.0


def load(pair):
    return x509.load_pem_x509_certificate(pair.cert)


def builder(ca):
    at = dt.datetime.fromtimestamp(NOW, dt.UTC)
    return PolicyBuilder().store(Store([load(ca)])).time(at)


def test_a_member_is_etcd_at_its_addresses():
    ca = etcd_pki.make_ca(NOW)
    member = load(etcd_pki.make_member(ca, "one", ["127.0.0.2", "::1", "etcd-1.example"], NOW))
    for name in (
        x509.DNSName("etcd"),
        x509.DNSName("etcd-1.example"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.2")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ):
        builder(ca).build_server_verifier(name).verify(member, [])
    with pytest.raises(VerificationError):
        builder(ca).build_server_verifier(x509.DNSName("other")).verify(member, [])
    with pytest.raises(VerificationError):
        builder(etcd_pki.make_ca(NOW)).build_server_verifier(x509.DNSName("etcd")).verify(member, [])


def test_a_client_is_its_user_and_no_server():
    ca = etcd_pki.make_ca(NOW)
    client = load(etcd_pki.make_client(ca, etcd_pki.GATE_USER, NOW))
    [name] = client.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == "holdfast-gate"
    assert client.issuer == load(ca).subject
    client.verify_directly_issued_by(load(ca))
    with pytest.raises(VerificationError):
        builder(ca).build_server_verifier(x509.DNSName("etcd")).verify(client, [])


def test_a_member_never_has_a_users_name():
    """etcd takes the CN of whoever connects for a user."""
    ca = etcd_pki.make_ca(NOW)
    member = load(etcd_pki.make_member(ca, "root", [], NOW))
    [name] = member.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == "etcd-member-root"


def test_a_member_of_openbao_is_openbao_at_its_addresses_and_no_client():
    ca = etcd_pki.make_ca(NOW, "holdfast OpenBao CA")
    member = load(etcd_pki.make_openbao_member(ca, "one", ["10.0.0.1", "bao-1.example"], NOW))
    [name] = member.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == "openbao-member-one"
    assert "OpenBao" in member.issuer.rfc4514_string()
    address = x509.IPAddress(ipaddress.ip_address("10.0.0.1"))
    for wanted in (x509.DNSName("openbao"), x509.DNSName("bao-1.example"), address):
        builder(ca).build_server_verifier(wanted).verify(member, [])
    with pytest.raises(VerificationError):
        builder(ca).build_server_verifier(x509.DNSName("etcd")).verify(member, [])
    with pytest.raises(VerificationError):
        builder(ca).build_client_verifier().verify(member, [])
