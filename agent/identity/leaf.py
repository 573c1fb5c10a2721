"""The serial of a certificate, for status. Pure: three steps into its DER, where a library would cost 11 MB."""

import base64
import binascii

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


def serial(chain_pem: str) -> str:
    """Of the first certificate, lower-case hex; '' if there is none to read."""
    body = chain_pem.partition(_BEGIN)[2].partition(_END)[0]
    try:
        der = base64.b64decode("".join(body.split()), validate=True)
        certificate = _content(der, 0x30)
        tbs = _content(certificate, 0x30)
        if tbs[0] == 0xA0:  # [0] version, absent in v1 (RFC 5280, 4.1)
            tbs = tbs[_span(tbs) :]
        return f"{int.from_bytes(_content(tbs, 0x02), 'big'):x}"
    except (binascii.Error, ValueError, IndexError):
        return ""


def _header(der: bytes) -> tuple[int, int]:
    """Bytes of tag and length, and of the content."""
    first = der[1]
    if first < 0x80:
        return 2, first
    size = first & 0x7F
    return 2 + size, int.from_bytes(der[2 : 2 + size], "big")


def _span(der: bytes) -> int:
    return sum(_header(der))


def _content(der: bytes, tag: int) -> bytes:
    if der[0] != tag:
        raise ValueError("not the element that was expected")
    start, length = _header(der)
    if start + length > len(der):
        raise ValueError("cut short")
    return der[start : start + length]
