"""What a source is asked for, and what it answers: a PIN, or that it is entered on the reader's pad.

The simplest source, a PIN that the program has, is here as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, TypeAlias

from tokenauth._records import Record
from tokenauth.errors import PinRequired

__all__ = ["GivenPin", "OnPad", "Origin", "PinRequest", "PinSource", "as_source"]


class PinRequest(Record):
    """What a PIN is asked for."""

    #: The token's label.
    token: str
    #: The token's serial number.
    serial: str = ""
    #: What the PIN is for, as in "to authenticate to api.example".
    reason: str = ""
    #: "low": a wrong PIN was sent since the last right one; "final": one more wrong PIN locks the token.
    tries: Literal["ok", "low", "final"] = "ok"
    #: The key wants the PIN for this one signature, not for a login that lasts.
    per_signature: bool = False
    #: The PIN can be entered on the token or its reader: the answer may be :class:`OnPad`.
    pin_pad: bool = False


class OnPad:
    """What a source answers in place of a PIN: it is entered on the reader's pad, and never reaches this program.

    Args:
        notice: called just before the reader waits for the PIN, to tell whoever stands there; None for nothing.
    """

    __slots__ = ("notice",)

    def __init__(self, notice: Callable[[], object] | None = None) -> None:
        self.notice = notice

    def __repr__(self) -> str:
        return "OnPad()"


PinSource: TypeAlias = Callable[[PinRequest], str | OnPad | None]


class Origin:
    """Where a PIN came from and what to do if there is no good one."""

    __slots__ = ("hint", "name")

    def __init__(self, name: str, hint: str = "") -> None:
        self.name = name
        self.hint = hint


#: What a PIN never holds, and how that is told. Bytes that are not UTF-8 arrive here as lone surrogates.
_FAULTS = (
    (r"\A\Z", "is empty"),
    (r"[\ud800-\udfff]", "is not UTF-8 text"),
    (r"\0", "holds a NUL character"),
    (r"[\r\n]", "holds a line break"),
    (r"[\x01-\x1f\x7f]", "holds a control character"),
)


def _fault_of(pin: str) -> str:
    """What keeps a text from being a PIN; empty for nothing."""
    if pin and pin.isprintable():
        return ""  # none of the patterns, whose compilation would take longer than all else here
    return next((words for pattern, words in _FAULTS if re.search(pattern, pin)), "")


class GivenPin:
    """A PIN in hand. Every source ends here: it hides the PIN, and refuses to give out what cannot be one."""

    __slots__ = ("_fault", "_origin", "_pin")

    def __init__(self, pin: str, origin: Origin, fault: str = "") -> None:
        self._pin = pin
        self._origin = origin
        self._fault = fault or _fault_of(pin)

    def __repr__(self) -> str:
        return f"<PIN from {self._origin.name}>"

    def __call__(self, request: PinRequest) -> str:
        """Return the PIN.

        Raises:
            PinRequired: there is none, or it is no possible PIN.
        """
        if self._fault:
            raise PinRequired(f"{self._origin.name} {self._fault}", hint=self._origin.hint, token=request.token)
        return self._pin

    @property
    def is_empty(self) -> bool:
        """Whether there is no character in it."""
        return not self._pin


def as_source(pin: str | PinSource | None) -> PinSource | None:
    """Make a source of whatever is given as ``pin=``.

    Args:
        pin: a PIN, a source, or None.

    Returns:
        A source whose ``repr`` does not show the PIN; a callable unchanged; None for None.

    Raises:
        TypeError: ``pin`` is something else.
    """
    if isinstance(pin, str):
        return GivenPin(pin, Origin("the PIN given as pin="))
    if pin is None or callable(pin):
        return pin
    kind = type(pin).__name__  # type: ignore[unreachable]  # not every caller has a type checker
    del pin  # an int or bytes may well be a PIN, and a traceback can show locals
    raise TypeError(f"pin must be a str, a callable or None, not {kind}")
