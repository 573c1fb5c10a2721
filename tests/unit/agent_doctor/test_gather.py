"""What doctor says of a connection that fails: the reason in words, and nothing that was said already."""

import socket
import ssl

import pytest

from agent.doctor.gather import _words


@pytest.mark.parametrize(
    ("exc", "said"),
    [
        (socket.gaierror(-2, "Name or service not known"), "its name cannot be resolved: Name or service not known"),
        (ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 1)"), "Connection refused"),
        (FileNotFoundError(2, "x"), "No such file or directory"),
        (TimeoutError(), "no answer within 5 s"),
        (EOFError(), "it hangs up"),
        (ssl.SSLError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] unknown"), "[SSL: CERTIFICATE_VERIFY_FAILED] unknown"),
        (OSError("Multiple exceptions: x, y"), "Multiple exceptions: x, y"),
    ],
)
def test_a_failed_connection_is_told_in_words(exc, said):
    assert said in _words(exc)
