"""Where documents come from and where signed files go: both are looked at before anything is signed."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from tokenauth._files import replacing
from tokenauth.errors import TokenAuthError
from tokenauth.signing.formats import output_name
from tokenauth.signing.model import Document

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tokenauth.signing.model import Options

    Source = str | Path | bytes | Sequence[str | Path]

__all__ = ["check_writable", "documents_of", "output_for", "with_media_types", "written"]


def documents_of(source: Source, name: str) -> tuple[Document, ...]:
    """What a caller gave, as documents.

    Raises:
        ValueError: it is an empty list.
        TokenAuthError: a path leads to a directory, pipe or device; what is signed is read more than once.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return (Document(name, data=bytes(source)),)
    paths = [Path(source)] if isinstance(source, str | Path) else [Path(one) for one in source]
    if not paths:
        raise ValueError("no document was given")
    for path in paths:
        if path.exists() and not path.is_file():
            raise TokenAuthError(f"{path} is no ordinary file", hint="save to a file what is to be signed")
    return tuple(Document(path.name, path) for path in paths)


def written(output: Path | None, write: Callable[[BinaryIO], None]) -> Path | bytes:
    """Write a file whole or not at all; without a file, the bytes.

    Raises:
        OSError: it can not be written.
    """
    if output is None:
        stream = io.BytesIO()
        write(stream)
        return stream.getvalue()
    with replacing(output) as file:
        write(cast("BinaryIO", file))
    return output


def with_media_types(documents: tuple[Document, ...]) -> tuple[Document, ...]:
    """Only containers and XML signatures say what is in them, and the system's table takes long to read."""
    import mimetypes

    def guessed(name: str) -> str:
        return mimetypes.guess_type(name)[0] or "application/octet-stream"

    return tuple(one._replace(mime=guessed(one.name)) for one in documents)


def output_for(
    documents: Sequence[Document], format: str, options: Options, output: str | Path | None, *, overwrite: bool
) -> Path | None:
    """Where the signed file goes.

    Raises:
        TokenAuthError: a file of a name that nobody chose is there already.
    """
    named = Path(output) if output is not None else None
    if named is not None and not named.is_dir():
        return named
    beside = documents[0].path
    if named is None and beside is None:
        return None
    directory = named if named is not None else cast("Path", beside).parent
    found = directory / output_name(documents, format, options)
    if found.exists() and not (overwrite or options.append):
        raise TokenAuthError(f"{found} is there already", hint="name another file, or allow it to be replaced")
    return found


def check_writable(output: Path) -> None:
    """See that a file can be made; nothing is written yet."""
    directory = output.resolve().parent
    if not directory.is_dir():
        raise FileNotFoundError(2, "there is no such directory", str(directory))
    if not os.access(directory, os.W_OK):
        raise PermissionError(13, "nothing may be written there", str(directory))
