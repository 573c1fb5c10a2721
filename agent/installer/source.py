"""Where files come from: a folder, or the control plane. Neither is believed: hashes decide."""

import hashlib
import http.client
import json
import os
import shutil
import socket
import ssl
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

from agent.installer.model import InstallError
from agent.installer.offer import MAX_MANIFEST

SERVER_NAME = "controlplane.holdfast"
"""In the certificate of every control-plane node."""
SECONDS = 30.0
TRIES = 5
BUSY_SECONDS = 600.0
"""How long it waits for its turn, in all: many hosts that install at once may stand behind one address."""
CHUNK = 1 << 18


class FolderSource:
    """A distribution folder that was brought here."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def manifest(self):
        try:
            with (self.folder / "manifest.json").open("rb") as file:
                return file.read(MAX_MANIFEST)
        except OSError as exc:
            raise InstallError(str(self.folder) + " is no distribution folder: " + str(exc)) from exc

    def fetch(self, item, target):
        """Copy a file to its place, if it is what the manifest says."""
        part = target.with_name("." + target.name + ".part")
        try:
            with (self.folder / item.path).open("rb") as source, part.open("wb") as out:
                shutil.copyfileobj(source, out, CHUNK)
        except FileNotFoundError as exc:
            raise InstallError(str(exc.filename) + " is listed in the manifest and is not there") from exc
        accept(part, item, target)


class RemoteSource:
    """A control-plane node. TLS is verified against the root that the token pins: it is the right mesh, or nothing."""

    def __init__(self, url, token, say=print):
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise InstallError(repr(url) + " is not of the form https://<address>:<port>")
        self.url, self._host, self._port = url.rstrip("/"), parts.hostname, parts.port or 443
        self._pin = token.rsplit(".", 1)[-1]
        self._say, self._waited = say, 0.0
        self._context = None
        self._connection = None

    def look(self, now):
        """Find the pinned root. Returns the seconds that the node's clock is ahead.

        Raises:
            InstallError: it is not there, or is not the mesh that the token is for.

        """
        bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
        connection = Pinned(self._host, self._port, bare)
        try:
            connection.request("GET", "/v1/roots")
            answer = connection.getresponse()
            raw = answer.read(MAX_MANIFEST)
            date = answer.getheader("Date")
        except (OSError, http.client.HTTPException) as exc:
            raise InstallError(
                "the control plane at "
                + self.url
                + " cannot be reached: "
                + (str(exc) or type(exc).__name__)
                + ". Is it "
                "running, and does a firewall let this host reach it?"
            ) from exc
        finally:
            connection.close()
        roots = pinned_roots(raw, self._pin)
        if not roots:
            raise InstallError(
                "whoever answers at " + self.url + " is not the mesh that this token is for (it has no root with the "
                "token's pin). Nothing was fetched from there"
            )
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.load_verify_locations(cadata="\n".join(roots))
        return parsedate_to_datetime(date).timestamp() - now if date else None

    def manifest(self):
        return self._tried("manifest.json", lambda: b"".join(self._get("/v1/dist/manifest.json", 0)))

    def fetch(self, item, target):
        """Download a file to its place; what a killed run left of it is gone on with."""
        part = target.with_name("." + target.name + ".part")
        self._tried(item.path, lambda: self._append(item, part))
        accept(part, item, target)

    def _append(self, item, part):
        have = part.stat().st_size if part.exists() else 0
        if have >= item.size:
            return
        try:
            with part.open("ab") as out:
                for chunk in self._get("/v1/dist/" + item.path, have):
                    have += len(chunk)
                    if have > item.size:
                        raise InstallError(item.path + " is longer than the manifest says; it was not used")
                    out.write(chunk)
        except FromStart:
            part.unlink()
            raise

    def _tried(self, what, work):
        left = TRIES
        while True:
            try:
                return work()
            except Busy as exc:
                self._wait(what, exc)
            except ssl.SSLCertVerificationError as exc:
                raise InstallError(
                    "the certificate of "
                    + self.url
                    + " is not one of this mesh: "
                    + exc.verify_message
                    + ". Nothing that "
                    "it sends was used"
                ) from exc
            except (Again, ConnectionError, http.client.HTTPException, socket.timeout, ssl.SSLError) as exc:
                self.close()
                left -= 1
                if not left:
                    raise InstallError(what + " could not be fetched from " + self.url + ": " + str(exc)) from exc
                time.sleep(2 ** (TRIES - left - 2))

    def _wait(self, what, busy):
        """Until it is this host's turn."""
        self.close()
        if self._waited >= BUSY_SECONDS:
            raise InstallError(
                what + " could not be fetched: " + self.url + " has been busy for " + str(round(self._waited / 60))
                + " min. Run the same again later: it goes on where it stopped"
            ) from busy  # fmt: skip
        if not self._waited:
            self._say(self.url + " is busy with other hosts; waiting for its turn")
        self._waited += busy.seconds
        time.sleep(busy.seconds)

    def _get(self, path, start):
        if self._connection is None:
            self._connection = Pinned(self._host, self._port, self._context)
        self._connection.request("GET", path, headers={"Range": "bytes=" + str(start) + "-"} if start else {})
        answer = self._connection.getresponse()
        if answer.status in (429, 503):
            raise Busy(answer.getheader("Retry-After"))
        if start and answer.status == 200:
            raise FromStart("it does not go on in the middle of a file")
        if answer.status != (206 if start else 200):
            reason = answer.read(2000).decode("utf-8", "replace")
            self.close()
            shown = "".join(char for char in reason.strip()[:300] if char.isprintable())
            raise InstallError(self.url + path + " answers " + str(answer.status) + ": " + shown)
        while True:
            chunk = answer.read(CHUNK)
            if not chunk:
                break
            yield chunk
        if answer.length:
            raise Again("it was cut off")

    def close(self):
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Again(Exception):  # noqa: N818 - what to do
    """It may work the next time."""


