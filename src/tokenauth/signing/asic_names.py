"""Names of files in containers: which are taken, and how references name them."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote, unquote, urlsplit

from tokenauth.signing.refusals import DocumentError

__all__ = ["META", "MIMETYPE", "check_name", "folded", "name_in", "uri_of"]

META = "META-INF/"
MIMETYPE = "mimetype"
#: Control characters, and what Windows takes for a separator of directories or a drive.
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\]|[\ud800-\udfff]|(?:^|/)[A-Za-z]:")
_LONGEST = 1024


def check_name(name: str, container: str) -> None:
    """See that a name stays below the directory that the container is unpacked into, on any system.

    Args:
        name: as it stands in the container.
        container: what errors call the container.

    Raises:
        DocumentError: it does not.
    """
    parts = name.removesuffix("/").split("/")
    if _FORBIDDEN.search(name) or len(name) > _LONGEST or any(part in ("", ".", "..") for part in parts):
        raise DocumentError(f"{container} holds a file whose name is not accepted: {name[:_LONGEST]!r}")


def folded(name: str) -> str:
    """What is the same for names that a file system may take for one: letters' case and Unicode's composition."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def uri_of(name: str) -> str:
    """The relative reference (RFC 3986 section 4.2) of a file; a colon is escaped, or it would look like a scheme."""
    return quote(name, safe="/")


def name_in(uri: str) -> str:
    """The name of the file that a relative reference means.

    Raises:
        DocumentError: it is no such reference.
    """
    try:
        parts = urlsplit(uri)
        name = unquote(parts.path, errors="strict")
    except ValueError as error:  # UnicodeDecodeError is one
        raise DocumentError(f"the signature refers to {uri!r}, which is no file's name: {error}") from None
    if parts.scheme or parts.netloc or parts.query or parts.fragment or not name:
        raise DocumentError(f"the signature refers to {uri!r}, which is no file of the container")
    check_name(name, "the signature's references")
    return name
