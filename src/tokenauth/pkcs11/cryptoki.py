"""PKCS#11's functions, called in the module itself: everything that using a key needs.

python-pkcs11 is there for writing to tokens (:mod:`tokenauth.provisioning`). For reading and signing, some of its
habits can not be lived with on somebody's only card:

- ``C_Initialize(NULL)`` while it releases the interpreter's lock during calls: two threads crash modules that were
  not told to lock (PKCS #11 v3.1, 5.4: ``CKF_OS_LOCKING_OK``);
- one slot that can not be read hides all the others; flags are read once; vendors' return values have no name;
- ``C_Login`` as a side effect of opening a session, which leaks that session when the login fails, and ``C_Logout``
  as a side effect of closing one, which logs the whole process out;
- ``C_Sign`` called twice per signature, and a failed operation cancelled by ``C_SignFinal``;
- its import alone would be a third of what a short script may take.

Calls release the interpreter's lock: a card takes its time. A PIN is copied once into memory that is wiped after
the call; Python's own ``str`` can not be wiped.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from ctypes import CFUNCTYPE, POINTER, addressof, byref, c_ubyte, c_ulong, c_void_p, sizeof
from typing import Any

from tokenauth._records import Record
from tokenauth.errors import ModuleError
from tokenauth.pkcs11 import error_queue, structures
from tokenauth.pkcs11 import returnvalues as rv
from tokenauth.pkcs11.p11kit import init_reserved
from tokenauth.pkcs11.returnvalues import ReturnValue

__all__ = ["Cryptoki", "Initialised", "Mechanism"]

_CKF_OS_LOCKING_OK = 0x2
_CKF_RW_SESSION, _CKF_SERIAL_SESSION = 0x2, 0x4
#: CKU_SO, CKU_USER, CKU_CONTEXT_SPECIFIC
_USERS = {"so": 0, "user": 1, "operation": 2}
_LABEL_SIZE = 32  # CK_TOKEN_INFO.label, padded with blanks
_LARGEST_SIGNATURE = 2048  # bytes: RSA with 16384 bits
_LARGEST_ATTRIBUTE = 1 << 20  # bytes: what claims to be longer is no certificate and no key
_UNAVAILABLE = c_ulong(-1).value  # CK_UNAVAILABLE_INFORMATION
_ROOM = 2048  # bytes
_SEARCH_BATCH = 64

_Signature = c_ubyte * _LARGEST_SIGNATURE
_Function = CFUNCTYPE(c_ulong)  # one class for all; making one for each would take longer than most calls


class Mechanism(Record):
    """A mechanism's number, and its parameter as a row of ``CK_ULONG`` (empty for none).

    ``CK_RSA_PKCS_PSS_PARAMS``, the one structure that signing needs, is three of them (PKCS #11 v3.1, 6.1.10).
    """

    number: int
    parameter: tuple[int, ...] = ()


class Initialised(Record):
    """How a module was initialised.

    Args:
        thread_safe: the module locks by itself.
        by_us: nobody in this process had initialised it before.
    """

    thread_safe: bool
    by_us: bool


class Cryptoki:
    """The functions of one module. All but :meth:`initialise` raise :class:`ReturnValue` if the module refuses.

    Args:
        path: the module's file.

    Raises:
        ModuleError: the file can not be loaded, or is no PKCS#11 module.
    """

    #: It runs in a process of its own: see :mod:`tokenauth.pkcs11.isolation`.
    isolated = False
    #: Called when that process died.
    on_death: Callable[[], None]

    def __init__(self, path: str) -> None:
        self._path = path
        self._mechanisms: dict[Mechanism, Any] = {}
        self._load(path)

    def _load(self, path: str) -> None:
        """Load a library, and call its functions from now on."""
        try:
            library = ctypes.CDLL(path)  # never unloaded: modules do not survive that
            get_function_list = library.C_GetFunctionList
        except AttributeError:
            raise ModuleError(f"{path} is no PKCS#11 module: it has no C_GetFunctionList") from None
        except OSError as error:
            raise ModuleError(f"{path} can not be loaded: {error}") from None
        pointer = POINTER(structures.FunctionList)()
        get_function_list.restype = c_ulong
        if (value := get_function_list(byref(pointer))) or not pointer:
            raise ModuleError(f"{path} does not give its functions", ckr=rv.name_of(value))
        self._addresses = pointer.contents.functions
        self._functions: dict[str, Any] = {}

    def _function(self, name: str) -> Any:
        if name not in self._functions:
            position, types = structures.FUNCTIONS[name]
            function: Any = _Function(self._addresses[position])
            function.argtypes = types
            self._functions[name] = function
        return self._functions[name]

    def _value(self, function: str, *arguments: Any) -> int:
        """Call a function; what it answers."""
        value: int = self._function(function)(*arguments)
        error_queue.clear()
        return value

    def _call(self, function: str, *arguments: Any) -> None:
        if value := self._value(function, *arguments):
            raise ReturnValue(rv.name_of(value), function)

    def initialise(self) -> Initialised:
        """Initialise the module so that it may be called by several threads, if it can.

        Raises:
            ModuleError: it can not be initialised at all.
        """
        value = self._begin()
        if value == rv.CKR_OK:
            return Initialised(thread_safe=True, by_us=True)
        if value == rv.CKR_CRYPTOKI_ALREADY_INITIALIZED:
            return Initialised(thread_safe=False, by_us=False)  # by whom and how can not be known
        # Some modules can not lock (CKR_CANT_LOCK); others take nothing but NULL and say so in many ways.
        value = self._value("C_Initialize", None)
        if value not in {rv.CKR_OK, rv.CKR_CRYPTOKI_ALREADY_INITIALIZED}:
            raise ModuleError(f"{self._path} can not be initialised", ckr=rv.name_of(value))
        return Initialised(thread_safe=False, by_us=value == rv.CKR_OK)

    def _begin(self) -> int:
        """Initialise the module for several threads; what it answers."""
        reserved = init_reserved(self._path)
        given = structures.InitializeArgs(flags=_CKF_OS_LOCKING_OK, reserved=reserved)
        return self._value("C_Initialize", byref(given))

    def finalise(self) -> None:
        """Undo :meth:`initialise`: every session, login and handle is gone."""
        self._call("C_Finalize", None)

    def info(self) -> structures.Info:
        """What the module says of itself."""
        info = structures.Info()
        self._call("C_GetInfo", byref(info))
        return info

    def slots(self) -> list[int]:
        """The numbers of the slots that hold a token."""
        return self._list("C_GetSlotList", 1)

    def slot_info(self, slot: int) -> structures.SlotInfo:
        """What the module says of a slot."""
        info = structures.SlotInfo()
        self._call("C_GetSlotInfo", slot, byref(info))
        return info

    def token_info(self, slot: int) -> structures.TokenInfo:
        """What the token in a slot says of itself now."""
        info = structures.TokenInfo()
        self._call("C_GetTokenInfo", slot, byref(info))
        return info

    def mechanisms(self, slot: int) -> list[int]:
        """The numbers of the mechanisms that a token lists."""
        return self._list("C_GetMechanismList", slot)

    def mechanism_info(self, slot: int, mechanism: int) -> structures.MechanismInfo:
        """What a token says of a mechanism."""
        info = structures.MechanismInfo()
        self._call("C_GetMechanismInfo", slot, mechanism, byref(info))
        return info

    def _list(self, function: str, first: int) -> list[int]:
        """Call a function that gives a list: once for its length, once for it; again if it grew in between."""
        count = c_ulong()
        while True:
            self._call(function, first, None, byref(count))
            if not count.value:
                return []  # p11-kit's client answers CKR_BUFFER_TOO_SMALL to who asks for the nothing that there is
            numbers = (c_ulong * count.value)()
            try:
                self._call(function, first, numbers, byref(count))
            except ReturnValue as error:
                if error.name != "CKR_BUFFER_TOO_SMALL":
                    raise
                continue
            return list(numbers[: count.value])

    def open_session(self, slot: int) -> int:
        """Open a session that reads. It never logs in or out by itself.

        Returns:
            The session's handle.
        """
        handle = c_ulong()
        self._call("C_OpenSession", slot, _CKF_SERIAL_SESSION, None, None, byref(handle))
        return handle.value

    def session_state(self, session: int) -> int:
        """A session's ``CK_STATE``: whether it is read-only, and who is logged in."""
        info = structures.SessionInfo()
        self._call("C_GetSessionInfo", session, byref(info))
        return int(info.state)

    def close_session(self, session: int) -> None:
        """Close a session; with the token's last one of this process its login ends."""
        self._call("C_CloseSession", session)

    def login(self, session: int, pin: str | None, user: str = "user") -> None:
        """Log in.

        Args:
            session: a session's handle.
            pin: the PIN; None for a token that asks for it on its own pad.
            user: ``user``, ``so`` (the security officer), or ``operation``: the user once more, for the operation just
                begun with a key that asks each time.
        """
        with _wiped(pin) as (address, size):
            self._call("C_Login", session, _USERS[user], address, size)

    def logout(self, session: int) -> None:
        """Log out, in all sessions of this process."""
        self._call("C_Logout", session)

    def init_token(self, slot: int, so_pin: str, label: str) -> None:
        """Initialise the token in a slot, which destroys all that is on it.

        Args:
            slot: the slot's number.
            so_pin: the security officer's PIN: a new one for a blank token, or else the one it has.
            label: at most 32 bytes of UTF-8.
        """
        with _wiped(so_pin) as (address, size):
            self._call("C_InitToken", slot, address, size, label.encode().ljust(_LABEL_SIZE))

    def find(self, session: int, object_class: int) -> list[int]:
        """The handles of all objects of a class (``CKO_...``) that show now."""
        wanted = c_ulong(object_class)
        template = structures.Attribute(0, addressof(wanted), sizeof(wanted))  # CKA_CLASS
        handles, count = (c_ulong * _SEARCH_BATCH)(), c_ulong()
        found: list[int] = []
        self._call("C_FindObjectsInit", session, byref(template), 1)
        try:
            while True:
                self._call("C_FindObjects", session, handles, _SEARCH_BATCH, byref(count))
                if not count.value:
                    break
                found += handles[: count.value]
        except ReturnValue:
            self._value("C_FindObjectsFinal", session)  # what that answers says less
            raise
        self._call("C_FindObjectsFinal", session)
        return found

    def attributes(self, session: int, handle: int, types: Iterable[int]) -> dict[int, bytes]:
        """An object's attributes (``CKA_...``); those that it does not have or does not tell are left out."""
        types = list(types)
        template = (structures.Attribute * len(types))(*[structures.Attribute(number, None, 0) for number in types])
        if not self._tells(session, handle, template):
            # The standard wants the lengths of the others all the same; not every module reads that far.
            for attribute in template:
                if not self._tells(session, handle, (structures.Attribute * 1).from_buffer(attribute)):
                    attribute.length = _UNAVAILABLE
        there = [attribute for attribute in template if attribute.length <= _LARGEST_ATTRIBUTE]
        rooms = [_room(attribute.length) for attribute in there]
        for attribute, room in zip(there, rooms, strict=True):
            attribute.value = addressof(room)
        wanted = (structures.Attribute * len(there))(*there)
        if there:
            self._call("C_GetAttributeValue", session, handle, wanted, len(there))
        return {attribute.type: bytes(room)[: attribute.length] for attribute, room in zip(wanted, rooms, strict=True)}

    def _tells(self, session: int, handle: int, template: ctypes.Array[structures.Attribute]) -> bool:
        """Have the lengths of an object's attributes filled in; whether it tells all of them."""
        value = self._value("C_GetAttributeValue", session, handle, template, len(template))
        if (name := rv.name_of(value)) in rv.GONE:
            raise ReturnValue(name, "C_GetAttributeValue")  # else it would seem to have no attributes
        return not value

    def sign_init(self, session: int, mechanism: Mechanism, key: int) -> None:
        """Begin a signature with a key's handle."""
        structure = self._mechanisms.get(mechanism)
        if structure is None:
            structure = self._mechanisms[mechanism] = _structure(mechanism)
        self._call("C_SignInit", session, structure, key)

    def sign(self, session: int, data: bytes) -> bytes:
        """Finish a signature that :meth:`sign_init` began, in one call if the module lets us.

        Args:
            session: the session's handle.
            data: what the mechanism takes: a digest, a DigestInfo, a padded block or the message.
        """
        length, room = c_ulong(_LARGEST_SIGNATURE), _Signature()
        value = self._value("C_Sign", session, data, len(data), room, byref(length))
        if value == rv.CKR_BUFFER_TOO_SMALL:  # some modules say so of any buffer until they were asked for the length
            self._call("C_Sign", session, data, len(data), None, byref(length))
            length.value = _LARGEST_SIGNATURE
            value = self._value("C_Sign", session, data, len(data), room, byref(length))
        if value:
            raise ReturnValue(rv.name_of(value), "C_Sign")
        return ctypes.string_at(room, length.value)


def _room(size: int) -> ctypes.Array[c_ubyte]:
    """At least so many bytes. Each size is a class of its own, which takes longer to make than an attribute to read."""
    return (c_ubyte * (size // _ROOM * _ROOM + _ROOM))()


def _structure(mechanism: Mechanism) -> Any:
    """A pointer to the ``CK_MECHANISM``; ctypes keeps alive what it points to."""
    structure = structures.Mechanism(mechanism.number)
    if mechanism.parameter:
        parameter = (c_ulong * len(mechanism.parameter))(*mechanism.parameter)
        structure.parameter = ctypes.cast(parameter, c_void_p)
        structure.parameter_length = sizeof(parameter)
    return ctypes.pointer(structure)


@contextmanager
def _wiped(pin: str | None) -> Iterator[tuple[int | None, int]]:
    """A copy of a PIN for C: its address and length in bytes; overwritten afterwards. None stays None."""
    if pin is None:
        yield None, 0
        return
    copy = bytearray(pin, "utf-8")
    del pin
    array = (c_ubyte * len(copy)).from_buffer(copy)
    try:
        yield addressof(array), len(copy)
    finally:
        copy[:] = bytes(len(copy))
