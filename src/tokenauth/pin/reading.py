"""PINs are read into memory that nothing shows and that is overwritten afterwards."""

from __future__ import annotations

import os
import select
import stat
import time
from typing import TYPE_CHECKING

from tokenauth.pin.request import GivenPin

if TYPE_CHECKING:
    import io

    from tokenauth.pin.request import Origin

__all__ = ["Buffer", "read_line"]

#: No PIN file or line is larger; one that is was named by mistake.
_MAX_BYTES = 4096


class Buffer(bytearray):
    """Bytes that no ``repr`` shows and that are overwritten on exit."""

    def __repr__(self) -> str:
        return f"<{len(self)} hidden bytes>"

    def __enter__(self) -> Buffer:
        return self

    def __exit__(self, *_: object) -> None:
        self[:] = bytes(len(self))

    def first_line(self, size: int) -> str:
        """The first line of the first ``size`` bytes, without its one LF or CR LF and without a byte order mark."""
        end = self.find(b"\n", 0, size)
        if end > 0 and self[end - 1] == ord("\r"):
            end -= 1
        line = memoryview(self)[: end if end >= 0 else size]
        return str(line, "utf-8", "surrogateescape").removeprefix("\ufeff")


def read_line(raw: io.FileIO, origin: Origin, step: int = _MAX_BYTES + 1, *, patience: float | None = None) -> GivenPin:
    """Read the PIN up to a line's end or the file's, at most ``step`` bytes at a time.

    Args:
        raw: where from.
        origin: how that is called.
        step: bytes.
        patience: seconds to wait for what another program writes there; None for ever.

    Raises:
        OSError: it cannot be read.
        ValueError: its descriptor is too high a number for select().
    """
    deadline = None if patience is None else time.monotonic() + patience
    if patience is not None and stat.S_ISFIFO(os.fstat(raw.fileno()).st_mode):
        _wait(raw, deadline)  # without a writer, reading would say that the file is over
    with Buffer(_MAX_BYTES + 1) as buffer:
        size = 0
        while size <= _MAX_BYTES and buffer.find(b"\n", 0, size) < 0:
            count = raw.readinto(memoryview(buffer)[size : size + step])
            if count is None:  # a descriptor in non-blocking mode: half a PIN must not pass for a PIN
                _wait(raw, deadline)
            elif count == 0:
                break
            else:
                size += count
        if size > _MAX_BYTES:
            return GivenPin("", origin, f"is larger than {_MAX_BYTES} bytes")
        return GivenPin(buffer.first_line(size), origin)


def _wait(raw: io.FileIO, deadline: float | None) -> None:
    """Wait until something can be read.

    Raises:
        OSError: nothing can in time.
    """
    left = None if deadline is None else max(deadline - time.monotonic(), 0)
    if not select.select([raw], [], [], left)[0]:
        raise TimeoutError(None, "nobody wrote a PIN to it in time")
