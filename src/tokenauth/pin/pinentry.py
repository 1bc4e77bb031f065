"""A PIN entered into pinentry, the program of GnuPG that asks in a window or on a terminal."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from tokenauth.errors import PinRequired
from tokenauth.pin.assuan import Client, Refusal, Rubbish, escape
from tokenauth.pin.child import Child
from tokenauth.pin.request import GivenPin, Origin
from tokenauth.pin.wording import details, token_name, warning

if sys.platform == "win32":
    from tokenauth.pin.windows_console import keep_modes, terminal_name
else:
    from tokenauth.pin.posix_terminal import keep_modes, terminal_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenauth.pin.request import PinRequest

__all__ = ["PROGRAM_VARIABLE", "ask", "find_program", "notify"]

PROGRAM_VARIABLE = "PINENTRY_PROGRAM"
_USUAL = ("pinentry", "pinentry-mac")
_PATIENCE = (
    15.0  # seconds for the program to start and take what it is to show; the person may take as long as it takes
)
_DESCRIPTION_LIMIT = 950  # bytes: Assuan's lines have 1000
_ENTERED = Origin("the PIN entered", "enter it again")
_ELSEWHERE = "give another --pin-source, such as prompt, or pin=... in Python"
#: Of libgpg-error: canceled, not confirmed, fully canceled.
_CANCELLED = {99, 114, 198}
_TIMEOUT = 62
#: Two threads that need a PIN ask one after the other.
_lock = threading.Lock()


class _Failure(Exception):
    """Why there is no PIN, and what to do; with nothing of what was read."""

    def __init__(self, message: str, hint: str) -> None:
        self.message = message
        self.hint = hint
        super().__init__(message, hint)


def ask(program: str | None, request: PinRequest) -> str:
    """Do what :class:`tokenauth.pin.Pinentry` says, for a PIN that is entered there."""
    about = [f"Enter the PIN of {token_name(request)}", details(request), warning(request)]
    given = _dialogue(program, request, about, "GETPIN")
    if given.is_empty:
        raise PinRequired("no PIN entered", hint=_ENTERED.hint, token=request.token)
    return given(request)


def notify(program: str | None, request: PinRequest) -> None:
    """Show that the PIN is to be entered on the reader's pad, and wait until that was read."""
    about = [f"After this, enter the PIN of {token_name(request)} on the reader's pad", details(request)]
    _dialogue(program, request, [*about, warning(request)], "MESSAGE")


def find_program(program: str | None) -> tuple[str, str | None]:
    """Which program it is.

    Args:
        program: as in :class:`tokenauth.pin.Pinentry`.

    Returns:
        How it is named, and its path or None if it is not there.
    """
    named = program or os.environ.get(PROGRAM_VARIABLE)
    names = (named,) if named else _USUAL
    return names[0], next(filter(None, map(shutil.which, names)), None)


def _dialogue(program: str | None, request: PinRequest, about: list[str], command: str) -> GivenPin:
    """Run the program for one dialogue; what was entered."""
    name, path = find_program(program)
    if path is None:
        raise PinRequired(
            f"there is no program {name!r} to enter the PIN in",
            hint=f"install a pinentry (Debian: pinentry-gnome3, or pinentry-curses for terminals), name one with "
            f"{PROGRAM_VARIABLE}, or {_ELSEWHERE}",
            token=request.token,
        )
    try:
        with _lock:
            return _run(path, "\n".join(filter(None, about)), command)
    except _Failure as failure:
        message, hint = failure.message, failure.hint
    raise PinRequired(message, hint=hint, token=request.token)


def _run(path: str, description: str, command: str) -> GivenPin:
    terminal = terminal_name()
    child = Child(path, keep_modes(terminal))
    late = None
    try:
        with child:
            client = Client(child.stdout, child.stdin)  # type: ignore[arg-type]  # unbuffered, so raw
            with child.within(_PATIENCE) as late:
                client.greet()
                for setting in _settings(terminal, description):
                    _set(client, setting)
            late = None
            entered = GivenPin(client.ask(command), _ENTERED)
            with suppress(OSError, EOFError, Rubbish, Refusal):
                client.ask("BYE")
            child.leave()
            return entered
    except Refusal as refusal:
        raise _refused(path, refusal, terminal) from None
    except Rubbish as rubbish:
        raise _Failure(f"{path} is no pinentry that can be used: {rubbish}", _another()) from None
    except (OSError, EOFError) as error:
        if late is not None and late.is_set():
            why = f"did not answer within {_PATIENCE:g} s"
        else:
            why = "ended too early" if isinstance(error, EOFError | BrokenPipeError) else f"failed: {error.args[-1]}"
        raise _Failure(f"{path} {why}", _another()) from None


def _another() -> str:
    return f"run it by hand to see why, name another with {PROGRAM_VARIABLE}, or {_ELSEWHERE}"


def _refused(path: str, refusal: Refusal, terminal: str) -> _Failure:
    without = f"without a window it needs a terminal: export GPG_TTY=$(tty); or {_ELSEWHERE}"
    if refusal.code in _CANCELLED:
        # pinentry-tty answers that as well if it has no terminal, and so never asked.
        again = "try again" if terminal else f"try again; if nobody was asked: {without}"
        return _Failure("the PIN entry was cancelled", again)
    if refusal.code == _TIMEOUT:
        return _Failure("nobody entered the PIN in time", "try again")
    return _Failure(f"{path} could not ask for the PIN: {refusal.text or 'it does not say why'}", without)


def _set(client: Client, setting: str) -> None:
    try:
        client.ask(setting)
    except Refusal:
        if not setting.startswith("OPTION "):  # not every pinentry knows every option
            raise


def _settings(terminal: str, description: str) -> Iterator[str]:
    """What the program is told: where to ask, in which language, and what for (GnuPG's doc/pinentry.texi)."""
    environment = os.environ.get
    options = {
        "ttyname": terminal,
        "ttytype": environment("TERM") if terminal else "",
        "lc-ctype": environment("LC_ALL") or environment("LC_CTYPE") or environment("LANG"),
        "lc-messages": environment("LC_ALL") or environment("LC_MESSAGES") or environment("LANG"),
        "display": environment("DISPLAY"),
    }
    for name, value in options.items():
        if value and value.isprintable() and value.isascii():
            yield f"OPTION {name}={value}"
    yield "SETTITLE tokenauth"
    yield f"SETDESC {escape(description, _DESCRIPTION_LIMIT)}"
    yield "SETPROMPT PIN:"
