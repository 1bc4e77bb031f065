"""What clients of pcscd see, through libpcsclite (pcsclite.h, winscard.h)."""

from __future__ import annotations

import ctypes
import time
from ctypes import POINTER, Structure, byref, c_char_p, c_long, c_ubyte, c_ulong, c_void_p

__all__ = ["await_card"]

_EMPTY, _PRESENT = 0x10, 0x20
_POLL = 0.005  # seconds
_TIMEOUT = 10.0  # seconds


class _ReaderState(Structure):
    _fields_ = (
        ("szReader", c_char_p),
        ("pvUserData", c_void_p),
        ("dwCurrentState", c_ulong),
        ("dwEventState", c_ulong),
        ("cbAtr", c_ulong),
        ("rgbAtr", c_ubyte * 33),
    )


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL("libpcsclite.so.1")
    library.SCardEstablishContext.argtypes = (c_ulong, c_void_p, c_void_p, POINTER(c_long))
    library.SCardGetStatusChange.argtypes = (c_long, c_ulong, POINTER(_ReaderState), c_ulong)
    library.SCardReleaseContext.argtypes = (c_long,)
    return library


def await_card(reader: str, present: bool) -> None:
    """Wait until everybody can see that a card is in a reader, or is not.

    pcscd tells its clients a moment after it has powered the card.

    Args:
        reader: pcscd's name for it.
        present: which of the two.

    Raises:
        TimeoutError: it does not come to that.
    """
    library, context, wanted = _library(), c_long(), _PRESENT if present else _EMPTY
    end = time.monotonic() + _TIMEOUT
    if library.SCardEstablishContext(0, None, None, byref(context)):
        raise TimeoutError("pcscd takes no clients")
    try:
        while time.monotonic() < end:
            state = _ReaderState(szReader=reader.encode())  # of which nothing is known: the answer comes at once
            if not library.SCardGetStatusChange(context, 0, byref(state), 1) and state.dwEventState & wanted:
                return
            time.sleep(_POLL)
    finally:
        library.SCardReleaseContext(context)
    raise TimeoutError(f"pcscd does not notice that a card is {'in' if present else 'gone from'} {reader!r}")
