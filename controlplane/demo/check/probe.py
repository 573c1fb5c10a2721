"""One call to a port of the mesh, and what became of it: an answer, or a refusal in the words it came in."""

import asyncio
import ssl
from typing import NamedTuple

from cryptography import x509

from controlplane.demo.check.http1 import BadAnswerError, connect

SECONDS = 5.0


class Outcome(NamedTuple):
    """What a caller saw."""

    status: int = 0
    """Of the HTTP answer; 0: none came."""
    body: str = ""
    refused: str = ""
    """Why no answer came."""
    server: str = ""
    """The SPIFFE id in the server's certificate."""
    serial: str = ""

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
    source: str = "",
) -> Outcome:
    """One GET on a connection of its own."""
    server = serial = ""
    try:
        async with asyncio.timeout(SECONDS):
            connection = await connect(host, port, tls=tls, sni=sni, source=source)
            try:
                if raw := _peer(connection.writer):
                    server, serial = spiffe_id(raw), format(raw.serial_number, "x")
                answer = await connection.get(name, path, {"connection": "close"})
            finally:
                connection.close()
    except TimeoutError:
        return Outcome(refused=f"silence for {SECONDS:g} s", server=server, serial=serial)
    except ssl.SSLError as exc:
        return Outcome(refused=exc.reason or str(exc), server=server, serial=serial)
    except (OSError, BadAnswerError) as exc:
        return Outcome(refused=str(exc) or type(exc).__name__, server=server, serial=serial)
    return Outcome(status=answer.status, body=answer.body.decode(errors="replace"), server=server, serial=serial)


def _peer(writer: asyncio.StreamWriter) -> x509.Certificate | None:
    tls = writer.get_extra_info("ssl_object")
    raw = tls.getpeercert(binary_form=True) if tls else None
    return x509.load_der_x509_certificate(raw) if raw else None


def spiffe_id(certificate: x509.Certificate) -> str:
    """The URI name of a certificate; empty if it has none."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    return next(iter(names.get_values_for_type(x509.UniformResourceIdentifier)), "")
