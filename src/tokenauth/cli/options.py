"""The options that commands share. None of them takes a PIN."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import click

from tokenauth.cli import output
from tokenauth.uri import TokenURI

if TYPE_CHECKING:
    from tokenauth.pin import PinSource

__all__ = [
    "PIN_SOURCE_VARIABLE",
    "URI",
    "forget_after_option",
    "json_option",
    "module_option",
    "pin_for",
    "pin_source_option",
    "verbose_option",
]

PIN_SOURCE_VARIABLE = "TOKENAUTH_PIN_SOURCE"


class _URIType(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic in new versions of click only
    """A ``pkcs11:`` URI, or a bare word that is a token's label."""

    name = "uri"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> TokenURI:  # noqa: ARG002
        return value if isinstance(value, TokenURI) else TokenURI.from_user(value)


class _Seconds(click.FloatRange):
    """A positive, finite number of seconds."""

    name = "seconds"

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return seconds


URI = _URIType()

module_option = click.option(
    "--module",
    metavar="PATH",
    help="The only PKCS#11 module to look at. [default: TOKENAUTH_MODULE, or all that are installed]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON.")
pin_source_option = click.option(
    "--pin-source",
    metavar="env:VAR|file:PATH|fd:N|keyring|pinentry|pad|prompt",
    help="Where the PIN is. [default: what the URI says, or TOKENAUTH_PIN_SOURCE, or the terminal is asked]",
)
forget_after_option = click.option(
    "--forget-after",
    metavar="SECONDS",
    type=_Seconds(),
    help="Log out of the token, and ask for the PIN again, so long after its last use. [default: never]",
)
verbose_option = click.option(
    "-v",
    "--verbose",
    count=True,
    is_eager=True,
    expose_value=False,
    callback=lambda _context, _option, count: output.be_verbose(count),
    help="Tell on stderr what is done; -vv tells more. A PIN is never shown.",
)


def pin_for(pin_source: str | None, uri: TokenURI) -> PinSource:
    """Who gives the PIN: the option, else the URI, else the environment variable, else the user at the terminal.

    Args:
        pin_source: the value of ``--pin-source``.
        uri: the identity's.

    Raises:
        click.UsageError: the option or the variable has no known form.
        InvalidURI: the URI's ``pin-source`` can not be used.
    """
    from tokenauth.pin import from_uri, prompt

    variable = os.environ.get(PIN_SOURCE_VARIABLE)
    if pin_source is not None:
        return _parse("--pin-source", pin_source)
    return from_uri(uri) or (_parse(PIN_SOURCE_VARIABLE, variable) if variable else prompt)


def _parse(origin: str, text: str) -> PinSource:
    from tokenauth.errors import PinRequired
    from tokenauth.pin import parse_pin_source

    try:
        return parse_pin_source(text)
    except PinRequired as error:
        raise click.UsageError(f"{origin}: {error.message}; {error.hint}") from None
