"""mTLS: contexts for both sides, and the secrets they name."""

from collections.abc import Iterable

from mesh import pb
from mesh.compile import names
from mesh.compile.access import Admission
from mesh.compile.parts import ADS

_TLS13 = pb.TlsParameters(
    tls_minimum_protocol_version=pb.TlsParameters.TLSv1_3, tls_maximum_protocol_version=pb.TlsParameters.TLSv1_3
)


def _sds(name: str) -> pb.SdsSecretConfig:
    return pb.SdsSecretConfig(name=name, sds_config=ADS)


def _common(identity: str, alpn: tuple[str, ...]) -> pb.CommonTlsContext:
    return pb.CommonTlsContext(
        tls_params=_TLS13,
        tls_certificate_sds_secret_configs=[_sds(names.secret(identity))],
        alpn_protocols=alpn,
    )


NOBODY = "nobody"
"""A name that no certificate of the mesh has: those begin with spiffe://."""


def server(
    identity: str, alpn: tuple[str, ...] = (), *, callers: Admission | None = None, bundle: str = names.BUNDLE
) -> pb.TransportSocket:
    """Shows this identity, and takes only callers whom the bundle knows; of those, `callers`, if told.

    No resumption: a resumed session would be let in by what was trusted when it began.
    """
    common = _common(identity, alpn)
    if callers is None:
        common.validation_context_sds_secret_config.CopyFrom(_sds(bundle))
    else:
        # An empty list would mean: any name.
        matchers = [*map(_exact, callers.ids), *map(_prefix, callers.prefixes)] or [_exact(NOBODY)]
        common.combined_validation_context.CopyFrom(_bundle_and(bundle, matchers))
    context = pb.DownstreamTlsContext(
        common_tls_context=common,
        require_client_certificate=pb.true(),
        disable_stateless_session_resumption=True,
        disable_stateful_session_resumption=True,
    )
    return _socket(context)


def client(
    identity: str, server_name: str, accounts: tuple[str, ...], alpn: tuple[str, ...] = ()
) -> pb.TransportSocket:
    """Shows this identity, and takes only a server that is one of these SPIFFE ids, by their trust domain's bundle.

    Not by one of several: Envoy chooses the bundle by the first name of a certificate, and compares all of them. Who
    signs for one domain could add a name of another.
    """
    assert accounts, "no name to compare would mean: any identity"
    common = _common(identity, alpn)
    common.combined_validation_context.CopyFrom(_bundle_and(verified_by(accounts), [*map(_exact, accounts)]))
    return _socket(pb.UpstreamTlsContext(common_tls_context=common, sni=server_name, max_session_keys=pb.uint32(0)))


def verified_by(accounts: Iterable[str]) -> str:
    """The bundle for these SPIFFE ids; for none, any, since nothing is compared with it."""
    domains = {domain_of(account) for account in accounts if account != NOBODY}
    return names.bundle(domains) if domains else names.BUNDLE


def domain_of(beginning: str) -> str:
    """The trust domain of a SPIFFE id, or of how it begins."""
    return beginning.removeprefix("spiffe://").partition("/")[0]


def _exact(spiffe_id: str) -> pb.SubjectAltNameMatcher:
    return _uri(pb.StringMatcher(exact=spiffe_id))


def _prefix(beginning: str) -> pb.SubjectAltNameMatcher:
    return _uri(pb.StringMatcher(prefix=beginning))


def _uri(matcher: pb.StringMatcher) -> pb.SubjectAltNameMatcher:
    return pb.SubjectAltNameMatcher(san_type=pb.SubjectAltNameMatcher.URI, matcher=matcher)


def _bundle_and(
    bundle: str,
    matchers: list[pb.SubjectAltNameMatcher],
) -> pb.CommonTlsContext.CombinedCertificateValidationContext:
    """Known to the bundle, and called as one of these says."""
    return pb.CommonTlsContext.CombinedCertificateValidationContext(
        default_validation_context=pb.CertificateValidationContext(match_typed_subject_alt_names=matchers),
        validation_context_sds_secret_config=_sds(bundle),
    )


def files_client(*, ca: str, cert: str, key: str, server_name: str) -> pb.TransportSocket:
    """A client whose certificate and CA are files on this host: towards etcd, whose CA is not the mesh's."""
    matcher = pb.SubjectAltNameMatcher(
        san_type=pb.SubjectAltNameMatcher.DNS, matcher=pb.StringMatcher(exact=server_name)
    )
    common = pb.CommonTlsContext(
        tls_params=pb.TlsParameters(tls_minimum_protocol_version=pb.TlsParameters.TLSv1_2),
        tls_certificates=[
            pb.TlsCertificate(
                certificate_chain=pb.DataSource(filename=cert),
                private_key=pb.DataSource(filename=key),
            )
        ],
        validation_context=pb.CertificateValidationContext(
            trusted_ca=pb.DataSource(filename=ca), match_typed_subject_alt_names=[matcher]
        ),
        alpn_protocols=("h2",),
    )
    return _socket(pb.UpstreamTlsContext(common_tls_context=common, sni=server_name, max_session_keys=pb.uint32(0)))


def outside(
    *, sni: str, names: list[pb.SubjectAltNameMatcher], roots: pb.DataSource, alpn: tuple[str, ...]
) -> pb.TransportSocket:
    """Towards a server outside of the mesh that these roots know under one of these names. It sees no name of ours."""
    assert names, "no name to compare would mean: whoever these roots know"
    common = pb.CommonTlsContext(
        tls_params=pb.TlsParameters(tls_minimum_protocol_version=pb.TlsParameters.TLSv1_2),
        validation_context=pb.CertificateValidationContext(trusted_ca=roots, match_typed_subject_alt_names=names),
        alpn_protocols=alpn,
    )
    return _socket(pb.UpstreamTlsContext(common_tls_context=common, sni=sni))


def certificate(identity: str, chain_pem: str, key_pem: str) -> pb.Secret:
    return pb.Secret(
        name=names.secret(identity),
        tls_certificate=pb.TlsCertificate(
            certificate_chain=pb.DataSource(inline_string=chain_pem),
            private_key=pb.DataSource(inline_string=key_pem),
        ),
    )


def bundle(trust_domains: tuple[tuple[str, tuple[str, ...]], ...], name: str = names.BUNDLE) -> pb.Secret:
    """Roots by trust domain, never merged: those of one validate names of that one only."""
    config = pb.SPIFFECertValidatorConfig(
        trust_domains=[
            pb.SPIFFECertValidatorConfig.TrustDomain(
                name=domain, trust_bundle=pb.DataSource(inline_string="".join(pem.strip() + "\n" for pem in roots))
            )
            for domain, roots in trust_domains
        ]
    )
    validator = pb.TypedExtensionConfig(name="envoy.tls.cert_validator.spiffe", typed_config=pb.any_of(config))
    return pb.Secret(name=name, validation_context=pb.CertificateValidationContext(custom_validator_config=validator))


def _socket(context: pb.Message) -> pb.TransportSocket:
    return pb.TransportSocket(name="envoy.transport_sockets.tls", typed_config=pb.any_of(context))
