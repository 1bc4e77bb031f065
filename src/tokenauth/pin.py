"""Where PINs come from: the terminal, an environment variable, a file, a file descriptor, the caller.

A source is any callable that takes a :class:`PinRequest` and returns the PIN, or ``None`` when it has none. A source
is asked only when a token is about to be logged in to. It never gives out what cannot be a PIN (nothing at all, text
with control characters, bytes that are not UTF-8): sending that to a token would waste one of its few tries.

No ``repr``, error, traceback (with locals, too) or log record made here shows a PIN. What is read from files,
descriptors and terminals is read into one buffer that is overwritten with zeros afterwards. The PIN itself is a
``str``: Python can neither overwrite it nor say how many copies of it there are, so it stays in the memory of the
process until that memory is used again, longer for a ``str`` given as ``pin=`` and for :class:`Fd`, which keep it. The
environment block of a process holds the PIN of :class:`Env` for as long as the process runs.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import re
import select
import stat
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from tokenauth.errors import InvalidURI, PinRequired

if TYPE_CHECKING:
    from types import FrameType
    from typing import Protocol

    class PinAttributes(Protocol):
        """The two attributes of a ``pkcs11:`` URI that concern the PIN, percent-decoded."""

        @property
        def pin_value(self) -> str | None:
            """The PIN itself."""

        @property
        def pin_source(self) -> str | None:
            """Where the PIN is."""


__all__ = ["Env", "Fd", "File", "PinRequest", "PinSource", "as_source", "from_uri", "parse_pin_source", "prompt"]

#: No PIN file or line is larger; one that is was named by mistake.
_MAX_BYTES = 4096


class PinRequest(NamedTuple):
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


PinSource: TypeAlias = Callable[[PinRequest], str | None]


class _Origin(NamedTuple):
    """Where a PIN came from and what to do if there is no good one."""

    name: str
    hint: str = ""


#: What a PIN never holds, and how that is told. Bytes that are not UTF-8 arrive here as lone surrogates.
_FAULTS = (
    (r"\A\Z", "is empty"),
    (r"[\ud800-\udfff]", "is not UTF-8 text"),
    (r"\0", "holds a NUL character"),
    (r"[\r\n]", "holds a line break"),
    (r"[\x01-\x1f\x7f]", "holds a control character"),
)


class _GivenPin:
    """A PIN in hand. Every source ends here: it hides the PIN, and refuses to give out what cannot be one."""

    __slots__ = ("_fault", "_origin", "_pin")

    def __init__(self, pin: str, origin: _Origin, fault: str = "") -> None:
        self._pin = pin
        self._origin = origin
        self._fault = fault or next((words for pattern, words in _FAULTS if re.search(pattern, pin)), "")

    def __repr__(self) -> str:
        return f"<PIN from {self._origin.name}>"

    def __call__(self, request: PinRequest) -> str:
        if self._fault:
            raise PinRequired(f"{self._origin.name} {self._fault}", hint=self._origin.hint, token=request.token)
        return self._pin

    @property
    def is_empty(self) -> bool:
        return not self._pin


class _Buffer(bytearray):
    """Bytes that no ``repr`` shows and that are overwritten on exit."""

    def __repr__(self) -> str:
        return f"<{len(self)} hidden bytes>"

    def __enter__(self) -> _Buffer:
        return self

    def __exit__(self, *_: object) -> None:
        self[:] = bytes(len(self))

    def first_line(self, size: int) -> str:
        """The first line of the first ``size`` bytes, without its one LF or CR LF and without a byte order mark."""
        end = self.find(b"\n", 0, size)
        if end > 0 and self[end - 1] == ord("\r"):
            end -= 1
        line = memoryview(self)[: end if end >= 0 else size]
        return str(line, "utf-8", "surrogateescape").removeprefix("\ufeff")


def _no_pin(origin: _Origin, fault: str) -> _GivenPin:
    return _GivenPin("", origin, fault)


def _read_line(raw: io.FileIO, origin: _Origin, step: int = _MAX_BYTES + 1) -> _GivenPin:
    """Read up to a line's end or the file's, at most ``step`` bytes at a time."""
    with _Buffer(_MAX_BYTES + 1) as buffer:
        size = 0
        while size <= _MAX_BYTES and buffer.find(b"\n", 0, size) < 0:
            count = raw.readinto(memoryview(buffer)[size : size + step])
            if count is None:  # a descriptor in non-blocking mode: half a PIN must not pass for a PIN
                select.select([raw], [], [])
            elif count == 0:
                break
            else:
                size += count
        if size > _MAX_BYTES:
            return _no_pin(origin, f"is larger than {_MAX_BYTES} bytes")
        return _GivenPin(buffer.first_line(size), origin)


def _cannot_read(origin: _Origin, error: Exception) -> _GivenPin:
    return _no_pin(origin, f"cannot be read: {error.args[-1]}")


class Env:
    """The PIN is the value of an environment variable.

    Args:
        name: the variable's name.
    """

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"Env({self._name!r})"

    def __call__(self, request: PinRequest) -> str:
        """Return the variable's value.

        Raises:
            PinRequired: it is not set, empty or no possible PIN.
        """
        origin = _Origin(f"environment variable {self._name!r}", "set it to the PIN")
        with contextlib.suppress(KeyError, UnicodeEncodeError):  # UnicodeEncodeError: no variable can have that name
            return _GivenPin(os.environ[self._name], origin)(request)
        return _no_pin(origin, "is not set")(request)


class File:
    """The PIN is the first line of a file, read anew each time.

    Exactly one line end, LF or CR LF, is taken off, and a UTF-8 byte order mark; spaces are part of the PIN.

    Args:
        path: the file; at most 4096 bytes long.
    """

    __slots__ = ("_path",)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)

    def __repr__(self) -> str:
        return f"File({self._path!r})"

    def __call__(self, request: PinRequest) -> str:
        """Read the PIN; log a warning if other users can read it too.

        Raises:
            PinRequired: the file cannot be read, is too large, or its first line is empty or no possible PIN.
        """
        origin = _Origin(f"PIN file {self._path!r}", "give a file whose first line is the PIN")
        try:
            with io.FileIO(self._path) as raw:
                self._warn_if_open_to_others(raw)
                given = _read_line(raw, origin)
        except (OSError, ValueError) as error:  # ValueError: no path can be spelt so
            given = _cannot_read(origin, error)
        return given(request)

    def _warn_if_open_to_others(self, raw: io.FileIO) -> None:
        mode = os.fstat(raw.fileno()).st_mode
        if os.name == "posix" and stat.S_ISREG(mode) and mode & (stat.S_IRGRP | stat.S_IROTH):
            import logging

            logging.getLogger("tokenauth").warning(
                "other users can read PIN file %r (mode %03o); make its mode 600", self._path, stat.S_IMODE(mode)
            )


class Fd:
    """The PIN is the first line that comes from an open file descriptor, such as a pipe's.

    It is read once, byte by byte so that what follows the line stays there for others, and the outcome is remembered.
    The line end is treated as in :class:`File`. The descriptor stays open.

    Args:
        number: the descriptor's number.
    """

    __slots__ = ("_given", "_lock", "_number")

    def __init__(self, number: int) -> None:
        self._number = number
        self._given: _GivenPin | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Fd({self._number})"

    def __call__(self, request: PinRequest) -> str:
        """Return the PIN, waiting for it the first time.

        Raises:
            PinRequired: the descriptor cannot be read, or the line is too long, empty or no possible PIN.
        """
        with self._lock:
            if self._given is None:
                self._given = self._read()
        return self._given(request)

    def _read(self) -> _GivenPin:
        origin = _Origin(f"file descriptor {self._number}", "write the PIN and a line end to it")
        try:
            os.fstat(self._number)  # FileIO takes a number too large for a descriptor for a wrong type
            with io.FileIO(self._number, closefd=False) as raw:
                return _read_line(raw, origin, step=1)
        except (OSError, ValueError, OverflowError) as error:  # ValueError: too high a number for select()
            return _cannot_read(origin, error)


_ENTERED = _Origin("the PIN entered", "type it again, then Enter")
_NO_TERMINAL_HINT = "give --pin-source env:VAR, file:PATH or fd:N, or pin=... in Python"
_WARNINGS = {
    "ok": "",
    "low": "Warning: a wrong PIN was sent before; few tries are left.\n",
    "final": "Warning: this is the last try; a wrong PIN locks the token.\n",
}
#: Two threads that need a PIN ask one after the other.
_terminal_lock = threading.Lock()


def prompt(request: PinRequest) -> str:
    """Ask for the PIN on the terminal itself, whatever stdin and stdout are, without echo.

    Args:
        request: what the PIN is for; the question names its token and reason, and warns when few tries are left.

    Returns:
        What was typed, without the line end.

    Raises:
        PinRequired: there is no terminal, or what was typed is empty or no possible PIN.
        KeyboardInterrupt: Ctrl-C; the terminal's echo is on again.
    """
    with _terminal_lock:
        given = _ask(request)
    if given.is_empty:
        raise PinRequired("no PIN entered", hint=_ENTERED.hint, token=request.token)
    return given(request)


def _printable(text: str) -> str:
    """Text without what would move the cursor or colour the terminal: labels and host names are others' texts."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def _question(request: PinRequest) -> str:
    parts = (
        f"PIN for token '{_printable(request.token)}'",
        f"(serial {_printable(request.serial)})" if request.serial else "",
        _printable(request.reason),
        "(asked for each signature)" if request.per_signature else "",
    )
    return _WARNINGS[request.tries] + " ".join(filter(None, parts)) + ": "


