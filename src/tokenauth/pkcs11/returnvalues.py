"""PKCS#11 return values: their names, and what each means to a user.

Numbers and names: PKCS #11 v3.1, section 6 ("General data types") and pkcs11t.h.
"""

from __future__ import annotations

import re

from tokenauth._records import Record
from tokenauth.errors import (
    MechanismUnsupported,
    ModuleError,
    PinError,
    PinIncorrect,
    PinLocked,
    PinRefused,
    PinRequired,
    SigningFailed,
    TokenAuthError,
    TokenRemoved,
)

__all__ = ["CKR", "CONFUSED", "GONE", "ReturnValue", "error_for", "name_of", "name_of_exception"]

NOT_LOGGED_IN = "CKR_USER_NOT_LOGGED_IN"
CKR_OK = 0x00
CKR_BUFFER_TOO_SMALL = 0x150
CKR_CRYPTOKI_ALREADY_INITIALIZED = 0x191
CKR_VENDOR_DEFINED = 0x80000000

CKR = {
    0x00: "OK", 0x01: "CANCEL", 0x02: "HOST_MEMORY", 0x03: "SLOT_ID_INVALID", 0x05: "GENERAL_ERROR",
    0x06: "FUNCTION_FAILED", 0x07: "ARGUMENTS_BAD", 0x08: "NO_EVENT", 0x09: "NEED_TO_CREATE_THREADS",
    0x0A: "CANT_LOCK", 0x10: "ATTRIBUTE_READ_ONLY", 0x11: "ATTRIBUTE_SENSITIVE", 0x12: "ATTRIBUTE_TYPE_INVALID",
    0x13: "ATTRIBUTE_VALUE_INVALID", 0x1B: "ACTION_PROHIBITED", 0x20: "DATA_INVALID", 0x21: "DATA_LEN_RANGE",
    0x30: "DEVICE_ERROR", 0x31: "DEVICE_MEMORY", 0x32: "DEVICE_REMOVED", 0x50: "FUNCTION_CANCELED",
    0x51: "FUNCTION_NOT_PARALLEL", 0x54: "FUNCTION_NOT_SUPPORTED", 0x60: "KEY_HANDLE_INVALID",
    0x62: "KEY_SIZE_RANGE", 0x63: "KEY_TYPE_INCONSISTENT", 0x68: "KEY_FUNCTION_NOT_PERMITTED",
    0x6A: "KEY_UNEXTRACTABLE", 0x70: "MECHANISM_INVALID", 0x71: "MECHANISM_PARAM_INVALID",
    0x82: "OBJECT_HANDLE_INVALID", 0x90: "OPERATION_ACTIVE", 0x91: "OPERATION_NOT_INITIALIZED",
    0xA0: "PIN_INCORRECT", 0xA1: "PIN_INVALID", 0xA2: "PIN_LEN_RANGE", 0xA3: "PIN_EXPIRED", 0xA4: "PIN_LOCKED",
    0xB0: "SESSION_CLOSED", 0xB1: "SESSION_COUNT", 0xB3: "SESSION_HANDLE_INVALID",
    0xB4: "SESSION_PARALLEL_NOT_SUPPORTED", 0xB5: "SESSION_READ_ONLY", 0xB6: "SESSION_EXISTS",
    0xB7: "SESSION_READ_ONLY_EXISTS", 0xB8: "SESSION_READ_WRITE_SO_EXISTS", 0xC0: "SIGNATURE_INVALID",
    0xC1: "SIGNATURE_LEN_RANGE", 0xD0: "TEMPLATE_INCOMPLETE", 0xD1: "TEMPLATE_INCONSISTENT",
    0xE0: "TOKEN_NOT_PRESENT", 0xE1: "TOKEN_NOT_RECOGNIZED", 0xE2: "TOKEN_WRITE_PROTECTED",
    0x100: "USER_ALREADY_LOGGED_IN", 0x101: "USER_NOT_LOGGED_IN", 0x102: "USER_PIN_NOT_INITIALIZED",
    0x103: "USER_TYPE_INVALID", 0x104: "USER_ANOTHER_ALREADY_LOGGED_IN", 0x105: "USER_TOO_MANY_TYPES",
    0x120: "RANDOM_SEED_NOT_SUPPORTED", 0x121: "RANDOM_NO_RNG", 0x130: "DOMAIN_PARAMS_INVALID",
    0x140: "CURVE_NOT_SUPPORTED", 0x150: "BUFFER_TOO_SMALL", 0x160: "SAVED_STATE_INVALID",
    0x170: "INFORMATION_SENSITIVE", 0x180: "STATE_UNSAVEABLE", 0x190: "CRYPTOKI_NOT_INITIALIZED",
    0x191: "CRYPTOKI_ALREADY_INITIALIZED", 0x1A0: "MUTEX_BAD", 0x1A1: "MUTEX_NOT_LOCKED",
    0x1B6: "FIPS_SELF_TEST_FAILED", 0x1B7: "LIBRARY_LOAD_FAILED", 0x1B8: "PIN_TOO_WEAK",
    0x1B9: "PUBLIC_KEY_INVALID", 0x200: "FUNCTION_REJECTED", 0x201: "TOKEN_RESOURCE_EXCEEDED",
    0x202: "OPERATION_CANCEL_FAILED", 0x203: "KEY_EXHAUSTED",
}  # fmt: skip

