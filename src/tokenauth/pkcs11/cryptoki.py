"""PKCS#11 functions called directly, where python-pkcs11 falls short.

python-pkcs11 finds modules' slots, tokens and objects for us. Four of its habits can not be lived with, so these
calls go to the module's function list (the same one, by ``C_GetFunctionList`` of the same file) through ctypes:

- ``C_Initialize(NULL)`` while other calls release the interpreter's lock: two threads crash modules that were not
  told to lock (PKCS #11 v3.1, 5.4: ``CKF_OS_LOCKING_OK``).
- ``C_Login`` as a side effect of opening a session, which leaks that session when the login fails.
- ``C_Logout`` as a side effect of closing a session, which logs the whole process out.
- ``C_Sign`` called twice per signature, and a failed operation cancelled by ``C_SignFinal``.

The PIN is copied once into memory that is wiped after the call; Python's own ``str`` can not be wiped.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import contextmanager
from ctypes import POINTER, Structure, byref, c_char_p, c_ubyte, c_ulong, c_void_p
from typing import TYPE_CHECKING, Any, NamedTuple

from tokenauth.errors import ModuleError
from tokenauth.pkcs11 import returnvalues as rv
from tokenauth.pkcs11.returnvalues import ReturnValue

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Cryptoki", "Initialised", "Mechanism"]

_CKF_OS_LOCKING_OK = 0x2
#: CKU_SO, CKU_USER, CKU_CONTEXT_SPECIFIC
_USERS = {"so": 0, "user": 1, "operation": 2}
_LABEL_SIZE = 32  # CK_TOKEN_INFO.label, padded with blanks
_LARGEST_SIGNATURE = 2048  # bytes: RSA with 16384 bits

#: Position in CK_FUNCTION_LIST (PKCS #11 v2.40 onwards never moves them) and the arguments' types.
_FUNCTIONS: dict[str, tuple[int, tuple[Any, ...]]] = {
    "C_Initialize": (0, (c_void_p,)),
    "C_Finalize": (1, (c_void_p,)),
    "C_InitToken": (9, (c_ulong, c_void_p, c_ulong, c_char_p)),
    "C_Login": (18, (c_ulong, c_ulong, c_void_p, c_ulong)),
    "C_Logout": (19, (c_ulong,)),
    "C_SignInit": (42, (c_ulong, c_void_p, c_ulong)),
    "C_Sign": (43, (c_ulong, c_char_p, c_ulong, c_void_p, POINTER(c_ulong))),
}
#: On Windows the standard's structures are packed to one byte.
_PACK = {"_pack_": 1, "_layout_": "ms"} if sys.platform == "win32" else {}


class _Version(Structure):
    _fields_ = [("major", c_ubyte), ("minor", c_ubyte)]


class _FunctionList(Structure):
    locals().update(_PACK)
    _fields_ = [("version", _Version), ("functions", c_void_p * 68)]


class _InitializeArgs(Structure):
    locals().update(_PACK)
    _fields_ = [("mutex_functions", c_void_p * 4), ("flags", c_ulong), ("reserved", c_void_p)]


class _Mechanism(Structure):
    locals().update(_PACK)
    _fields_ = [("mechanism", c_ulong), ("parameter", c_void_p), ("parameter_length", c_ulong)]


_Signature = c_ubyte * _LARGEST_SIGNATURE


class Mechanism(NamedTuple):
    """A mechanism's number, and its parameter as a row of ``CK_ULONG`` (empty for none).

    ``CK_RSA_PKCS_PSS_PARAMS``, the one structure that signing needs, is three of them (PKCS #11 v3.1, 6.1.10).
    """

    number: int
    parameter: tuple[int, ...] = ()


def _mechanism(mechanism: Mechanism) -> Any:
    """A pointer to the ``CK_MECHANISM``; ctypes keeps alive what it points to."""
    structure = _Mechanism(mechanism.number)
    if mechanism.parameter:
        parameter = (c_ulong * len(mechanism.parameter))(*mechanism.parameter)
        structure.parameter = ctypes.cast(parameter, c_void_p)
        structure.parameter_length = ctypes.sizeof(parameter)
    return ctypes.pointer(structure)


class Initialised(NamedTuple):
    """How a module was initialised.

    Args:
        thread_safe: the module locks by itself.
        by_us: nobody in this process had initialised it before.
    """

    thread_safe: bool
    by_us: bool


@contextmanager
def _wiped(pin: str | None) -> Iterator[tuple[int | None, int]]:
    """A copy of a PIN for C: its address and length in bytes; overwritten afterwards. None stays None."""
    if pin is None:
        yield None, 0
        return
    buffer = bytearray(pin, "utf-8")
    del pin
    try:
        yield ctypes.addressof((c_ubyte * len(buffer)).from_buffer(buffer)), len(buffer)
    finally:
        buffer[:] = bytes(len(buffer))


class Cryptoki:
    """The functions of one module.

    Args:
        path: the module's file.

    Raises:
        ModuleError: the file can not be loaded, or is no PKCS#11 module.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            library = ctypes.CDLL(path)
            get_function_list = library.C_GetFunctionList
        except AttributeError:
            raise ModuleError(f"{path} is no PKCS#11 module: it has no C_GetFunctionList") from None
        except OSError as error:
            raise ModuleError(f"{path} can not be loaded: {error}") from None
        pointer = POINTER(_FunctionList)()
        get_function_list.restype = c_ulong
        if (value := get_function_list(byref(pointer))) or not pointer:
            raise ModuleError(f"{path} does not give its functions", ckr=rv.name_of(value))
        # The library is kept as long as its functions: ctypes does not unload it, modules do not survive that.
        self._functions = {
            name: ctypes.CFUNCTYPE(c_ulong, *types)(pointer.contents.functions[position])
            for name, (position, types) in _FUNCTIONS.items()
        }
        self._mechanisms: dict[Mechanism, Any] = {}
        self._sign_init = self._functions["C_SignInit"]
        self._sign = self._functions["C_Sign"]

    def _call(self, function: str, *arguments: Any) -> None:
        value = self._functions[function](*arguments)
        if value:
            raise ReturnValue(rv.name_of(value), function)

    def initialise(self) -> Initialised:
        """Initialise the module so that it may be called by several threads, if it can.

        Raises:
            ModuleError: it can not be initialised at all.
        """
        arguments = _InitializeArgs(flags=_CKF_OS_LOCKING_OK)
        value = self._functions["C_Initialize"](byref(arguments))
        if value == rv.CKR_OK:
            return Initialised(thread_safe=True, by_us=True)
        if value == rv.CKR_CRYPTOKI_ALREADY_INITIALIZED:
            return Initialised(thread_safe=False, by_us=False)  # by whom and how can not be known
        # Some modules can not lock (CKR_CANT_LOCK); others take nothing but NULL and say so in many ways.
        value = self._functions["C_Initialize"](None)
        if value not in {rv.CKR_OK, rv.CKR_CRYPTOKI_ALREADY_INITIALIZED}:
            raise ModuleError(f"{self._path} can not be initialised", ckr=rv.name_of(value))
        return Initialised(thread_safe=False, by_us=value == rv.CKR_OK)

    def finalise(self) -> None:
        """Undo :meth:`initialise`: every session, login and handle is gone.

        Raises:
            ReturnValue: the module refused.
        """
        self._call("C_Finalize", None)

    def login(self, session: int, pin: str | None, user: str = "user") -> None:
        """Log in.

        Args:
            session: a session's handle.
            pin: the PIN; None for a token that asks for it on its own pad.
            user: ``user``, ``so`` (the security officer), or ``operation``: the user once more, for the operation just
                begun with a key that asks each time.

        Raises:
            ReturnValue: the token refused.
        """
        with _wiped(pin) as (address, size):
            self._call("C_Login", session, _USERS[user], address, size)

    def init_token(self, slot: int, so_pin: str, label: str) -> None:
        """Initialise the token in a slot, which destroys all that is on it.

        Args:
            slot: the slot's number.
            so_pin: the security officer's PIN: a new one for a blank token, or else the one it has.
            label: at most 32 bytes of UTF-8.

        Raises:
            ReturnValue: the token refused.
        """
        with _wiped(so_pin) as (address, size):
            self._call("C_InitToken", slot, address, size, label.encode().ljust(_LABEL_SIZE))

    def logout(self, session: int) -> None:
        """Log the user out, in all sessions of this process.

        Raises:
            ReturnValue: the token refused.
        """
        self._call("C_Logout", session)

    def sign_init(self, session: int, mechanism: Mechanism, key: int) -> None:
        """Begin a signature.

        Raises:
            ReturnValue: the token refused.
        """
        structure = self._mechanisms.get(mechanism)
        if structure is None:
            structure = self._mechanisms[mechanism] = _mechanism(mechanism)
        if value := self._sign_init(session, structure, key):
            raise ReturnValue(rv.name_of(value), "C_SignInit")

    def sign(self, session: int, data: bytes) -> bytes:
        """Finish a signature that :meth:`sign_init` began, in one call.

        Args:
            session: the session's handle.
            data: what the mechanism takes: a digest, a DigestInfo, a padded block or the message.

        Raises:
            ReturnValue: the token refused.
        """
        length = c_ulong(_LARGEST_SIGNATURE)
        room = _Signature()
        if value := self._sign(session, data, len(data), room, byref(length)):
            raise ReturnValue(rv.name_of(value), "C_Sign")
        return ctypes.string_at(room, length.value)
