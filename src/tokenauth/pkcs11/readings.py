"""What a slot and the token in it say of themselves when they are looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenauth._records import Record
from tokenauth.uri import TokenInfo

if TYPE_CHECKING:
    from tokenauth.pkcs11.cryptoki import Cryptoki
    from tokenauth.uri import SlotInfo

__all__ = ["SlotReading", "read_token", "text_of"]


def text_of(padded: bytes) -> str:
    """A field of fixed size, padded with blanks or, in some modules, NULs."""
    return padded.decode("utf-8", "replace").rstrip("\0 ")


class SlotReading(Record):
    """What a slot and the token in it said when they were looked at.

    Args:
        slot: the slot.
        token: the token.
        flags: of ``CK_TOKEN_INFO``.
        removable: the token can be taken out (``CKF_REMOVABLE_DEVICE``).
        hardware: the slot is, or takes, a device (``CKF_HW_SLOT``, ``CKF_REMOVABLE_DEVICE``).
    """

    slot: SlotInfo
    token: TokenInfo
    flags: int
    removable: bool
    hardware: bool = False


def read_token(cryptoki: Cryptoki, slot: int) -> tuple[TokenInfo, int]:
    """The token in a slot, and its flags now.

    Raises:
        ReturnValue: there is none, or it can not be read.
    """
    info = cryptoki.token_info(slot)
    names = (info.label, info.manufacturer, info.model, info.serial)
    return TokenInfo(*map(text_of, names)), int(info.flags)
