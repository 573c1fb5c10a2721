"""Who listens for TCP on this host: asked of the kernel (sock_diag(7)), for listening sockets alone.

/proc/net/tcp has all connections, too: on a busy host they are too many to be read once a second.
"""

import socket
import struct
from collections.abc import Collection, Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address

_SOCK_DIAG, _BY_FAMILY, _REQUEST_DUMP = 4, 20, 0x301
_LISTENING = 1 << 10
_DONE, _ERROR = 3, 2
_HEADER, _ASK, _ANSWER = struct.Struct("=IHHII"), struct.Struct("=BBBBI48x"), struct.Struct("=4B2s2s16s16x4x8x12xII")
_SECONDS = 1.0
_LOOPBACK = frozenset({"127.0.0.1", "0.0.0.0", "::", "::1", "::ffff:7f00:1"})  # noqa: S104 - compared, not bound


def foreign(ports: Collection[int], trusted: Collection[int]) -> dict[int, int]:
    """Of these ports of loopback: those on which a user listens that is none of these. Port -> user."""
    if not ports:
        return {}
    found: dict[int, int] = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError, struct.error):  # a kernel that does not tell
            there = [(port, uid) for address, port, uid in _listening(family) if str(address) in _LOOPBACK]
            found |= {port: uid for port, uid in there if port in ports and uid not in trusted}
    return found


def _listening(family: socket.AddressFamily) -> Iterator[tuple[IPv4Address | IPv6Address, int, int]]:
    """Address, port and user of each."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG) as link:
        link.settimeout(_SECONDS)
        asked = _ASK.pack(family, socket.IPPROTO_TCP, 0, 0, _LISTENING)
        link.send(_HEADER.pack(_HEADER.size + len(asked), _BY_FAMILY, _REQUEST_DUMP, 1, 0) + asked)
        while True:
            raw = link.recv(65536)
            while len(raw) >= _HEADER.size:
                length, kind, *_ = _HEADER.unpack_from(raw)
                if kind in {_DONE, _ERROR} or length < _HEADER.size:
                    return
                of, _state, _timer, _retrans, port, _to, source, uid, _inode = _ANSWER.unpack_from(raw, _HEADER.size)
                address = IPv4Address(source[:4]) if of == socket.AF_INET else IPv6Address(source)
                yield address, int.from_bytes(port, "big"), uid
                raw = raw[(length + 3) & ~3 :]
