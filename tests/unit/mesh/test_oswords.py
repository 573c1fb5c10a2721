"""Why a connection failed: in words that help, without Python's objects."""

import errno
import socket
import ssl

import pytest

from mesh.oswords import words


def certificate_fault() -> ssl.SSLCertVerificationError:
    fault = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] (_ssl.c:1006)")
    fault.verify_message = "self-signed certificate"
    return fault


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('10.0.0.1', 1)"), "Connection refused"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "its name cannot be resolved: Name or serv"),
        (certificate_fault(), "certificate verify failed: self-signed certificate"),
        (ssl.SSLError(1, "wrong version number"), "wrong version number"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_words(fault: OSError, said: str):
    assert said in words(fault)
    assert "10.0.0.1" not in words(fault)