def _no_terminal(request: PinRequest, error: Exception) -> PinRequired:
    return PinRequired(
        f"there is no terminal to ask for the PIN on ({error.args[-1]})", hint=_NO_TERMINAL_HINT, token=request.token
    )


def _collect_keys(read_key: Callable[[], str], typed: _Buffer) -> None:
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

    def _ask(request: PinRequest) -> _GivenPin:
        import msvcrt

        try:
            io.FileIO("CONIN$").close()
        except OSError as error:
            raise _no_terminal(request, error) from None
        for char in _question(request):
            msvcrt.putwch(char)
        with _Buffer() as typed:
            try:
                _collect_keys(msvcrt.getwch, typed)
            finally:
                msvcrt.putwch("\r")
                msvcrt.putwch("\n")
            return _GivenPin(typed.decode("utf-16-le", "surrogatepass"), _ENTERED)

else:
    import termios

    def _ask(request: PinRequest) -> _GivenPin:
        try:
            with io.FileIO("/dev/tty", "r+") as raw:
                terminal = _Terminal(raw, _question(request).encode())
                try:
                    terminal.ask()
                    return _read_line(raw, _ENTERED)
                finally:
                    terminal.close()
        except (OSError, termios.error) as error:
            raise _no_terminal(request, error) from None

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
            import signal

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
            import signal

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
            import signal

            self._restore()
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
            signal.signal(number, self._on_signal)
            if self._asking:
                self._show()


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
        return _GivenPin(pin, _Origin("the PIN given as pin="))
    if pin is None or callable(pin):
        return pin
    kind = type(pin).__name__  # type: ignore[unreachable]  # not every caller has a type checker
    del pin  # an int or bytes may well be a PIN, and a traceback can show locals
    raise TypeError(f"pin must be a str, a callable or None, not {kind}")