class Busy(Again):
    """It has too much to do."""

    def __init__(self, seconds):
        super().__init__("it is busy")
        self.seconds = min(max(int(seconds), 1), 30) if seconds and seconds.isdecimal() else 2


class FromStart(Again):
    """What is there already is of no use."""


class Pinned(http.client.HTTPSConnection):
    """To an address, by the name that every control-plane node has in its certificate. No redirects, no proxies."""

    def __init__(self, host, port, context):
        super().__init__(host, port, timeout=SECONDS, context=context)
        self._tls = context

    def connect(self):
        raw = socket.create_connection((self.host, self.port), self.timeout)
        try:
            self.sock = self._tls.wrap_socket(raw, server_hostname=SERVER_NAME)
        except BaseException:
            raw.close()
            raise


def pinned_roots(raw, pin):
    """The roots in this answer that have the pin."""
    found = []
    try:
        listed = json.loads(raw)["roots"]
        for pem in listed[:16]:
            digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
            if len(pin) == 32 and digest.startswith(pin):
                found.append(pem)
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
    return found


def accept(part, item, target):
    """It gets its name when its hash is found right."""
    digest = hashlib.sha256()
    with part.open("rb") as file:
        while True:
            chunk = file.read(CHUNK)
            if not chunk:
                break
            digest.update(chunk)
        size = file.tell()
    if size != item.size or digest.hexdigest() != item.sha256:
        part.unlink()
        raise InstallError(
            item.path
            + " is not what the manifest says ("
            + str(size)
            + " bytes, SHA-256 "
            + digest.hexdigest()
            + "): it "
            "was altered on the way or in the folder. It was not used"
        )
    os.replace(part, target)


def is_whole(item, target):
    """Is it there already, as the manifest says?"""
    try:
        return target.stat().st_size == item.size and hashlib.sha256(target.read_bytes()).hexdigest() == item.sha256
    except OSError:
        return False
