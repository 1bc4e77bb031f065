"""The tables in which OpenSSL's providers hand out their functions (openssl/core.h, openssl/core_dispatch.h)."""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, POINTER, PYFUNCTYPE, Structure, c_char_p, c_int, c_size_t, c_void_p
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

# Numbers of openssl/core_dispatch.h.
OP_KEYMGMT, OP_SIGNATURE = 10, 12
PROVIDER_QUERY_OPERATION = 1027
KEYMGMT_NEW, KEYMGMT_FREE, KEYMGMT_GET_PARAMS, KEYMGMT_GETTABLE_PARAMS = 1, 10, 11, 12
KEYMGMT_OPERATION_NAME, KEYMGMT_HAS, KEYMGMT_MATCH, KEYMGMT_IMPORT = 20, 21, 23, 40
KEYMGMT_IMPORT_TYPES, KEYMGMT_IMPORT_TYPES_EX = 41, 45
SIGNATURE_NEWCTX, SIGNATURE_DIGEST_SIGN_INIT, SIGNATURE_DIGEST_SIGN, SIGNATURE_FREECTX = 1, 8, 11, 16
SIGNATURE_GET_CTX_PARAMS, SIGNATURE_SET_CTX_PARAMS = 18, 20
SIGNATURE_GETTABLE_CTX_PARAMS, SIGNATURE_SETTABLE_CTX_PARAMS = 19, 21

#: The entries of the default provider's tables that are handed on as they are, or replaced; the rest is left out.
KEPT = {
    OP_KEYMGMT: frozenset(
        {
            KEYMGMT_NEW,
            KEYMGMT_FREE,
            KEYMGMT_GET_PARAMS,
            KEYMGMT_GETTABLE_PARAMS,
            KEYMGMT_OPERATION_NAME,
            KEYMGMT_HAS,
            KEYMGMT_MATCH,
            KEYMGMT_IMPORT,
            KEYMGMT_IMPORT_TYPES,
            KEYMGMT_IMPORT_TYPES_EX,
        }
    ),
    OP_SIGNATURE: frozenset(
        {
            SIGNATURE_NEWCTX,
            SIGNATURE_FREECTX,
            SIGNATURE_DIGEST_SIGN_INIT,
            SIGNATURE_DIGEST_SIGN,
            SIGNATURE_GET_CTX_PARAMS,
            SIGNATURE_SET_CTX_PARAMS,
            SIGNATURE_GETTABLE_CTX_PARAMS,
            SIGNATURE_SETTABLE_CTX_PARAMS,
        }
    ),
}


class Dispatch(Structure):
    """``OSSL_DISPATCH``."""

    _fields_ = [("function_id", c_int), ("function", c_void_p)]


class Algorithm(Structure):
    """``OSSL_ALGORITHM``."""

    _fields_ = [
        ("names", c_char_p),
        ("properties", c_char_p),
        ("implementation", POINTER(Dispatch)),
        ("description", c_char_p),
    ]


class Param(Structure):
    """``OSSL_PARAM``."""

    _fields_ = [
        ("key", c_char_p),
        ("data_type", ctypes.c_uint),
        ("data", c_void_p),
        ("data_size", c_size_t),
        ("return_size", c_size_t),
    ]


PROVIDER_INIT = CFUNCTYPE(c_int, c_void_p, POINTER(Dispatch), POINTER(c_void_p), POINTER(c_void_p))
QUERY = CFUNCTYPE(c_void_p, c_void_p, c_int, POINTER(c_int))
IMPORT = CFUNCTYPE(c_int, c_void_p, c_int, c_void_p)
DIGEST_SIGN_INIT = CFUNCTYPE(c_int, c_void_p, c_char_p, c_void_p, c_void_p)
DIGEST_SIGN = CFUNCTYPE(c_int, c_void_p, c_void_p, POINTER(c_size_t), c_size_t, c_void_p, c_size_t)
# For calling OpenSSL's functions, with the interpreter's lock held.
_Native = PYFUNCTYPE(c_int)
NATIVE_IMPORT = (c_void_p, c_int, c_void_p)
NATIVE_DIGEST_SIGN_INIT = (c_void_p, c_char_p, c_void_p, c_void_p)
NATIVE_GET_CTX_PARAMS = (c_void_p, c_void_p)


def native(address: int, arguments: tuple[Any, ...]) -> Any:
    """A function of OpenSSL's own tables, to be called."""
    function: Any = _Native(address)
    function.argtypes = arguments
    return function


def immortal(thing: Any) -> Any:
    """Keep an object beyond the interpreter's own clean-up: one reference to it is never given back."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
    return thing


def address_of(callback: Any) -> int:
    """Where C finds a callback, from now on and for ever."""
    return ctypes.cast(immortal(callback), c_void_p).value or 0


def until(array: Any, field: str) -> Iterator[Any]:
    """The elements of a C array that ends with one whose ``field`` is zero."""
    index = 0
    while getattr(array[index], field):
        yield array[index]
        index += 1
