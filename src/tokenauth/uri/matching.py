"""What the attributes of a PKCS#11 URI are compared with (RFC 7512 section 2.5)."""

from __future__ import annotations

from typing import Any

from tokenauth._records import Record

__all__ = [
    "LIBRARY",
    "OBJECT",
    "SLOT",
    "TOKEN",
    "LibraryInfo",
    "ObjectInfo",
    "SlotInfo",
    "TokenInfo",
    "comparable",
]

# Which attribute each member of the tuples below answers to, in the order of their members.
LIBRARY = ("library-manufacturer", "library-description", "library-version")
SLOT = ("slot-id", "slot-description", "slot-manufacturer")
TOKEN = ("token", "manufacturer", "model", "serial")
OBJECT = ("object", "id", "type")


class LibraryInfo(Record):
    """What ``C_GetInfo`` says of a module; ``version`` is (major, minor)."""

    manufacturer: str
    description: str
    version: tuple[int, int]


class SlotInfo(Record):
    """A slot's number and what ``C_GetSlotInfo`` says of it."""

    id: int
    description: str
    manufacturer: str


class TokenInfo(Record):
    """What ``C_GetTokenInfo`` says of a token."""

    label: str
    manufacturer: str
    model: str
    serial: str


class ObjectInfo(Record):
    """``CKA_LABEL``, ``CKA_ID`` and ``CKA_CLASS`` (as a URI's ``type``) of an object; None for an absent attribute."""

    label: str | None
    id: bytes | None
    type: str


def comparable(value: Any, padding: str) -> Any:
    """The value without padding and, if it is text, in Normalization Form C: what equality is decided on."""
    if not isinstance(value, str):
        return value
    value = value.rstrip(padding) if padding else value
    if value.isascii():
        return value
    import unicodedata  # few names need it

    return unicodedata.normalize("NFC", value)
