"""A PIN typed at the controlling terminal of a POSIX process: one line, read with the echo off; and which it is."""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import signal
import sys
import termios
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenauth.pin.reading import read_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from tokenauth.pin.request import GivenPin, Origin

__all__ = ["keep_modes", "read_answer", "terminal_name"]

assert sys.platform != "win32"  # noqa: S101 -- type checkers for Windows skip the rest


def read_answer(question: str, origin: Origin) -> GivenPin:
    """Show the question and read what is typed up to Enter.

    Raises:
        OSError: there is no terminal.
        KeyboardInterrupt: Ctrl-C; the terminal's echo is on again.
    """
    try:
        with io.FileIO("/dev/tty", "r+") as raw:
            terminal = _Terminal(raw, question.encode())
            try:
                terminal.ask()
                return read_line(raw, origin)
            finally:
                terminal.close()
    except termios.error as error:
        raise OSError(*error.args) from None


def terminal_name() -> str:
    """The path of the terminal to ask at, for a program of another session: ``GPG_TTY``, or our own; empty for none."""
    if named := os.environ.get("GPG_TTY"):
        return named
    for descriptor in (0, 1, 2):
        with contextlib.suppress(OSError):
            return os.ttyname(descriptor)
    with contextlib.suppress(OSError, ValueError, IndexError):  # Linux only: proc(5), tty_nr is field 7
        number = int(Path("/proc/self/stat").read_text(encoding="latin-1").rpartition(")")[2].split()[4])
        device = os.makedev(number >> 8 & 0xFFF, number >> 12 & 0xFFF00 | number & 0xFF)
        for path in (*Path("/dev/pts").glob("[0-9]*"), *Path("/dev").glob("tty?*")) if number else ():
            if path.stat().st_rdev == device:
                return str(path)
    return ""


def keep_modes(terminal: str) -> Callable[[], None]:
    """Remember a terminal's modes.

    Args:
        terminal: its path; empty for none.

    Returns:
        To be called when a program that used it has ended, in whatever way: puts them back if they are others now.
    """
    try:
        descriptor = os.open(terminal, os.O_RDWR | os.O_NOCTTY)
        try:
            before = termios.tcgetattr(descriptor)
        finally:
            os.close(descriptor)
    except (OSError, termios.error):
        return lambda: None
    return lambda: _put_back(terminal, before)


def _put_back(terminal: str, modes: list[Any]) -> None:
    with contextlib.suppress(OSError, termios.error):  # it hung up
        descriptor = os.open(terminal, os.O_RDWR | os.O_NOCTTY)
        try:
            # From the background, that would stop this process.
            if termios.tcgetattr(descriptor) != modes and os.tcgetpgrp(descriptor) == os.getpgrp():
                termios.tcsetattr(descriptor, termios.TCSAFLUSH, modes)  # what was typed may be part of a PIN
                os.write(descriptor, b"\n")
        finally:
            os.close(descriptor)


class _Terminal:
    """The controlling terminal while it asks one question with its echo off."""

    def __init__(self, raw: io.FileIO, question: bytes) -> None:
        self._raw = raw
        self._question = question
        self._modes = termios.tcgetattr(raw)
        self._caught: list[int] = []
        self._asking = False

    def ask(self) -> None:
        """Catch signals that would leave the echo off, switch it off and show the question."""
        self._asking = True
        atexit.register(self._restore)  # the end of a process does not wait for a daemon thread that asks
        if threading.current_thread() is threading.main_thread():  # Python lets no other set handlers
            # SIGINT becomes KeyboardInterrupt unless its default action was chosen; that one kills.
            for number in (signal.SIGTSTP, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT):
                if signal.getsignal(number) is signal.SIG_DFL:
                    self._caught.append(number)
                    signal.signal(number, self._on_signal)
        self._show()

    def close(self) -> None:
        """Put echo and signals back as they were."""
        self._asking = False
        self._restore()
        for number in self._caught:
            signal.signal(number, signal.SIG_DFL)
        atexit.unregister(self._restore)

    def _show(self) -> None:
        modes: list[Any] = list(self._modes)
        # Line mode and signal keys even if a program left the terminal raw: Enter must end the line.
        modes[0] |= termios.ICRNL
        modes[3] = modes[3] & ~(termios.ECHO | termios.ECHONL) | termios.ICANON | termios.ISIG
        termios.tcsetattr(self._raw, termios.TCSAFLUSH, modes)
        self._raw.write(self._question)

    def _restore(self) -> None:
        # Input that is still there goes: it may be part of a PIN, and a shell would show it.
        with contextlib.suppress(OSError, ValueError, termios.error):  # the terminal hung up
            termios.tcsetattr(self._raw, termios.TCSAFLUSH, self._modes)
            self._raw.write(b"\n")

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Let the signal stop or end the process with the echo on; ask again if the process goes on."""
        self._restore()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
        signal.signal(number, self._on_signal)
        if self._asking:
            self._show()
