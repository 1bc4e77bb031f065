"""PINs that are entered on the reader itself, which the program never sees."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from tokenauth.errors import PinRequired
from tokenauth.pin.request import OnPad

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenauth.pin.request import PinRequest

__all__ = ["PinPad"]

_TERMINAL = "CONOUT$" if sys.platform == "win32" else "/dev/tty"


class PinPad:
    """The PIN is entered on the reader's own pad (``CKF_PROTECTED_AUTHENTICATION_PATH``, PKCS #11 v3.1, 3.2).

    Args:
        notice: called with the request just before the reader waits, to tell whoever stands there. None: one line is
            written to the terminal, or else to stderr.
    """

    __slots__ = ("_notice",)

    def __init__(self, notice: Callable[[PinRequest], object] | None = None) -> None:
        self._notice = notice or _write_notice

    def __repr__(self) -> str:
        return "PinPad()"

    def __call__(self, request: PinRequest) -> OnPad:
        """Answer that the PIN is entered on the pad.

        Raises:
            PinRequired: the token has none.
        """
        if not request.pin_pad:
            raise PinRequired(
                "its PIN can not be entered on a pad: neither it nor its reader says that there is one",
                hint="give --pin-source prompt, or pin=tokenauth.prompt in Python",
                token=request.token,
            )
        return OnPad(lambda: self._notice(request))


def _write_notice(request: PinRequest) -> None:
    from tokenauth.pin.wording import details, printable, warning

    more = details(request)
    parts = (f"enter the PIN of token '{printable(request.token)}' on the reader's pad", more)
    text = "tokenauth: " + " ".join(filter(None, parts)) + "\n"
    if few := warning(request):
        text = f"{few}\n{text}"
    try:
        with open(_TERMINAL, "w", encoding="utf-8", errors="replace") as terminal:  # noqa: PTH123 - no real path
            terminal.write(text)
    except OSError:
        # There is none. AttributeError, ValueError: no stderr, or it is closed; the reader's own display is left.
        with contextlib.suppress(OSError, AttributeError, ValueError):
            sys.stderr.write(text)
            sys.stderr.flush()
