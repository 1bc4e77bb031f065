"""The C structures of PKCS#11, and where its functions stand in ``CK_FUNCTION_LIST``.

From PKCS #11 v2.40 (pkcs11t.h, pkcs11f.h); later versions only append.
"""

from __future__ import annotations

import sys
from ctypes import Structure, c_char, c_char_p, c_ubyte, c_ulong, c_void_p
from typing import Any

__all__ = [
    "FUNCTIONS",
    "Attribute",
    "FunctionList",
    "Info",
    "InitializeArgs",
    "Mechanism",
    "MechanismInfo",
    "SessionInfo",
    "SlotInfo",
    "TokenInfo",
]


class _Packed(Structure):
    """On Windows the standard packs its structures to one byte."""

    if sys.platform == "win32":
        _pack_ = 1
        _layout_ = "ms"


class _Version(_Packed):
    _fields_ = [("major", c_ubyte), ("minor", c_ubyte)]


class FunctionList(_Packed):
    """``CK_FUNCTION_LIST``."""

    _fields_ = [("version", _Version), ("functions", c_void_p * 68)]


class InitializeArgs(_Packed):
    """``CK_C_INITIALIZE_ARGS``.

    NSS has a field more: where others have the reserved one it takes its parameters, and reads the reserved one behind.
    """

    _fields_ = [
        ("mutex_functions", c_void_p * 4),
        ("flags", c_ulong),
        ("reserved", c_char_p),
        ("reserved_of_nss", c_void_p),
    ]


class Info(_Packed):
    """``CK_INFO``."""

    _fields_ = [
        ("cryptoki_version", _Version),
        ("manufacturer", c_char * 32),
        ("flags", c_ulong),
        ("description", c_char * 32),
        ("version", _Version),
    ]


class SlotInfo(_Packed):
    """``CK_SLOT_INFO``."""

    _fields_ = [
        ("description", c_char * 64),
        ("manufacturer", c_char * 32),
        ("flags", c_ulong),
        ("hardware_version", _Version),
        ("firmware_version", _Version),
    ]


class TokenInfo(_Packed):
    """``CK_TOKEN_INFO``."""

    _fields_ = [
        ("label", c_char * 32),
        ("manufacturer", c_char * 32),
        ("model", c_char * 16),
        ("serial", c_char * 16),
        ("flags", c_ulong),
        ("max_sessions", c_ulong),
        ("sessions", c_ulong),
        ("max_rw_sessions", c_ulong),
        ("rw_sessions", c_ulong),
        ("max_pin_length", c_ulong),
        ("min_pin_length", c_ulong),
        ("total_public_memory", c_ulong),
        ("free_public_memory", c_ulong),
        ("total_private_memory", c_ulong),
        ("free_private_memory", c_ulong),
        ("hardware_version", _Version),
        ("firmware_version", _Version),
        ("utc_time", c_char * 16),
    ]


class SessionInfo(_Packed):
    """``CK_SESSION_INFO``."""

    _fields_ = [("slot", c_ulong), ("state", c_ulong), ("flags", c_ulong), ("device_error", c_ulong)]


class Mechanism(_Packed):
    """``CK_MECHANISM``."""

    _fields_ = [("mechanism", c_ulong), ("parameter", c_void_p), ("parameter_length", c_ulong)]


class MechanismInfo(_Packed):
    """``CK_MECHANISM_INFO``."""

    _fields_ = [("smallest_key", c_ulong), ("largest_key", c_ulong), ("flags", c_ulong)]


class Attribute(_Packed):
    """``CK_ATTRIBUTE``."""

    _fields_ = [("type", c_ulong), ("value", c_void_p), ("length", c_ulong)]


#: Position in CK_FUNCTION_LIST, and the arguments' types; a pointer is a ``c_void_p``, whatever is there. All return
#: ``CK_RV``.
FUNCTIONS: dict[str, tuple[int, tuple[Any, ...]]] = {
    "C_Initialize": (0, (c_void_p,)),
    "C_Finalize": (1, (c_void_p,)),
    "C_GetInfo": (2, (c_void_p,)),
    "C_GetSlotList": (4, (c_ubyte, c_void_p, c_void_p)),
    "C_GetSlotInfo": (5, (c_ulong, c_void_p)),
    "C_GetTokenInfo": (6, (c_ulong, c_void_p)),
    "C_GetMechanismList": (7, (c_ulong, c_void_p, c_void_p)),
    "C_GetMechanismInfo": (8, (c_ulong, c_ulong, c_void_p)),
    "C_InitToken": (9, (c_ulong, c_void_p, c_ulong, c_char_p)),
    "C_OpenSession": (12, (c_ulong, c_ulong, c_void_p, c_void_p, c_void_p)),
    "C_CloseSession": (13, (c_ulong,)),
    "C_GetSessionInfo": (15, (c_ulong, c_void_p)),
    "C_Login": (18, (c_ulong, c_ulong, c_void_p, c_ulong)),
    "C_Logout": (19, (c_ulong,)),
    "C_GetAttributeValue": (24, (c_ulong, c_ulong, c_void_p, c_ulong)),
    "C_FindObjectsInit": (26, (c_ulong, c_void_p, c_ulong)),
    "C_FindObjects": (27, (c_ulong, c_void_p, c_ulong, c_void_p)),
    "C_FindObjectsFinal": (28, (c_ulong,)),
    "C_SignInit": (42, (c_ulong, c_void_p, c_ulong)),
    "C_Sign": (43, (c_ulong, c_char_p, c_ulong, c_void_p, c_void_p)),
}
