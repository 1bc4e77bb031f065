"""What a slot and the token in it say of themselves when they are looked at."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tokenauth._records import Record
from tokenauth.pkcs11.returnvalues import ReturnValue
from tokenauth.uri import TokenInfo

if TYPE_CHECKING:
    from tokenauth.pkcs11.cryptoki import Cryptoki
    from tokenauth.uri import SlotInfo

__all__ = ["SlotReading", "read_token", "text_of"]

#: How often a token is read that can not be for a moment, and the seconds in between.
_READINGS, _PAUSE = 4, 0.02


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


def read_token(cryptoki: Cryptoki, slot: int, *, removable: bool) -> tuple[TokenInfo, int]:
    """The token in a slot, and its flags now.

    SoftHSM keeps a token in files, and answers CKR_GENERAL_ERROR while another process that logs in writes its flags:
    so a failure is looked at again. Not that of a card: it may be on its way out, where OpenSC can hang.

    Args:
        cryptoki: the module.
        slot: the slot's number.
        removable: the token can be taken out.

    Raises:
        ReturnValue: there is none, or it can not be read.
    """
    for readings_left in range(0 if removable else _READINGS - 1, -1, -1):
        try:
            info = cryptoki.token_info(slot)
            break
        except ReturnValue as error:
            if error.name != "CKR_GENERAL_ERROR" or not readings_left:
                raise
        time.sleep(_PAUSE)
    names = (info.label, info.manufacturer, info.model, info.serial)
    return TokenInfo(*map(text_of, names)), int(info.flags)
