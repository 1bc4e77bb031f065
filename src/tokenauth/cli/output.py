"""What goes to the terminal: data on stdout, talk on stderr, and nothing that would command the terminal."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import Any

import click

from tokenauth.notices import NOTICE

__all__ = ["be_verbose", "detail", "prepare", "printable", "say", "verbosity", "warn", "write", "write_json"]

_verbosity = 0


def prepare() -> None:
    """Let a terminal that lacks a character show its code, rather than fail in the middle of a listing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def printable(text: str) -> str:
    r"""Text on one line, without what would move the cursor, colour the terminal or turn the line around.

    Labels, subjects and server's names are others' texts. A character that is not printable is shown as its escape
    sequence, such as ``\x1b``.
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def write(line: str = "") -> None:
    """Write a line of data to stdout; it must be :func:`printable`."""
    click.echo(line)


def write_json(value: Any, *, indent: int | None = 2) -> None:
    """Write data as JSON to stdout, in ASCII, so that no locale and no terminal changes its meaning.

    Args:
        value: the data.
        indent: columns for each level; None for all on one line.
    """
    import json

    click.echo(json.dumps(value, indent=indent))


def say(text: str) -> None:
    """Tell the user something, on one line of stderr."""
    with contextlib.suppress(BrokenPipeError):
        click.echo(f"tokenauth: {printable(' '.join(text.split()))}", err=True)


def warn(text: str) -> None:
    """Tell the user what did not work though the command goes on."""
    say(f"warning: {text}")


def detail(text: str) -> None:
    """Tell what is being done, to those who asked with ``-v``; the text keeps its spaces."""
    if _verbosity:
        click.echo(printable(text), err=True)


def verbosity() -> int:
    """How often ``-v`` was given."""
    return _verbosity


def be_verbose(count: int) -> None:
    """Show the log on stderr: warnings; all of tokenauth's with ``-v``; urllib3's too with ``-vv``.

    Args:
        count: how often ``-v`` was given.
    """
    global _verbosity  # noqa: PLW0603 - one terminal for the process
    _verbosity = count
    import logging

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            level = "" if getattr(record, NOTICE, False) else f"{record.levelname.lower()}: "
            say(level + record.getMessage())

    names = ("tokenauth", "urllib3") if count > 1 else ("tokenauth",)
    for name in names:
        logger = logging.getLogger(name)
        logger.handlers = [Handler()]
        logger.setLevel(logging.DEBUG if count else logging.WARNING)
        logger.propagate = False
