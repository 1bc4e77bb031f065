"""A program that runs as long as somebody talks to it, and no longer."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import threading
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

__all__ = ["Child"]

_GRACE = 2.0  # seconds to end by itself, and again after it was told to
#: What ends this process, unless it has a handler of its own.
_DEADLY = ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGINT")


class Child:
    """A program in a session of its own: Ctrl-C at the terminal reaches this process, which then ends that one.

    It ends with the ``with`` block, with this process by a signal that Python can catch in its main thread, and with
    the interpreter. After SIGKILL it is left with a closed pipe.

    Args:
        path: the program.
        at_end: called when it has ended, however that was.
    """

    def __init__(self, path: str, at_end: Callable[[], object]) -> None:
        self._path = path
        self._at_end = at_end
        self._process: subprocess.Popen[bytes] | None = None
        self._handlers: dict[int, Any] = {}
        self._ending = threading.RLock()

    def __enter__(self) -> Child:
        """Raises OSError if it can not be started."""
        atexit.register(self._end)
        self._catch_signals()
        try:
            self._process = subprocess.Popen(
                [self._path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,
            )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._end()
        finally:
            atexit.unregister(self._end)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    @property
    def stdin(self) -> IO[bytes]:
        """What it reads, unbuffered."""
        return self._pipe("stdin")

    @property
    def stdout(self) -> IO[bytes]:
        """What it writes, unbuffered."""
        return self._pipe("stdout")

    def _pipe(self, name: str) -> IO[bytes]:
        pipe: IO[bytes] | None = getattr(self._process, name)
        assert pipe is not None  # noqa: S101 - it was started so
        return pipe

    @contextmanager
    def within(self, seconds: float) -> Iterator[threading.Event]:
        """End it if the block takes longer, so that reading from it comes to an end.

        Returns:
            An event that is set if that happened.
        """
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._send("SIGKILL")

        timer = threading.Timer(seconds, give_up)
        timer.daemon = True
        timer.start()
        try:
            yield late
        finally:
            timer.cancel()

    def leave(self) -> int | None:
        """Close its pipes and wait for its end; the exit status, or None if it has to be told to end."""
        process = self._process
        if process is None:
            return None
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        with suppress(subprocess.TimeoutExpired):
            return process.wait(_GRACE)
        return None

    def _end(self) -> None:
        with self._ending:
            process, self._process = self._process, None
            if process is None:
                return
            try:
                self._make_end(process)
            except BaseException:  # a second Ctrl-C
                _send(process, "SIGKILL")
                process.wait()
                raise
            finally:
                self._at_end()

    @staticmethod
    def _make_end(process: subprocess.Popen[bytes]) -> None:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        for name in ("SIGTERM", "SIGKILL"):
            if process.returncode is not None:
                return
            _send(process, name)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
        process.wait()

    def _send(self, name: str) -> None:
        if self._process is not None:
            _send(self._process, name)

    def _catch_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():  # Python lets no other set handlers
            return
        found = [(name, getattr(signal, name)) for name in (*_DEADLY, "SIGTSTP") if hasattr(signal, name)]
        for name, number in found:
            if signal.getsignal(number) is signal.SIG_DFL:
                # Were this process stopped, the program would go on at the terminal, together with the shell.
                wanted = signal.SIG_IGN if name == "SIGTSTP" else self._on_signal
                self._handlers[number] = signal.signal(number, wanted)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._end()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


def _send(process: subprocess.Popen[bytes], name: str) -> None:
    """Send a signal to a program and those that it started; it was not waited for yet, so its number is its own."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(process.pid, getattr(signal, name))
        else:
            process.kill()
