"""Who listens where callers are redirected to."""

import os
import socket

import pytest

from agent.hostd import listeners

SOMEBODY = os.geteuid() + 1


@pytest.mark.parametrize(
    ("family", "address", "seen"),
    [
        (socket.AF_INET, "127.0.0.1", True),
        (socket.AF_INET, "0.0.0.0", True),
        (socket.AF_INET6, "::", True),
        (socket.AF_INET6, "::ffff:127.0.0.1", True),
        (socket.AF_INET, "127.0.0.2", False),  # not where they go
        (socket.AF_INET6, "::1", True),  # those to addresses of IPv6
    ],
)
def test_whoever_would_be_given_their_calls_is_seen(family, address, seen):
    with socket.socket(family) as link:
        if family == socket.AF_INET6:
            link.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        link.bind((address, 0))
        link.listen()
        port = link.getsockname()[1]
        assert listeners.foreign({port}, {SOMEBODY}) == ({port: os.geteuid()} if seen else {})
        assert listeners.foreign({port}, {os.geteuid()}) == {}
        assert listeners.foreign({port + 1}, {SOMEBODY}) == {}
    assert listeners.foreign((), ()) == {}
