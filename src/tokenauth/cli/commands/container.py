"""``tokenauth container``: what is in an ASiC container."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokenauth.cli import output
from tokenauth.cli.documents import FILE
from tokenauth.cli.options import json_option, verbose_option

if TYPE_CHECKING:
    from tokenauth.signing.asic_reader import Container

__all__ = ["command"]

_container = click.argument("container", metavar="CONTAINER", type=FILE)


@click.group("container", short_help="List and extract what is in an ASiC container.")
def command() -> None:
    """Look into an ASiC container (.asice, .asics), and take files out of it.

    'tokenauth sign' makes one, and adds signatures with --append; 'tokenauth verify' says what they are worth.
    """


@command.command("list")
@_container
@json_option
@verbose_option
def list_(container: Path, as_json: bool) -> None:
    """List the files in CONTAINER, with their sizes in bytes, and its signatures. Nothing is verified."""
    with _opened(container) as opened:
        signatures = [*opened.signatures, *opened.cms_signatures]
        if as_json:
            files = [{"name": file, "size": opened.size(file)} for file in opened.data_files]
            output.write_json({"type": opened.mimetype, "files": files, "signatures": signatures})
            return
        for file in opened.data_files:
            output.write(f"{opened.size(file):>12}  {output.printable(file)}")
        for file in signatures:
            output.write(f"   signature  {output.printable(file)}")


@command.command("extract")
@_container
@click.option("-o", "--output", "directory", metavar="DIR", type=FILE, default=".", help="[default: the current one]")
@verbose_option
def extract(container: Path, directory: Path) -> None:
    """Take the files out of CONTAINER. Nothing that is there is replaced, and nothing is verified."""
    from tokenauth.signing.refusals import DocumentError

    with _opened(container) as opened:
        there = [directory / file for file in opened.data_files if (directory / file).exists()]
        if there:
            raise DocumentError(f"{there[0]} is there already", hint="name another directory with -o")
        for path in opened.extract(directory):
            output.write(output.printable(str(path)))


def _opened(path: Path) -> Container:
    """The container.

    Raises:
        DocumentError: it is none, or one that is not accepted.
        OSError: it can not be read.
    """
    from tokenauth.signing.formats import load_part

    made: Any = load_part("asic_reader").Container(path, str(path))
    return made  # type: ignore[no-any-return]
