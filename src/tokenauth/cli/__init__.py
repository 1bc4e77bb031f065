"""The command line, ``tokenauth``.

stdout is data, stderr is talk; the exit codes are in :mod:`tokenauth.cli.failures`.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command that the process was started with, and exit with its code."""
    try:
        from tokenauth.cli.root import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # so early that nobody else was there to take it
        code = 130
    sys.exit(code)
