"""How a PIN is asked for in words, wherever that is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenauth.pin.request import PinRequest

__all__ = ["details", "printable", "token_name", "warning"]

_WARNINGS = {
    "ok": "",
    "low": "Warning: a wrong PIN was sent before; few tries are left.",
    "final": "Warning: this is the last try; a wrong PIN locks the token.",
}


def printable(text: str) -> str:
    """Text without what would move the cursor or colour the terminal: labels and host names are others' texts."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def token_name(request: PinRequest) -> str:
    """The token's label and serial number."""
    serial = f" (serial {printable(request.serial)})" if request.serial else ""
    return f"token '{printable(request.token)}'{serial}"


def details(request: PinRequest) -> str:
    """What the PIN is for, and whether it is wanted each time; may be empty."""
    each = "(asked for each signature)" if request.per_signature else ""
    return " ".join(filter(None, (printable(request.reason), each)))


def warning(request: PinRequest) -> str:
    """A sentence for when few tries are left; else empty."""
    return _WARNINGS[request.tries]