#: Each form that --pin-source takes: how it is told, its pattern, and what makes a source of the pattern's group.
_FORMS: tuple[tuple[str, str, Callable[[str], PinSource]], ...] = (
    ("env:VAR", r"env:(.+)", Env),
    ("file:PATH", r"file:(.+)", File),
    ("fd:N", r"fd:([0-9]{1,9})", lambda number: Fd(int(number))),
    ("prompt", r"(prompt)", lambda _: prompt),
)


def parse_pin_source(text: str) -> PinSource:
    """Read ``env:VAR``, ``file:PATH``, ``fd:N`` or ``prompt``, the values of ``--pin-source``.

    Args:
        text: the value.

    Returns:
        The source.

    Raises:
        PinRequired: the value has none of these forms; the message does not show it, for it may be a PIN.
    """
    for _, pattern, make in _FORMS:
        if match := re.fullmatch(pattern, text, re.DOTALL):
            return make(match[1])
    del text
    raise PinRequired(
        f"the PIN source is none of {', '.join(form for form, _, _ in _FORMS)}",
        hint="name where the PIN is; the PIN itself is not given there",
    )


def from_uri(uri: PinAttributes) -> PinSource | None:
    """Make a source of a URI's ``pin-value`` or ``pin-source`` (RFC 7512, section 2.4).

    Args:
        uri: an object with ``pin_value`` and ``pin_source``, each percent-decoded text or None.

    Returns:
        The source, or None if the URI has neither.

    Raises:
        InvalidURI: it has both, or its ``pin-source`` is neither an absolute path nor a local ``file:`` URI. The form
            that runs a command (``|command``) is refused: a URI from elsewhere must not start programs.
    """
    if uri.pin_value is not None and uri.pin_source is not None:
        raise InvalidURI("the URI has both a pin-value and a pin-source", hint="keep one of them")
    if uri.pin_value is not None:
        return _GivenPin(uri.pin_value, _Origin("the URI's pin-value"))
    if uri.pin_source is None:
        return None
    if uri.pin_source.startswith("|"):
        raise InvalidURI("the URI's pin-source is a command, which is not run", hint="let it name a file")
    path = _local_path(uri.pin_source)
    if path is None:
        raise InvalidURI("the URI's pin-source is no absolute path and no local file: URI", hint="let it name a file")
    return File(path)


def _local_path(text: str) -> str | None:
    """The path in an absolute path or a ``file:`` URI with no host or "localhost" (RFC 8089), else None."""
    from pathlib import Path
    from urllib.parse import unquote_to_bytes

    if match := re.fullmatch(r"file:(?://(?:localhost)?)?(/(?!/).*)", text, re.DOTALL | re.IGNORECASE):
        path = os.fsdecode(unquote_to_bytes(match[1]))
        return re.sub(r"\A/(?=[A-Za-z]:)", "", path) if sys.platform == "win32" else path
    return text if Path(text).is_absolute() else None