#: python-pkcs11's exceptions whose names are not the return value's in another spelling.
_SPELT_OTHERWISE = {
    "CKR_TOKEN_NOT_RECOGNISED": "CKR_TOKEN_NOT_RECOGNIZED",
    "CKR_CRYPTOKI_NOT_INITIALISED": "CKR_CRYPTOKI_NOT_INITIALIZED",
    "CKR_PKCS11_ERROR": "",
}


#: What any function answers whose session is gone: with the token, with its slot, or with all that the module knew.
GONE = frozenset(
    {
        "CKR_DEVICE_REMOVED",
        "CKR_TOKEN_NOT_PRESENT",
        "CKR_TOKEN_NOT_RECOGNIZED",
        "CKR_SLOT_ID_INVALID",
        "CKR_SESSION_CLOSED",
        "CKR_SESSION_HANDLE_INVALID",
        "CKR_CRYPTOKI_NOT_INITIALIZED",
    }
)
#: What a module answers when it is confused; initialising it anew may help.
CONFUSED = frozenset({"CKR_GENERAL_ERROR", "CKR_DEVICE_ERROR", "CKR_FUNCTION_FAILED", "CKR_DEVICE_MEMORY"})


class ReturnValue(Exception):
    """A PKCS#11 function answered something else than ``CKR_OK``.

    For use inside the PKCS#11 layer, which turns it into one of :mod:`tokenauth.errors` with :func:`error_for`.

    Args:
        name: such as ``CKR_DEVICE_REMOVED``.
        function: such as ``C_Sign``.
    """

    def __init__(self, name: str, function: str) -> None:
        self.name = name
        self.function = function
        super().__init__(f"{function}: {name}")


class _Meaning(Record):
    error: type[TokenAuthError]
    message: str
    hint: str = ""


_FORM_HINT = "check the PIN"
_REMOVED = _Meaning(TokenRemoved, "it was removed while in use")
_CANCELLED = _Meaning(PinRefused, "the PIN entry was cancelled", "try again")
_MEANINGS = {
    "CKR_PIN_INCORRECT": _Meaning(PinIncorrect, "the PIN is wrong"),
    "CKR_PIN_INVALID": _Meaning(PinIncorrect, "the PIN holds characters that the token does not allow", _FORM_HINT),
    "CKR_PIN_LEN_RANGE": _Meaning(PinIncorrect, "the PIN is too long or too short for the token", _FORM_HINT),
    "CKR_PIN_EXPIRED": _Meaning(PinError, "the PIN has expired", "change the PIN with the card's own program"),
    "CKR_PIN_LOCKED": _Meaning(PinLocked, "the PIN is locked"),
    "CKR_USER_PIN_NOT_INITIALIZED": _Meaning(
        PinError, "no PIN was ever set on it", "set the user PIN with the card's own program"
    ),
    "CKR_USER_NOT_LOGGED_IN": _Meaning(PinRequired, "the key needs a login"),
    "CKR_FUNCTION_CANCELED": _CANCELLED,
    "CKR_CANCEL": _CANCELLED,
    "CKR_DEVICE_REMOVED": _REMOVED,
    "CKR_TOKEN_NOT_PRESENT": _REMOVED,
    "CKR_TOKEN_NOT_RECOGNIZED": _REMOVED,
    "CKR_MECHANISM_INVALID": _Meaning(MechanismUnsupported, "it does not make this kind of signature"),
    "CKR_MECHANISM_PARAM_INVALID": _Meaning(
        MechanismUnsupported, "it does not make this kind of signature with these parameters"
    ),
    "CKR_KEY_FUNCTION_NOT_PERMITTED": _Meaning(
        SigningFailed, "the key may not sign", "choose another key: this one is meant for something else"
    ),
    "CKR_LIBRARY_LOAD_FAILED": _Meaning(ModuleError, "the module could not load a library that it needs"),
    "CKR_FIPS_SELF_TEST_FAILED": _Meaning(ModuleError, "the module's self-test failed"),
}
_UNKNOWN_HINT = "run 'tokenauth doctor'; if the token is a card, take it out, insert it again and retry"


def name_of(value: int) -> str:
    """``CKR_PIN_LOCKED`` for 0xA4; ``CKR_VENDOR_DEFINED+0x..`` or the number for what has no name."""
    if value in CKR:
        return f"CKR_{CKR[value]}"
    if value >= CKR_VENDOR_DEFINED:
        return f"CKR_VENDOR_DEFINED+0x{value - CKR_VENDOR_DEFINED:x}"
    return f"0x{value:08x}"


def name_of_exception(error: Exception) -> str:
    """The return value behind one of python-pkcs11's exceptions, whose class names are the values' names.

    Returns:
        Such as ``CKR_DEVICE_ERROR``; for values that it has no class for, the number it puts in the text; or "".
    """
    spelled = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(error).__name__).upper()
    name = _SPELT_OTHERWISE.get(f"CKR_{spelled}", f"CKR_{spelled}")
    if name:
        return name
    number = re.search(r"0x[0-9a-fA-F]+|\b\d+\b", str(error))
    return name_of(int(number[0], 0)) if number else ""


def error_for(name: str, doing: str, token: str = "") -> TokenAuthError:
    """The error that tells a user what a return value means.

    Args:
        name: such as ``CKR_DEVICE_ERROR``.
        doing: what was attempted, as in "it failed while DOING".
        token: the token's label.
    """
    meaning = _MEANINGS.get(name) or _Meaning(SigningFailed, f"it failed while {doing}", _UNKNOWN_HINT)
    return meaning.error(meaning.message, hint=meaning.hint, token=token, ckr=name)
