"""A bar on the terminal while many files are signed; nothing where stderr is no terminal."""

from __future__ import annotations

import shutil
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tokenauth.cli.output import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Progress"]

_WIDTH = 30  # columns
_CLEAR = "\r\x1b[K"


class Progress:
    """How many of so many are done.

    Args:
        total: how many there are.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._name = ""
        self._is_drawn = False
        self._shown = total > 1 and sys.stderr.isatty()

    @contextmanager
    def step(self, name: str, *, draw: bool = True) -> Iterator[None]:
        """One more is done; what is written within the block stands above the bar.

        Args:
            name: of the one.
            draw: show the bar afterwards.
        """
        self.clear()
        self._done += 1
        self._name = name
        try:
            yield
        finally:
            if draw:
                self._draw()

    def clear(self) -> None:
        """Take the bar away."""
        if self._is_drawn:
            self._write(_CLEAR)
        self._is_drawn = False

    def _draw(self) -> None:
        if self._done == self._total:
            return
        self._is_drawn = True
        filled = _WIDTH * self._done // self._total
        bar = f"[{'#' * filled}{'-' * (_WIDTH - filled)}] {self._done}/{self._total} {printable(self._name)}"
        self._write(bar[: shutil.get_terminal_size().columns - 1])

    def _write(self, text: str) -> None:
        if self._shown:
            sys.stderr.write(text)
            sys.stderr.flush()
