"""``tokenauth show``: one identity."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from tokenauth.cli import output
from tokenauth.cli.options import URI, json_option, module_option, verbose_option

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cryptography import x509

    from tokenauth.inventory.identity import Identity
    from tokenauth.uri import TokenURI

__all__ = ["command"]


@click.command("show", short_help="Show one identity, or write its certificate or chain.")
@click.argument("uri", type=URI)
@json_option
@click.option("--pem", "as_pem", is_flag=True, help="Write the certificate in PEM.")
@click.option("--chain", "as_chain", is_flag=True, help="Write the certificate and its issuers on the token in PEM.")
@module_option
@verbose_option
def command(uri: TokenURI, as_json: bool, as_pem: bool, as_chain: bool, module: str | None) -> None:
    """Show the one identity that URI selects: what its certificate says, and what is wrong with it.

    Nothing is logged in to.
    """
    if as_json + as_pem + as_chain > 1:
        raise click.UsageError("--json, --pem and --chain exclude each other")
    from tokenauth.inventory.search import identity

    found = identity(uri, module=module)
    if as_pem:
        _write_pem([found.certificate])
    elif as_chain:
        _write_pem([found.certificate, *found.chain])
    else:
        _write_record(found, as_json=as_json)


def _write_pem(certificates: Iterable[x509.Certificate]) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding

    for certificate in certificates:
        click.echo(certificate.public_bytes(Encoding.PEM), nl=False)


def _write_record(found: Identity, *, as_json: bool) -> None:
    from tokenauth.cli.pages import identity_lines
    from tokenauth.cli.records import identity_record

    record = identity_record(found)
    if as_json:
        output.write_json(record)
        return
    for line in identity_lines(record, _surroundings(found)):
        output.write(line)


def _surroundings(found: Identity) -> Iterator[tuple[str, str]]:
    from tokenauth.errors import IdentityNotFound

    with contextlib.suppress(IdentityNotFound, ValueError):  # a certificate that can not be read: one of its problems
        yield "chain", " <- ".join(issuer.subject.rfc4514_string() for issuer in found.chain)
    yield "token", f"{found.token.label}, {found.token.manufacturer} {found.token.model}"
    yield "module", found.module
