"""Files written whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["replacing"]

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
    target = path.resolve()
    if target.exists() and not target.is_file():
        with target.open("wb") as file:
            yield file
        return
    number, name = tempfile.mkstemp(prefix=f".{target.name[:100]}.", dir=target.parent)
    try:
        with os.fdopen(number, "wb") as file:
            yield file
        temporary = Path(name)
        temporary.chmod(_mode(target))
        temporary.replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _mode(target: Path) -> int:
    """The mode that the file has, or that a new one gets from this process."""
    if target.exists():
        return stat.S_IMODE(target.stat().st_mode)
    with _reading_the_mask:
        mask = os.umask(0o077)  # there is no way to read it without setting it
        os.umask(mask)
    return 0o666 & ~mask
