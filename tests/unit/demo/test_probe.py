"""Forged certificates are good in all but what is asked for: probed against a TLS server that checks its clients."""

import asyncio
import socket
import ssl
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from controlplane.demo.check.forge import Authority, Held, client_context, leaf, new_authority, server_context, utc
from controlplane.demo.check.probe import call

WEB = "spiffe://demo.holdfast/ns/shop/sa/web"
API = "spiffe://demo.holdfast/ns/shop/sa/api"
VERDICT = 4.0
"""A refusal comes at once, and on a busy machine when it can."""


def pem(authority: Authority) -> str:
    return authority.certificate.public_bytes(serialization.Encoding.PEM).decode()


def probe(tmp_path: Path, client: Held | None, trusted: Authority, *, plaintext: bool = False, patience: float = 0.2):
    """The outcome of one call to a server that demands a client certificate of `trusted`."""
    now = utc(time.time())
    server_tls = server_context(tmp_path, leaf(trusted, API, now))
    server_tls.verify_mode = ssl.CERT_REQUIRED
    server_tls.load_verify_locations(cadata=pem(trusted))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        # A thread and blocking sockets: asyncio's server closes after a failed handshake without sending its alert.
        server = threading.Thread(target=answer_once, args=(listener, server_tls))
        server.start()
        tls = None if plaintext else client_context(tmp_path, client, [pem(trusted)])
        sni = "" if plaintext else "80.api.shop.demo.mesh"
        try:
            return asyncio.run(call("127.0.0.1", listener.getsockname()[1], tls=tls, sni=sni, patience=patience))
        finally:
            server.join(10)


def answer_once(listener: socket.socket, tls: ssl.SSLContext) -> None:
    raw, _ = listener.accept()
    with raw:
        raw.settimeout(5)
        try:
            with tls.wrap_socket(raw, server_side=True) as connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        except OSError:
            return


@pytest.fixture(scope="module")
def authority() -> Authority:
    return new_authority("test root", utc(time.time()))


def test_a_good_certificate_is_answered_and_the_server_is_known(tmp_path, authority):
    found = probe(tmp_path, leaf(authority, WEB, utc(time.time())), authority)
    assert found.answered
    assert found.server == API
    assert found.serial


def test_no_certificate_is_refused(tmp_path, authority):
    assert "certificate" in probe(tmp_path, None, authority, patience=VERDICT).refused.casefold()


def test_an_expired_certificate_is_refused_as_expired(tmp_path, authority):
    old = leaf(authority, WEB, utc(time.time()), begin=timedelta(hours=-2), end=timedelta(minutes=-1))
    found = probe(tmp_path, old, authority, patience=VERDICT)
    assert not found.answered
    assert "expired" in found.refused.casefold()


def test_a_foreign_ca_is_refused(tmp_path, authority):
    foreign = new_authority("foreign", utc(time.time()))
    assert not probe(tmp_path, leaf(foreign, WEB, utc(time.time())), authority).answered


def test_plaintext_is_refused(tmp_path, authority):
    assert not probe(tmp_path, None, authority, plaintext=True).answered


def test_keys_do_not_stay_on_disk(tmp_path, authority):
    probe(tmp_path, leaf(authority, WEB, utc(time.time())), authority)
    assert list(tmp_path.iterdir()) == []
