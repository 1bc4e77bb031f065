"""``tokenauth list``: tokens and the identities on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from tokenauth.cli import output
from tokenauth.cli.options import URI, json_option, module_option, verbose_option
from tokenauth.errors import IdentityNotFound, ModuleError, TokenNotFound

if TYPE_CHECKING:
    from tokenauth.inventory.survey import Inventory
    from tokenauth.uri import TokenURI

__all__ = ["command"]


@click.command("list", short_help="List tokens and the identities on them.")
@click.argument("uri", type=URI, default="pkcs11:")
@json_option
@module_option
@verbose_option
def command(uri: TokenURI, as_json: bool, module: str | None) -> None:
    """List tokens and the identities on them.

    An identity is a certificate with its private key. Each is shown with the URI that selects it and no other. Nothing
    is logged in to. URI narrows the list; a bare word is a token's label.
    """
    from tokenauth.inventory.survey import take_inventory

    try:
        inventory = take_inventory(uri, module=module)
    except ModuleError:
        if as_json:
            output.write_json([])
        raise
    for failure in inventory.failures:
        output.warn(str(failure))
    tokens = _selected(inventory, uri)
    if as_json:
        output.write_json(tokens)
    else:
        _write_page(tokens)
    if not tokens:
        raise _nothing(inventory, uri)


def _selected(inventory: Inventory, uri: TokenURI) -> list[dict[str, Any]]:
    """The tokens as records; those without a matching identity are left out if the URI names an object."""
    from tokenauth.cli.records import token_record

    names_object = (uri.object, uri.id, uri.type) != (None, None, None)
    return [token_record(entry) for entry in inventory.entries if entry.identities or not names_object]


def _write_page(tokens: list[dict[str, Any]]) -> None:
    from tokenauth.cli.pages import token_lines

    for number, token in enumerate(tokens):
        if number:
            output.write()
        for line in token_lines(token):
            output.write(line)


def _nothing(inventory: Inventory, uri: TokenURI) -> Exception:
    shown = uri.without_pin()
    if inventory.entries:
        return IdentityNotFound(f"no identity matches {shown}")
    return TokenNotFound(
        f"no token matches {shown} ({inventory.modules} module(s) asked)",
        hint="insert the card; 'tokenauth doctor' says what may be missing; 'tokenauth softtoken init' makes a token "
        "to try things with",
    )
