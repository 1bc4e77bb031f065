"""Exit codes, and the one line that says what went wrong."""

from __future__ import annotations

import ssl
import traceback
from typing import TYPE_CHECKING

import click

from tokenauth.cli import output
from tokenauth.errors import (
    AmbiguousIdentity,
    HandshakeFailed,
    IdentityNotFound,
    InvalidURI,
    LevelNotReached,
    ModuleError,
    PinError,
    ReadersUnavailable,
    TokenAuthError,
    TokenNotFound,
    TokenRemoved,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PeerFailed", "judge", "related", "report"]

DONE, FAILED, USAGE, NOT_FOUND, PIN, PEER, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
#: What `verify` found; those of one that is valid is DONE.
INVALID, INDETERMINATE = 10, 11


class PeerFailed(TokenAuthError):
    """The other side of a connection refused, or can not be reached or trusted."""


#: The first kind that is among an error's causes decides. A handshake that failed because of the token comes after
#: the token's own errors, as it is only where they became visible.
_CODES: tuple[tuple[type[Exception], int], ...] = (
    (click.ClickException, USAGE),
    (InvalidURI, USAGE),
    (PinError, PIN),
    (AmbiguousIdentity, NOT_FOUND),
    (IdentityNotFound, NOT_FOUND),
    (TokenNotFound, NOT_FOUND),
    (TokenRemoved, NOT_FOUND),
    (ModuleError, NOT_FOUND),
    (ReadersUnavailable, NOT_FOUND),
    (HandshakeFailed, PEER),
    (PeerFailed, PEER),
    (LevelNotReached, PEER),
    (ssl.SSLError, PEER),
    (TokenAuthError, FAILED),
    (OSError, FAILED),
)


def related(error: BaseException) -> Iterator[BaseException]:
    """An error and all that led to it, nearest first.

    Besides Python's own links these are errors among an error's arguments and its ``reason``: requests and urllib3
    wrap one in the other like that.
    """
    queue, seen = [error], {id(error)}
    for current in queue:
        yield current
        context = None if current.__suppress_context__ else current.__context__
        for other in (current.__cause__, context, getattr(current, "reason", None), *current.args):
            if isinstance(other, BaseException) and id(other) not in seen:
                seen.add(id(other))
                queue.append(other)


def judge(error: Exception) -> tuple[int, str]:
    """What an error comes to.

    Args:
        error: what a command, or what it does for one of several files, raised.

    Returns:
        The exit code, and what went wrong in one sentence.
    """
    causes = list(related(error))
    for kind, code in _CODES:
        cause = next((cause for cause in causes if isinstance(cause, kind)), None)
        if cause is not None:
            return code, _text(cause)
    if output.verbosity():
        traceback.print_exception(error)
    advice = "report it with what is above" if output.verbosity() else "run the command again with -v to see more"
    return FAILED, f"{type(error).__name__}: {error}; this is a defect of tokenauth: {advice}"


def report(error: Exception) -> int:
    """Say on one line of stderr what went wrong.

    Args:
        error: what a command raised.

    Returns:
        The exit code.
    """
    code, text = judge(error)
    output.say(f"error: {text}")
    return code


def _text(error: BaseException) -> str:
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "tokenauth"
        return f"{error.format_message().rstrip('.')}; see '{command} --help'"
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, TokenAuthError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
