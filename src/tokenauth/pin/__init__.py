"""Where PINs come from: the terminal, a variable, a file, a descriptor, the desktop, the reader's pad, the caller.

A source is any callable that takes a :class:`PinRequest` and returns the PIN, ``None`` when it has none, or
:class:`OnPad`. If it has a method ``forget``, that is called when a login is over that was to be forgotten. A source
is asked only when a token is about to be logged in to. It never gives out what cannot be a PIN (nothing at all, text
with control characters, bytes that are not UTF-8): sending that to a token would waste one of its few tries.

No ``repr``, error, traceback (with locals, too) or log record made here shows a PIN. What is read from files,
descriptors, terminals and pinentry is read into buffers that are overwritten with zeros afterwards. The PIN itself is
a ``str``: Python can neither overwrite it nor say how many copies of it there are, so it stays in the memory of the
process until that memory is used again, longer for a ``str`` given as ``pin=`` and for :class:`Fd`, which keep it. The
environment block of a process holds the PIN of :class:`Env` for as long as the process runs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tokenauth.pin.request import OnPad, PinRequest, PinSource, as_source

if TYPE_CHECKING:
    from tokenauth.pin.desktop import Keyring, Pinentry
    from tokenauth.pin.pad import PinPad
    from tokenauth.pin.sources import Env, Fd, File, from_uri, parse_pin_source, prompt

__all__ = [
    "Env",
    "Fd",
    "File",
    "Keyring",
    "OnPad",
    "PinPad",
    "PinRequest",
    "PinSource",
    "Pinentry",
    "as_source",
    "from_uri",
    "parse_pin_source",
    "prompt",
]

#: What is imported when it is first used; a program that has its PIN uses none of it.
_WHERE = {"Keyring": "tokenauth.pin.desktop", "Pinentry": "tokenauth.pin.desktop", "PinPad": "tokenauth.pin.pad"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE.get(name, "tokenauth.pin.sources")), name)
    globals()[name] = value
    return value
