"""The data objects of a PIV card (SP 800-73-4 part 1 section 4 and appendix A)."""

from __future__ import annotations

import gzip

from tests.support.piv import tlv

__all__ = [
    "AID",
    "CERTIFICATE_TAGS",
    "DISCOVERY",
    "HISTORY",
    "PRINTED_INFORMATION",
    "PROTECTED",
    "certificate_object",
    "factory_objects",
    "history_object",
]

#: The PIV application's identifier, with its version.
AID = bytes.fromhex("A000000308 000010000100")

CHUID = 0x5FC102
CCC = 0x5FC107
DISCOVERY = 0x7E
HISTORY = 0x5FC10C
PRINTED_INFORMATION = 0x5FC109
_FINGERPRINTS, _FACE, _IRIS = 0x5FC103, 0x5FC108, 0x5FC121
#: Readable only with the PIN.
PROTECTED = {PRINTED_INFORMATION, _FINGERPRINTS, _FACE, _IRIS}
#: Key reference: the tag of its certificate. F9 is the YubiKey's attestation key, which no standard knows.
CERTIFICATE_TAGS = {
    0x9A: 0x5FC105,
    0x9C: 0x5FC10A,
    0x9D: 0x5FC10B,
    0x9E: 0x5FC101,
    **{0x82 + number: 0x5FC10D + number for number in range(20)},
    0xF9: 0x5FFF01,
}


def factory_objects(guid: bytes) -> dict[int, bytes]:
    """What is on a card before anybody has one: tag: the value as GET DATA answers it, without the outer tag."""
    return {CHUID: _chuid(guid), CCC: _ccc(guid), DISCOVERY: _discovery()}


def certificate_object(der: bytes, *, compressed: bool = False) -> bytes:
    """A certificate; compressed as big ones are."""
    content = gzip.compress(der) if compressed else der
    return tlv.encode(0x70, content) + tlv.encode(0x71, bytes([compressed])) + tlv.encode(0xFE)


def history_object(retired: int) -> bytes:
    """The key history: how many of the retired slots, from 82 on, have a certificate."""
    return tlv.encode(0xC1, bytes([retired])) + tlv.encode(0xC2, b"\0") + tlv.encode(0xFE)


def _chuid(guid: bytes) -> bytes:
    """The card holder unique identifier; its FASC-N (agency 9999) is that of an issuer that has none."""
    fasc_n = bytes.fromhex("D4E739DA739CED39CE739D836858210842108421C84210C3EB")
    return b"".join(
        tlv.encode(tag, value)
        for tag, value in ((0x30, fasc_n), (0x34, guid), (0x35, b"20991231"), (0x3E, b""), (0xFE, b""))
    )


def _ccc(guid: bytes) -> bytes:
    """The card capability container: the card's identifier, the versions of this container and its grammar."""
    identifier = bytes.fromhex("A000000116FF02") + guid[:14]
    filled = {0xF0: identifier, 0xF1: b"\x21", 0xF2: b"\x21", 0xF4: b"\0", 0xF5: b"\x10"}
    tags = (0xF0, 0xF1, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xFA, 0xFB, 0xFC, 0xFD, 0xFE)
    return b"".join(tlv.encode(tag, filled.get(tag, b"")) for tag in tags)


def _discovery() -> bytes:
    """The application's identifier, and that the card has a PIN of its own (40) and no other."""
    return tlv.encode(0x4F, AID) + tlv.encode(0x5F2F, b"\x40\0")
