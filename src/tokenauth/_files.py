"""Files written whole or not at all."""

from __future__ import annotations

import os
import re
import stat
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["remove_unfinished", "replacing"]

#: Characters of a file's name that its unfinished form has, so that also in UTF-8 it is not too long for a file system.
_NAMED = 50
_UNFINISHED = re.compile(r"(\..+\.)[0-9a-f]{8}", re.DOTALL)

_reading_the_mask = threading.Lock()


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write a file that takes its place only when the block is over; until then, what was there stays.

    A symbolic link stays one: the file that it names is replaced. A device or pipe is written to directly.

    Args:
        path: the file.

    Raises:
        OSError: it can not be written.
    """
    if path.exists() and not path.is_file():  # asked of the path itself: what /dev/stdout leads to has no name
        with path.open("wb") as file:
            yield file
        return
    target = path.resolve()
    # Named before it is there, so that an interruption at any moment finds what to remove.
    temporary = target.with_name(_before(target) + os.urandom(4).hex())
    try:
        with open(temporary, "xb", opener=_private) as file:
            yield file
        temporary.chmod(_mode(target))
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_unfinished(targets: Iterable[Path]) -> None:
    """Remove what a program that was killed while it wrote left beside these files.

    Args:
        targets: the files; nobody else may be writing them.

    Raises:
        OSError: it can not be removed.
    """
    names = {(target.resolve().parent, _before(target.resolve())) for target in targets}
    for directory in {directory for directory, _ in names}:
        for path in directory.glob(".*"):
            match = _UNFINISHED.fullmatch(path.name)
            if match and (directory, match[1]) in names:
                path.unlink(missing_ok=True)


def _before(target: Path) -> str:
    """How the name of an unfinished file begins."""
    return f".{target.name[:_NAMED]}."


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _mode(target: Path) -> int:
    """The mode that the file has, or that a new one gets from this process."""
    if target.exists():
        return stat.S_IMODE(target.stat().st_mode)
    with _reading_the_mask:
        mask = os.umask(0o077)  # there is no way to read it without setting it
        os.umask(mask)
    return 0o666 & ~mask
