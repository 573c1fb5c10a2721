"""How one control-plane address answers: connection, certificate, clock."""

import asyncio
import email.utils
import ssl
import time
from typing import NamedTuple
from urllib.parse import urlsplit

from controlplane.cli.client import SERVER_NAME, tls_context
from controlplane.cli.errors import CliError
from mesh.oswords import words

SECONDS = 5.0
MAX_ANSWER_BYTES = 64 * 1024


class Reach(NamedTuple):
    address: str
    status: int = 0
    """Of /readyz; 0: no answer."""
    fault: str = ""
    kind: str = ""
    """What failed: connect, tls, http."""
    body: str = ""
    certificate_ends: float = 0.0
    skew: float | None = None
    """Seconds by which the server's clock is ahead of ours."""


async def reach(address: str, ca: str) -> Reach:
    """Ask one address for /readyz, and look at everything on the way."""
    parts = urlsplit(address)
    try:
        context = tls_context(ca)
    except CliError as exc:
        return Reach(address, fault=f"{exc.message}; {exc.hint}", kind="tls")
    try:
        async with asyncio.timeout(SECONDS):
            return await _ask(address, parts.hostname or "", parts.port or 443, context)
    except (OSError, ValueError, TimeoutError) as exc:
        kind, fault = _fault(exc)
        return Reach(address, fault=fault, kind=kind)


def _fault(exc: Exception) -> tuple[str, str]:
    """What failed, and how."""
    match exc:
        case TimeoutError():
            return "connect", f"no answer within {SECONDS:g} s"
        case ssl.SSLCertVerificationError():
            return "tls", exc.verify_message
        case ssl.SSLError():
            return "tls", exc.reason or str(exc)
        case OSError():
            return "connect", words(exc)
    return "connect", f"not an answer of a control plane: {exc}"


async def _ask(address: str, host: str, port: int, context: ssl.SSLContext) -> Reach:
    reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=SERVER_NAME)
    try:
        ends = ssl.cert_time_to_seconds(writer.get_extra_info("peercert")["notAfter"])
        sent = time.time()
        writer.write(f"GET /readyz HTTP/1.1\r\nhost: {SERVER_NAME}\r\nconnection: close\r\n\r\n".encode())
        raw = (await reader.read(MAX_ANSWER_BYTES)).decode(errors="replace")
        middle = (sent + time.time()) / 2
    finally:
        writer.close()
    head, _, body = raw.partition("\r\n\r\n")
    first, *fields = head.split("\r\n")
    headers = {name.casefold(): value.strip() for name, _, value in (f.partition(":") for f in fields)}
    date = email.utils.parsedate_to_datetime(headers["date"]).timestamp() if "date" in headers else None
    # The header has whole seconds: half of one is the best guess of the rest.
    skew = None if date is None else date + 0.5 - middle
    return Reach(address, int(first.split(" ")[1]), body=body, certificate_ends=ends, skew=skew)
