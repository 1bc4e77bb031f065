"""The formats as a table: which module makes one, when it is the default, what its files are called."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenauth._records import Record
from tokenauth.errors import TokenAuthError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenauth.signing.model import Document, Options

__all__ = ["FORMAT_OF", "default_format", "format_of", "is_container", "load", "load_part", "output_name"]

_INSTALL = "pip install 'tokenauth[sign]'"
#: The extra's modules and packages.
_PACKAGES = {
    "asn1crypto": "asn1crypto",
    "fontTools": "fonttools",
    "jwt": "PyJWT",
    "lxml": "lxml",
    "PIL": "Pillow",
    "pyhanko": "pyhanko",
    "uharfbuzz": "uharfbuzz",
}


class FormatInfo(Record):
    """One format.

    Args:
        module: that makes it, under ``tokenauth.signing``.
        has_levels: it knows levels above B-B.
        lowest: the lowest level that its usual readers accept.
        names_media_types: it says of what type the signed files are.
    """

    module: str
    has_levels: bool = True
    lowest: str = "b-b"
    names_media_types: bool = False


FORMAT_OF = {
    "pades": FormatInfo("pades"),
    "cades": FormatInfo("cades"),
    "xades": FormatInfo("xades", names_media_types=True),
    "asice": FormatInfo("asic", lowest="b-lt", names_media_types=True),
    "asics": FormatInfo("asic", lowest="b-lt", names_media_types=True),
    "jws": FormatInfo("jws", has_levels=False),
}
#: How a signed file begins.
_BEGINNINGS = (
    (b"%PDF-", "pades"),
    (b"<", "xades"),
    (b"\xef\xbb\xbf<", "xades"),
    (b"0", "cades"),
)


def load(format: str) -> Any:
    """The module that makes a format.

    Raises:
        ValueError: there is no such format.
        TokenAuthError: the extra is not installed.
    """
    if format not in FORMAT_OF:
        raise ValueError(f"format is one of {', '.join(FORMAT_OF)}, not {format!r}")
    return load_part(FORMAT_OF[format].module)


def load_part(name: str) -> Any:
    """A module of this package that needs the extra.

    Raises:
        TokenAuthError: the extra is not installed.
    """
    missing = _missing_packages()
    if missing:
        raise TokenAuthError(f"documents need {', '.join(missing)}, and that is not installed", hint=_INSTALL)
    return importlib.import_module(f"tokenauth.signing.{name}")


@cache
def _missing_packages() -> tuple[str, ...]:
    """What of the extra is not installed; parts of it are imported only where they are used."""
    return tuple(package for module, package in _PACKAGES.items() if importlib.util.find_spec(module) is None)


def default_format(documents: Sequence[Document], *, append: bool = False) -> str:
    """PAdES for a PDF, else an ASiC-E container, which holds whatever there is.

    Args:
        documents: what is to be signed.
        append: a signature is to be added to a container.

    Raises:
        TokenAuthError: it is a container, and nobody said whether to add to it or to put it into another.
        OSError: it can not be read.
    """
    if len(documents) != 1:
        return "asice"
    with documents[0].open() as stream:
        head = stream.read(1024)
    if is_container(head) and not append:
        raise TokenAuthError(
            f"{documents[0].name} is an ASiC container already",
            hint="add a signature to it with append=True (--append), or name the format to put it into a new one",
        )
    return "pades" if b"%PDF-" in head else "asice"  # ISO 32000-2 section 7.5.2; readers look that far


def format_of(document: Document) -> str:
    """The format of a signed file, by how it begins.

    Raises:
        TokenAuthError: it is none of which the level can be raised.
        OSError: it can not be read.
    """
    with document.open() as stream:
        head = stream.read(1024)
    if is_container(head):
        return "asice"
    head = head.lstrip(b"\r\n\t ")
    for beginning, name in _BEGINNINGS:
        if head.startswith(beginning):
            return name
    raise TokenAuthError(
        f"{document.name} is no signed file whose level can be raised",
        hint="that can be done with PDF, CMS, XML and ASiC",
    )


def is_container(head: bytes) -> bool:
    """Whether a file is an ASiC container, by its first 100 bytes: ``mimetype`` comes first and is not compressed."""
    return head.startswith(b"PK\x03\x04") and head[30:38] == b"mimetype" and b"application/vnd.etsi.asic-" in head


def output_name(documents: Sequence[Document], format: str, options: Options) -> str:
    """What the signed file is called, beside the first document."""
    name = documents[0].name
    stem = Path(name).stem
    if options.append:
        return name
    if format == "cades":
        return f"{name}.p7m" if options.attached else f"{name}.p7s"
    if format == "xades" and (options.packaging == "detached" or Path(name).suffix.lower() != ".xml"):
        return f"{name}.xades.xml"
    return f"{stem}.{_SUFFIXES[format]}"


_SUFFIXES = {"pades": "signed.pdf", "xades": "signed.xml", "asice": "asice", "asics": "asics", "jws": "jws"}
