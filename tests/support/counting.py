"""Counts the calls that reach SoftHSM, whoever makes them and however.

A PKCS#11 module hands out one list of its functions, and every caller goes through it. The entries of that list are
replaced by functions that count and call the real ones. That has to happen before anybody loads the module, because
callers copy the entries.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from ctypes import CFUNCTYPE, POINTER, c_size_t, c_ulong, c_void_p
from dataclasses import dataclass
from typing import Any

__all__ = ["Calls", "count_calls", "since"]

#: Position in CK_FUNCTION_LIST behind the version, and how many arguments, all of a machine word's size.
_COUNTED = {
    "C_OpenSession": (12, 5),
    "C_CloseSession": (13, 1),
    "C_Login": (18, 4),
    "C_Logout": (19, 1),
    "C_FindObjectsInit": (26, 3),
    "C_SignInit": (42, 3),
    "C_Sign": (43, 5),
}
_counted: Counter[str] = Counter()
#: The mechanisms' numbers of all calls of C_SignInit.
_mechanisms: list[int] = []
_immortal: list[Any] = []


@dataclass(frozen=True)
class Calls:
    """How often the module was called since some moment."""

    before: Counter[str]
    mechanisms_before: int

    def __getitem__(self, function: str) -> int:
        return _counted[function] - self.before[function]

    @property
    def logins(self) -> int:
        return self["C_Login"]

    @property
    def signatures(self) -> int:
        return self["C_Sign"]

    @property
    def mechanisms(self) -> list[int]:
        """With which mechanisms a signature was begun."""
        return _mechanisms[self.mechanisms_before :]

    @property
    def any(self) -> int:
        return sum(self[function] for function in _COUNTED)


def since() -> Calls:
    """Count from now on."""
    return Calls(_counted.copy(), len(_mechanisms))


def count_calls(path: str) -> None:
    """Begin to count the calls of a module that nobody has loaded yet."""
    if _immortal:
        return
    library = ctypes.CDLL(path)
    functions = POINTER(c_void_p)()
    library.C_GetFunctionList.restype = c_ulong
    assert library.C_GetFunctionList(ctypes.byref(functions)) == 0
    _immortal.append(library)
    for name, (position, arguments) in _COUNTED.items():
        _replace(functions, position + 1, name, arguments)  # the version fills one word


def _replace(functions: Any, index: int, name: str, arguments: int) -> None:
    kind = CFUNCTYPE(c_ulong, *[c_size_t] * arguments)
    original = kind(functions[index])

    def count(*given: int) -> int:
        _counted[name] += 1
        if name == "C_SignInit":
            _mechanisms.append(c_ulong.from_address(given[1]).value)  # the first field of CK_MECHANISM
        result: int = original(*given)
        return result

    replacement = kind(count)
    _immortal.extend((original, replacement))
    functions[index] = ctypes.cast(replacement, c_void_p).value
