"""What makes one card differ from another."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from tests.support.piv.objects import AID

__all__ = ["NIST_ATR", "YUBIKEY_ATR", "Profile", "yubikey"]


def _with_check_byte(atr: str) -> bytes:
    """An ATR with its last byte, the exclusive or of all but the first (ISO/IEC 7816-3 section 8.2.5)."""
    whole = bytes.fromhex(atr)
    check = 0
    for byte in whole[1:]:
        check ^= byte
    return whole + bytes([check])


#: T=1; the historical bytes name the PIV application, by which OpenSC knows the card as one that keeps to the standard.
NIST_ATR = _with_check_byte("3B 8B 81 31 FE 45 80 F9 A00000030800001000")
#: A YubiKey 5's.
YUBIKEY_ATR = _with_check_byte("3B FD 13 00 00 81 31 FE 15 80 73 C0 21 C0 57 59 75 62 69 4B 65 79")


@dataclass(frozen=True)
class Profile:
    """What a card is made with.

    Args:
        pin: six to eight digits.
        puk: eight characters.
        pin_tries: wrong PINs in a row that block the PIN.
        puk_tries: wrong PUKs in a row that block the PUK.
        management_key: of the administrator, 16, 24 or 32 bytes.
        management_algorithm: its algorithm identifier: 3 for 3DES, 8, 10 or 12 for AES with 128, 192 or 256 bits.
        atr: what the card answers to a reset.
        guid: 16 bytes, the card's identity, from which OpenSC makes the token's serial number.
        application: the name of its application; another one than PIV's makes it another kind of card.
        selected_at_reset: whether the PIV application is, as SP 800-73-4 demands; else only SELECT works.
        verify_adjacent: 9C signs only if the very command before was a VERIFY; else if there was one since the last
            signature with 9C.
        version: what GET VERSION answers, one of Yubico's instructions; None: the card does not know it.
        serial: the same for GET SERIAL.
    """

    pin: str = field(default="123456", repr=False)
    puk: str = field(default="12345678", repr=False)
    pin_tries: int = 3
    puk_tries: int = 3
    management_key: bytes = field(default=bytes.fromhex("0102030405060708" * 3), repr=False)
    management_algorithm: int = 0x03
    atr: bytes = NIST_ATR
    guid: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    application: bytes = AID
    selected_at_reset: bool = True
    verify_adjacent: bool = True
    version: tuple[int, int, int] | None = None
    serial: int | None = None


def yubikey(serial: int = 12345678) -> Profile:
    """A card that libykcs11 takes for a YubiKey 5, from before it had GET METADATA."""
    return Profile(atr=YUBIKEY_ATR, selected_at_reset=False, verify_adjacent=False, version=(5, 2, 4), serial=serial)
