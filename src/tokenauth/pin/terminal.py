"""What is asked on a terminal, of whatever system: one question at a time, which names the token and warns."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

from tokenauth.errors import PinRequired
from tokenauth.pin.request import Origin
from tokenauth.pin.wording import details, token_name, warning

if sys.platform == "win32":
    from tokenauth.pin.windows_console import read_answer
else:
    from tokenauth.pin.posix_terminal import read_answer

if TYPE_CHECKING:
    from tokenauth.pin.request import PinRequest

__all__ = ["ask", "question"]

_ENTERED = Origin("the PIN entered", "type it again, then Enter")
_NO_TERMINAL_HINT = "give --pin-source pinentry, keyring, env:VAR, file:PATH or fd:N, or pin=... in Python"
#: Two threads that need a PIN ask one after the other.
_lock = threading.Lock()


def ask(request: PinRequest) -> str:
    """Do what :func:`tokenauth.pin.prompt` says."""
    with _lock:
        try:
            given = read_answer(question(request), _ENTERED)
        except OSError as error:
            raise PinRequired(
                f"there is no terminal to ask for the PIN on ({error.args[-1]})",
                hint=_NO_TERMINAL_HINT,
                token=request.token,
            ) from None
    if given.is_empty:
        raise PinRequired("no PIN entered", hint=_ENTERED.hint, token=request.token)
    return given(request)


def question(request: PinRequest) -> str:
    """The text to show before the PIN is typed."""
    few = warning(request)
    asked = " ".join(filter(None, (f"PIN for {token_name(request)}", details(request))))
    return f"{few}\n{asked}: " if few else f"{asked}: "
