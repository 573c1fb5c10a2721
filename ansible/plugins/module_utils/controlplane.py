"""The control plane's REST API, read with the standard library alone: a controller needs nothing but Ansible for it."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Sequence

SERVER_NAME = "controlplane.holdfast"
"""What every control-plane node's certificate is for, whatever address it is dialled by."""
DEFAULT_PORT = 8443
MAX_BYTES = 256 * 1024 * 1024


class ControlPlaneError(Exception):
    """What was asked for could not be had; the text says of whom, why, and what to do."""


class Api:
    """Operators' calls to whichever control-plane node answers."""

    def __init__(self, addresses: Sequence[str], *, ca: str, token: str, seconds: float) -> None:
        if not addresses:
            raise ControlPlaneError("no control plane to ask: set `addresses`, or HOLDFAST_ADDR")
        if not token:
            raise ControlPlaneError(
                "no operator's token: set `token_file`, HOLDFAST_TOKEN_FILE or HOLDFAST_TOKEN; a viewer's will do"
            )
        self._places = [place(address) for address in addresses]
        self._tls = tls_context(ca)
        self._token, self._seconds = token, seconds

    def get(self, path: str) -> Any:
        """The document at this path.

        Raises:
            ControlPlaneError: no node answers, or one refuses.

        """
        failures: list[str] = []
        for host, port in list(self._places):
            where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            try:
                status, raw = self._ask(host, port, path)
            except (OSError, http.client.HTTPException) as exc:
                failures.append(f"{where}: {reason(exc)}")
                self._places.append(self._places.pop(0))  # the next call begins with another node
                continue
            if status == http.HTTPStatus.OK:
                return decoded(raw, path)
            told = refusal(status, raw, path)
            if status < http.HTTPStatus.INTERNAL_SERVER_ERROR:
                raise ControlPlaneError(told)
            failures.append(f"{where}: {told}")
        raise ControlPlaneError("no control plane answers: " + "; ".join(failures))

    def _ask(self, host: str, port: int, path: str) -> tuple[int, bytes]:
        connection = _Connection(host, port, timeout=self._seconds, tls=self._tls)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {self._token}"})
            answer = connection.getresponse()
            raw = answer.read(MAX_BYTES + 1)
        finally:
            connection.close()
        if len(raw) > MAX_BYTES:
            raise ControlPlaneError(f"{path}: the answer is longer than {MAX_BYTES} bytes")
        return answer.status, raw


class _Connection(http.client.HTTPConnection):
    """Verified by the name that all control-plane nodes share, not by the address."""

    def __init__(self, host: str, port: int, *, timeout: float, tls: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=timeout)
        self._tls = tls

    def connect(self) -> None:
        super().connect()
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=SERVER_NAME)


def place(address: str) -> tuple[str, int]:
    """Host and port of `host`, `host:port` or an https URL.

    Raises:
        ControlPlaneError: it is none of them.

    """
    parts = urlsplit(address if "://" in address else f"https://{address}")
    try:
        port = parts.port or DEFAULT_PORT
    except ValueError:
        port = 0
    if parts.scheme != "https" or not parts.hostname or not port or parts.path not in {"", "/"} or parts.query:
        raise ControlPlaneError(f"{address!r} is no address of a control plane: write host:port or https://host:port")
    return parts.hostname, port


def tls_context(ca: str) -> ssl.SSLContext:
    """Trusts these roots and no others.

    Raises:
        ControlPlaneError: the file cannot be used.

    """
    if not ca:
        raise ControlPlaneError(
            "no CA to verify the control plane with: set `ca`, or HOLDFAST_CA, to the file with the mesh's roots"
        )
    try:
        return ssl.create_default_context(cafile=Path(ca).expanduser())
    except (OSError, ssl.SSLError) as exc:
        raise ControlPlaneError(f"the CA file {ca} cannot be used: {exc}") from exc


def reason(exc: Exception) -> str:
    """A fault of the network in a few words."""
    match exc:
        case ssl.SSLCertVerificationError():
            return f"its certificate is refused ({exc.verify_message}): is this the CA of that mesh?"
        case TimeoutError():
            return "no answer in time"
        case socket.gaierror():
            return "the name is not known"
    return str(exc) or type(exc).__name__


HINTS = {
    401: "the token is unknown or past its end of life; an administrator makes a new one",
    403: "this token's role does not permit it",
}


def refusal(status: int, raw: bytes, path: str) -> str:
    """An answer that is not 200, as one line."""
    try:
        body = json.loads(raw)
    except ValueError:
        body = {}
    if not isinstance(body, dict):
        body = {}
    what = str(body.get("error") or f"answered with status {status}")
    hint = str(body.get("hint") or HINTS.get(status, ""))
    return f"{path}: {what}" + (f" ({hint})" if hint else "")


def decoded(raw: bytes, path: str) -> Any:
    try:
        return json.loads(raw)
    except ValueError as exc:
        raise ControlPlaneError(f"{path}: the answer is not JSON: is this a control plane of Holdfast?") from exc
