"""Cipher: what is secret in `private/`, and the intermediate's key on disk, is sealed with AES-256-GCM.

A sealed value is readable JSON around unreadable data: {"sealed": 1, "key": <key id>, "nonce": ..., "data": ...}. The
place where it is stored is authenticated with it (aad), so a value moved to another key does not open.
Several keys may be held: the first seals, all open, so a key can be replaced without an instant of switching.
"""

import base64
import binascii
import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
NONCE_BYTES = 12
"""Random. With 96 bits a key may seal 2^32 values (NIST SP 800-38D, 8.3); a control plane seals a few a month."""

Random = Callable[[int], bytes]
"""os.urandom, or what a test gives."""


class SealError(Exception):
    """A value that does not open, or a key that is no key, with the reason; never with the secret."""


class _Sealed(msgspec.Struct, frozen=True):
    sealed: int
    key: str
    nonce: bytes
    data: bytes


class Cipher:
    def __init__(self, keys: Sequence[bytes], random: Random = os.urandom) -> None:
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise SealError(f"a seal key has {KEY_BYTES} bytes")
        self._keys = {_key_id(key): AESGCM(key) for key in keys}
        self._active = _key_id(keys[0])
        self._random = random

    @classmethod
    def parse(cls, text: str, random: Random = os.urandom) -> "Cipher":
        """From the text of a key file: one base64 key a line, the first one seals.

        Raises:
            SealError: a line is not a key.

        """
        try:
            keys = [base64.b64decode(line, validate=True) for line in text.split()]
        except (binascii.Error, ValueError) as exc:
            raise SealError("the seal key file is not base64") from exc
        return cls(keys, random)

    @classmethod
    def from_file(cls, path: Path) -> "Cipher":
        """Read a key file, which only its owner may read.

        Raises:
            SealError: it is missing, open to others, or holds no key.

        """
        try:
            mode = path.stat().st_mode
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise SealError(f"{path} may be read by others; chmod 600 it")
            return cls.parse(path.read_text())
        except OSError as exc:
            raise SealError(f"the seal key file {path} cannot be read: {exc.strerror}") from exc

    def seal(self, secret: bytes, aad: str) -> bytes:
        """JSON text to be stored at `aad`."""
        nonce = self._random(NONCE_BYTES)
        data = self._keys[self._active].encrypt(nonce, secret, aad.encode())
        return msgspec.json.encode(_Sealed(1, self._active, nonce, data))

    def open(self, sealed: bytes, aad: str) -> bytes:
        """The secret again.

        Raises:
            SealError: another key, another place, or altered.

        """
        try:
            value = msgspec.json.decode(sealed, type=_Sealed)
        except msgspec.DecodeError as exc:
            raise SealError(f"the value at {aad} is not a sealed value") from exc
        if (key := self._keys.get(value.key)) is None or value.sealed != 1:
            raise SealError(f"the value at {aad} was sealed with key {value.key[:16]}, which is not held")
        try:
            return key.decrypt(value.nonce, value.data, aad.encode())
        except (InvalidTag, ValueError) as exc:
            raise SealError(f"the value at {aad} was altered or moved") from exc


def new_key_text(random: Random = os.urandom) -> str:
    """A new key, as a line of a key file."""
    return base64.b64encode(random(KEY_BYTES)).decode() + "\n"


def _key_id(key: bytes) -> str:
    """Names a key without telling it: a hash of its own kind, not the key's plain hash."""
    return hashlib.sha256(b"holdfast seal key id\0" + key).hexdigest()[:16]
