"""``python -m tokenauth``: the command line."""

from __future__ import annotations

from tokenauth.cli import main

if __name__ == "__main__":
    main()
