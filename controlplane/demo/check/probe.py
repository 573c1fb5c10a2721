"""One call to a port of the mesh, and what became of it: an answer, or a refusal in the words it came in."""

import asyncio
import ssl
from typing import NamedTuple

from cryptography import x509

from controlplane.demo.check.http1 import BadAnswerError, connect

SECONDS = 5.0
DENIED_BY = "x-holdfast-denied-by"


class Outcome(NamedTuple):
    """What a caller saw."""

    status: int = 0
    """Of the HTTP answer; 0: none came."""
    body: str = ""
    denied_by: str = ""
    """The rule that denied, as the answer names it."""
    refused: str = ""
    """Why no answer came."""
    server: str = ""
    """The SPIFFE id in the server's certificate."""
    serial: str = ""
    issuer: str = ""
    """Key identifier of whoever signed the server's certificate."""

    @property
    def answered(self) -> bool:
        return self.status == 200


async def call(
    host: str,
    port: int,
    *,
    tls: ssl.SSLContext | None = None,
    sni: str = "",
    name: str = "api.shop",
    path: str = "/probe",
    patience: float = 0.0,
) -> Outcome:
    """One GET on a connection of its own.

    In TLS 1.3 a server judges the client's certificate after the client is done with the handshake. With `patience`
    its verdict is waited for (seconds) before anything is sent, so that it can be told in the server's own words.
    """
    seen = _Seen()
    try:
        async with asyncio.timeout(SECONDS):
            connection = await connect(host, port, tls=tls, sni=sni)
            try:
                seen = _look(connection.writer)
                await connection.verdict(patience)
                answer = await connection.get(name, path, {"connection": "close"})
            finally:
                await connection.gone()
    except TimeoutError:
        return Outcome(refused=f"silence for {SECONDS:g} s", **seen._asdict())
    except ssl.SSLError as exc:
        return Outcome(refused=exc.reason or str(exc), **seen._asdict())
    except (OSError, BadAnswerError) as exc:
        return Outcome(refused=str(exc) or type(exc).__name__, **seen._asdict())
    return Outcome(
        status=answer.status,
        body=answer.body.decode(errors="replace"),
        denied_by=answer.headers.get(DENIED_BY, ""),
        **seen._asdict(),
    )


class _Seen(NamedTuple):
    """What the handshake showed of the server."""

    server: str = ""
    serial: str = ""
    issuer: str = ""


def _look(writer: asyncio.StreamWriter) -> _Seen:
    tls = writer.get_extra_info("ssl_object")
    raw = tls.getpeercert(binary_form=True) if tls else None
    if not raw:
        return _Seen()
    certificate = x509.load_der_x509_certificate(raw)
    return _Seen(spiffe_id(certificate), format(certificate.serial_number, "x"), issuer(certificate))


def issuer(certificate: x509.Certificate) -> str:
    """The key identifier of whoever signed it, in hex; empty if it does not say."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        return ""
    return found.hex() if found else ""


def spiffe_id(certificate: x509.Certificate) -> str:
    """The URI name of a certificate; empty if it has none."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    return next(iter(names.get_values_for_type(x509.UniformResourceIdentifier)), "")
