"""The one door to python-pkcs11, which writes to tokens: it generates keys and stores objects."""

from __future__ import annotations

import ctypes
import importlib
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from tokenauth.errors import ModuleError
from tokenauth.pkcs11.returnvalues import error_for, name_of_exception

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenauth.pkcs11.tokens import Token

__all__ = ["python_pkcs11", "writable_session"]


def python_pkcs11() -> Any:
    """The package ``pkcs11``, imported when it is first used."""
    return importlib.import_module("pkcs11")


@contextmanager
def writable_session(token: Token, doing: str) -> Iterator[Any]:
    """Open one of python-pkcs11's sessions that may write to a token, and close it afterwards.

    The login is the process's, so it is the one that :meth:`Token.login` made.

    Args:
        token: the token.
        doing: what for, as in "it failed while DOING".

    Raises:
        ModuleError: the module runs in a process of its own, where python-pkcs11 can not reach it.
        TokenAuthError: what the token answered, in the block or before it.
    """
    if token.cryptoki.isolated:
        raise ModuleError(
            f"{token.module} runs in a process of its own, and nothing can be written to its tokens from here",
            hint="do this without TOKENAUTH_ISOLATE or isolate=True",
        )
    pkcs11 = python_pkcs11()
    try:
        with token.login_state.in_use(), token.gate:
            slots = _library(token.module).get_slots(token_present=True)
            slot = next(slot for slot in slots if slot.slot_id == token.slot.id)
            session = slot.get_token().open(rw=True)
            try:
                yield session
            finally:
                session.close()
    except pkcs11.PKCS11Error as error:
        raise error_for(name_of_exception(error), doing, token.label) from error


@cache
def _library(path: str) -> Any:
    """python-pkcs11's object for a module that is loaded and initialised already.

    It would initialise the module itself, with ``C_Initialize(NULL)``, and finalise and unload it when the object
    goes, at the latest when the interpreter ends. Other threads may be inside the module then. So the object is
    never let go, and as its own ``initialized`` stays false it never finalises anything either.
    """
    python_pkcs11()
    from pkcs11 import _pkcs11

    class Library(_pkcs11.lib):
        def initialize(self) -> None:
            """The module is initialised already."""

    library = Library(path)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(library))
    return library
