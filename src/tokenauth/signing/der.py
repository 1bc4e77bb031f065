"""DER (ITU-T X.690) as far as a CMS signature needs it.

asn1crypto's encoding takes three quarters of the time of a signature, and it can not write what is larger than the
memory. What is read, by contrast, asn1crypto reads.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["context", "header", "integer", "octets", "oid", "sequence", "set_of", "time", "tlv"]

INTEGER, OCTET_STRING, OID, UTC_TIME, GENERALIZED_TIME, SEQUENCE, SET = 0x02, 0x04, 0x06, 0x17, 0x18, 0x30, 0x31
NULL = b"\x05\x00"
_CONTEXT, _CONSTRUCTED = 0x80, 0x20


def header(tag: int, length: int) -> bytes:
    """Tag and length of a value.

    Args:
        tag: one byte.
        length: of the value, in bytes.
    """
    if length < 0x80:
        return bytes((tag, length))
    digits = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(digits))) + digits


def tlv(tag: int, *content: bytes) -> bytes:
    """A value with its tag and length; several parts make one value."""
    value = b"".join(content)
    return header(tag, len(value)) + value


def sequence(*members: bytes) -> bytes:
    """A SEQUENCE of members in DER."""
    return tlv(SEQUENCE, *members)


def set_of(*members: bytes) -> bytes:
    """A SET OF members in DER, which are put in order (section 11.6)."""
    return tlv(SET, *sorted(members))


def octets(value: bytes) -> bytes:
    """An OCTET STRING."""
    return tlv(OCTET_STRING, value)


def context(number: int, *content: bytes) -> bytes:
    """A constructed value with a context-specific tag, EXPLICIT around a whole value, IMPLICIT around its content."""
    return tlv(_CONTEXT | _CONSTRUCTED | number, *content)


def integer(value: int) -> bytes:
    """An INTEGER that is not negative."""
    return tlv(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


@lru_cache(maxsize=64)
def oid(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER.

    Args:
        dotted: such as ``1.2.840.113549.1.7.2``.
    """
    first, second, *rest = map(int, dotted.split("."))
    return tlv(OID, b"".join(map(_base128, (40 * first + second, *rest))))


def _base128(number: int) -> bytes:
    digits = [number & 0x7F]
    while number := number >> 7:
        digits.append(0x80 | number & 0x7F)
    return bytes(reversed(digits))


def time(moment: datetime) -> bytes:
    """A Time: UTCTime until 2049, then GeneralizedTime (RFC 5652 section 11.3).

    Args:
        moment: in UTC.
    """
    if moment.year < 2050:
        return tlv(UTC_TIME, f"{moment:%y%m%d%H%M%SZ}".encode())
    return tlv(GENERALIZED_TIME, f"{moment:%Y%m%d%H%M%SZ}".encode())
