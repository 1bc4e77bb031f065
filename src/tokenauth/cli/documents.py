"""The options that the commands about documents share, and how their values are read."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokenauth.errors import PinRequired, TokenAuthError
from tokenauth.signing.model import LEVELS, Means, Visible

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cryptography import x509

__all__ = [
    "FILE",
    "LEVEL",
    "SEVERAL_FILES",
    "VISIBLE",
    "means_of",
    "need_tsa",
    "output_option",
    "password_from",
    "password_option",
    "trust_option",
    "tsa_options",
    "zoned_time",
]

FILE = click.Path(path_type=Path)
SEVERAL_FILES = click.argument("files", metavar="FILE...", nargs=-1, required=True, type=FILE)
LEVEL = click.Choice(LEVELS)

#: A page of a PDF has at most so many points in either direction (ISO 32000-2 annex C).
_LARGEST = 14400.0
_PASSWORD_SOURCE = re.compile(r"prompt|(?:env|file|fd):.+", re.DOTALL)

password_option = click.option(
    "--password-source",
    metavar="env:VAR|file:PATH|fd:N|prompt",
    help="Where the password of an encrypted PDF is.",
)
trust_option = click.option(
    "--trust",
    metavar="FILE",
    multiple=True,
    type=FILE,
    help="CA certificates (PEM or DER); repeatable.",
)


def _place(_context: click.Context, _option: click.Parameter, path: str | None) -> Path | None:
    """A file or directory to write to; a name with a slash at its end is a directory's, which must be there."""
    if path is not None and path.endswith(("/", os.sep)) and not Path(path).is_dir():
        raise click.BadParameter(f"there is no directory {path!r}")
    return None if path is None else Path(path)


def output_option(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``-o``.

    Args:
        default: where it goes without it.
    """
    return click.option(
        *("-o", "--output", "target"),
        metavar="FILE|DIR",
        type=click.Path(),
        callback=_place,
        help=f"[default: {default}]",
    )


def tsa_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What it takes to reach a level."""
    options = (
        click.option("--tsa", metavar="URL", help="The time-stamping authority (RFC 3161)."),
        trust_option,
        click.option(
            "--timeout",
            type=click.FloatRange(min=0, min_open=True),
            default=30.0,
            show_default=True,
            help="Seconds that each server has.",
        ),
        click.option(
            "--allow-lower-level", is_flag=True, help="Go on if the level can not be reached, rather than fail."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


class _Visible(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic in new versions of click only
    """Where a signature shows: ``page,x,y,width,height``."""

    name = "visible"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, Visible):
            return value
        parts = str(value).split(",")
        if len(parts) != 5:
            self.fail(f"{value!r} is not of the form page,x,y,width,height", param, ctx)
        page = self._page(parts[0], param, ctx)
        x, y, width, height = (self._points(part, param, ctx) for part in parts[1:])
        if width < 1 or height < 1:
            self.fail(f"{value!r} gives it no room: width and height are at least 1 point", param, ctx)
        return Visible(page, x, y, width, height)

    def _page(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if not re.fullmatch(r"\s*-?[0-9]{1,6}\s*", text, re.ASCII) or int(text) == 0:
            self.fail(f"{text!r} is no page: they count from 1, and from -1 backwards", param, ctx)
        return int(text)

    def _points(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not abs(number) <= _LARGEST:
            self.fail(f"{text!r} is no number of points, at most {_LARGEST:.0f}", param, ctx)
        return number


VISIBLE = _Visible()


def zoned_time(_context: click.Context, _option: click.Parameter, text: str | None) -> Any:
    """A time in ISO 8601; without a zone it is UTC."""
    import datetime

    if text is None:
        return None
    try:
        time = datetime.datetime.fromisoformat(text)
        return time.replace(tzinfo=time.tzinfo or datetime.UTC).astimezone(datetime.UTC)
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{text!r} is no time such as 2026-11-25T14:00:00Z") from None


def means_of(tsa: str | None, trust: Sequence[Path], timeout: float) -> Means:
    """How a level is reached.

    Raises:
        TokenAuthError: a file with certificates can not be read, or the extra is not installed.
    """
    return Means(tsa=tsa, trust=_certificates(trust), timeout=timeout)


def _certificates(files: Sequence[Path]) -> tuple[x509.Certificate, ...]:
    if not files:
        return ()
    from cryptography.x509 import load_der_x509_certificate

    from tokenauth.signing.formats import load_part

    trust = load_part("verification").load_trust(files)
    return tuple(load_der_x509_certificate(anchor.certificate) for anchor in trust.anchors)


def need_tsa(level: str | None, tsa: str | None) -> None:
    """See that a level that needs a time stamp can have one.

    Raises:
        click.UsageError: it can not.
    """
    if level not in (None, "b-b") and not tsa:
        raise click.UsageError(f"--level {level} needs a time stamp: name the authority with --tsa URL")


def password_from(source: str | None) -> str | None:
    """The password of encrypted PDFs.

    Args:
        source: the value of ``--password-source``.

    Raises:
        click.UsageError: it has no known form; it is not shown, for it may be the password.
        TokenAuthError: there is no password.
    """
    if source is None:
        return None
    if not _PASSWORD_SOURCE.fullmatch(source):
        raise click.UsageError(
            "--password-source is env:VAR, file:PATH, fd:N or prompt; the password is not given there"
        )
    if source == "prompt":
        return _typed()
    from tokenauth.pin import PinRequest, parse_pin_source

    try:
        found = parse_pin_source(source)(PinRequest(""))
    except PinRequired as error:
        raise TokenAuthError(f"the PDF's password: {error.message.replace('PIN file', 'file')}") from None
    return found if isinstance(found, str) else None


def _typed() -> str:
    from getpass import GetPassWarning, getpass
    from warnings import catch_warnings, simplefilter

    try:
        with catch_warnings():
            simplefilter("error", GetPassWarning)  # it would read the password with the echo on
            return getpass("Password of the PDF: ")
    except (GetPassWarning, EOFError, OSError):
        raise TokenAuthError(
            "there is no terminal to ask for the PDF's password on",
            hint="say --password-source env:VAR, file:PATH or fd:N",
        ) from None
