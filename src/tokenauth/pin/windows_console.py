"""A PIN typed at a Windows console, key by key: only so is nothing shown."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

from tokenauth.pin.reading import Buffer
from tokenauth.pin.request import GivenPin

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenauth.pin.request import Origin

__all__ = ["collect_keys", "keep_modes", "terminal_name"]


def terminal_name() -> str:
    """Nothing: a console has no path that a program could be told."""
    return ""


def keep_modes(_terminal: str) -> Callable[[], None]:
    """Nothing: a program that asks in a window leaves the console alone."""
    return lambda: None


def collect_keys(read_key: Callable[[], str], typed: Buffer) -> None:
    """Append the UTF-16 code units of keys to ``typed``, up to Enter; keys are those of ``msvcrt.getwch``."""
    while (key := read_key()) not in "\r\n\uffff":  # U+FFFF: the console is gone
        if key == "\x03":
            raise KeyboardInterrupt
        if key in "\x00\xe0":
            read_key()  # a function or arrow key: its code follows
        elif key == "\b":
            del typed[-2:]
        else:
            typed += key.encode("utf-16-le", "surrogatepass")


if sys.platform == "win32":
    import msvcrt

    def read_answer(question: str, origin: Origin) -> GivenPin:
        """Show the question and read what is typed up to Enter.

        Raises:
            OSError: there is no console.
            KeyboardInterrupt: Ctrl-C.
        """
        io.FileIO("CONIN$").close()
        for char in question:
            msvcrt.putwch(char)
        with Buffer() as typed:
            try:
                collect_keys(msvcrt.getwch, typed)
            finally:
                msvcrt.putwch("\r")
                msvcrt.putwch("\n")
            return GivenPin(typed.decode("utf-16-le", "surrogatepass"), origin)
