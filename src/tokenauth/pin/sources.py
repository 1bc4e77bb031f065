"""The sources, and what makes one of a ``--pin-source`` or a URI."""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import sys
import threading
from typing import TYPE_CHECKING

from tokenauth import pin
from tokenauth.errors import InvalidURI, PinRequired
from tokenauth.pin.request import GivenPin, Origin

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from tokenauth.pin.request import OnPad, PinRequest, PinSource

    class PinAttributes(Protocol):
        """The two attributes of a ``pkcs11:`` URI that concern the PIN, percent-decoded."""

        @property
        def pin_value(self) -> str | None:
            """The PIN itself."""

        @property
        def pin_source(self) -> str | None:
            """Where the PIN is."""


__all__ = ["Env", "Fd", "File", "from_uri", "parse_pin_source", "prompt"]


def _no_pin(origin: Origin, fault: str) -> GivenPin:
    return GivenPin("", origin, fault)


def _cannot_read(origin: Origin, error: Exception) -> GivenPin:
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
        origin = Origin(f"environment variable {self._name!r}", "set it to the PIN")
        with contextlib.suppress(KeyError, UnicodeEncodeError):  # UnicodeEncodeError: no variable can have that name
            return GivenPin(os.environ[self._name], origin)(request)
        return _no_pin(origin, "is not set")(request)


_PATIENCE = 30.0  # seconds that a FIFO, or a terminal named as a file, may take


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting for the program that writes to it, if it is a FIFO."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


class File:
    """The PIN is the first line of a file, read anew each time.

    Exactly one line end, LF or CR LF, is taken off, and a UTF-8 byte order mark; spaces are part of the PIN.

    Args:
        path: the file; at most 4096 bytes long. Of a FIFO, what another program writes to it within 30 seconds.
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
        from tokenauth.pin.reading import read_line

        origin = Origin(f"PIN file {self._path!r}", "give a file whose first line is the PIN")
        try:
            with io.FileIO(self._path, opener=_open_at_once) as raw:
                self._warn_if_open_to_others(raw)
                given = read_line(raw, origin, patience=_PATIENCE)
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

    It is read once, byte by byte so that what follows the line stays there for others, and the outcome is remembered
    until :meth:`forget`. The line end is treated as in :class:`File`. The descriptor stays open.

    Args:
        number: the descriptor's number.
    """

    __slots__ = ("_given", "_lock", "_number")

    def __init__(self, number: int) -> None:
        self._number = number
        self._given: GivenPin | None = None
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

    def forget(self) -> None:
        """Drop the PIN, if it was read: from then on there is none, for a descriptor gives it once."""
        with self._lock:
            if self._given is not None:
                hint = "start again, or give a source that can be asked again, such as prompt"
                self._given = _no_pin(Origin(f"file descriptor {self._number}", hint), "gave its PIN, now forgotten")

    def _read(self) -> GivenPin:
        from tokenauth.pin.reading import read_line

        origin = Origin(f"file descriptor {self._number}", "write the PIN and a line end to it")
        try:
            os.fstat(self._number)  # FileIO takes a number too large for a descriptor for a wrong type
            with io.FileIO(self._number, closefd=False) as raw:
                return read_line(raw, origin, step=1)
        except (OSError, ValueError, OverflowError) as error:  # ValueError: too high a number for select()
            return _cannot_read(origin, error)


def prompt(request: PinRequest) -> str | OnPad:
    """Ask for the PIN on the terminal itself, whatever stdin and stdout are, without echo.

    If the reader has a pad, that is where the PIN is entered: what is shown then is to look there.

    Args:
        request: what the PIN is for; the question names its token and reason, and warns when few tries are left.

    Returns:
        What was typed, without the line end; or that the pad is used.

    Raises:
        PinRequired: there is no terminal, or what was typed is empty or no possible PIN.
        KeyboardInterrupt: Ctrl-C; the terminal's echo is on again.
    """
    if request.pin_pad:
        return pin.PinPad()(request)
    from tokenauth.pin.terminal import ask

    return ask(request)


#: Each form that --pin-source takes: how it is told, its pattern, and what makes a source of the pattern's group.
_FORMS: tuple[tuple[str, str, Callable[[str], PinSource]], ...] = (
    ("env:VAR", r"env:(.+)", Env),
    ("file:PATH", r"file:(.+)", File),
    ("fd:N", r"fd:([0-9]{1,9})", lambda number: Fd(int(number))),
    ("keyring", r"(keyring)", lambda _: pin.Keyring()),
    ("pinentry", r"(pinentry)", lambda _: pin.Pinentry()),
    ("pad", r"(pad)", lambda _: pin.PinPad()),
    ("prompt", r"(prompt)", lambda _: prompt),
)


def parse_pin_source(text: str) -> PinSource:
    """Read a value of ``--pin-source``: one of the forms ``env:VAR``, ``file:PATH``, ``fd:N``, ``keyring``,
    ``pinentry``, ``pad`` and ``prompt``.

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
        return GivenPin(uri.pin_value, Origin("the URI's pin-value"))
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
