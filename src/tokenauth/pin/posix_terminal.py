"""A PIN typed at the controlling terminal of a POSIX process: one line, read with the echo off."""

from __future__ import annotations

import atexit
import contextlib
import io
import signal
import sys
import termios
import threading
from typing import TYPE_CHECKING, Any

from tokenauth.pin.reading import read_line

if TYPE_CHECKING:
    from types import FrameType

    from tokenauth.pin.request import GivenPin, Origin

__all__ = ["read_answer"]

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
