"""PKCS#11 modules, loaded once per process, and the slots and tokens that they show."""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, NamedTuple

from tokenauth.errors import ModuleError, TokenNotFound
from tokenauth.pkcs11 import binding
from tokenauth.pkcs11.cryptoki import Cryptoki
from tokenauth.pkcs11.returnvalues import ReturnValue, name_of_exception
from tokenauth.pkcs11.tokens import Token
from tokenauth.uri import LibraryInfo

__all__ = ["Module", "SlotFailure", "load_module"]


class SlotFailure(NamedTuple):
    """A slot that could not be read.

    Args:
        slot: the slot's number.
        ckr: the return value's name.
    """

    slot: int
    ckr: str


class Module:
    """A loaded and initialised PKCS#11 module. Made by :func:`load_module`.

    Args:
        path: the module's file.

    Attributes:
        path: the module's file.
        info: its ``CK_INFO`` as a URI can name it.
        thread_safe: it was told to lock, and can.

    Raises:
        ModuleError: the file is missing, is no PKCS#11 module, or can not be initialised.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.cryptoki = Cryptoki(path)
        try:
            self._library, initialised = binding.load(path, self.cryptoki)
        except binding.python_pkcs11().PKCS11Error as error:
            raise ModuleError(f"{path} can not be used", ckr=name_of_exception(error)) from error
        self.thread_safe = initialised.thread_safe
        self._lock: AbstractContextManager[Any] = nullcontext() if self.thread_safe else threading.RLock()
        self._tokens: dict[tuple[str, str, str], Token] = {}
        self.info = LibraryInfo(
            self._library.manufacturer_id, self._library.library_description, self._library.library_version
        )

    def __repr__(self) -> str:
        return f"<Module {self.path}>"

    def guard(self) -> AbstractContextManager[Any]:
        """To be held around every call into the module: a lock if the module has none of its own."""
        return self._lock

    def tokens(self) -> tuple[list[Token], list[SlotFailure]]:
        """The tokens that are in the module's slots now; one that can not be read never hides the others.

        Returns:
            Initialised tokens, the same objects as long as the same token is in some slot; and slots that failed.

        Raises:
            ModuleError: the module does not even give its slots.
        """
        pkcs11 = binding.python_pkcs11()
        tokens, failures = [], []
        with self.guard():
            try:
                slots = self._library.get_slots(token_present=True)
            except pkcs11.PKCS11Error as error:
                raise ModuleError(f"{self.path} does not list its slots", ckr=name_of_exception(error)) from error
            for slot in slots:
                try:
                    handle = slot.get_token()
                except (pkcs11.TokenNotPresent, pkcs11.TokenNotRecognised):
                    continue
                except pkcs11.PKCS11Error as error:
                    failures.append(SlotFailure(slot.slot_id, name_of_exception(error)))
                    continue
                if handle.flags & pkcs11.TokenFlag.TOKEN_INITIALIZED:
                    tokens.append(self._token(handle))
        return tokens, failures

    def blank_slot(self) -> int:
        """The number of a slot whose token is not initialised yet.

        Raises:
            TokenNotFound: there is none.
        """
        pkcs11 = binding.python_pkcs11()
        with self.guard():
            for slot in self._library.get_slots(token_present=True):
                if not slot.get_token().flags & pkcs11.TokenFlag.TOKEN_INITIALIZED:
                    return int(slot.slot_id)
        raise TokenNotFound(f"{self.path} shows no slot with a blank token")

    def reload(self) -> None:
        """Finalise and initialise the module, so that it reads its configuration anew; all its tokens become stale.

        Raises:
            ModuleError: it can not be initialised again.
        """
        with self.guard():
            for token in self._tokens.values():
                token.stale = True
            self._tokens.clear()
            with suppress(ReturnValue):
                self.cryptoki.finalise()
            self.cryptoki.initialise()

    def _token(self, handle: Any) -> Token:
        serial = handle.serial.decode("utf-8", "replace").rstrip("\0 ")
        key = (handle.label, handle.manufacturer_id, serial)
        token = self._tokens.get(key)
        if token is None or token.slot.id != handle.slot.slot_id:
            token = self._tokens[key] = Token(self.path, self.cryptoki, self.guard(), handle)
        return token


_loaded: dict[str, Module] = {}
_loading = threading.Lock()


def load_module(path: str) -> Module:
    """Load a module, or give the one that is loaded already.

    Args:
        path: the module's file; the same file under two names is one module.

    Raises:
        ModuleError: the file is missing, is no PKCS#11 module, or can not be initialised.
    """
    real = os.path.realpath(path)
    with _loading:
        if real not in _loaded:
            _loaded[real] = Module(path)
        return _loaded[real]
