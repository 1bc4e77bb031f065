"""Where the user's own tables are; apart from them, so that to see that there are none costs next to nothing."""
# pathlib is not used because the rest of the look-up of modules does without it, for the start of a short script.
# ruff: noqa: PTH111, PTH118

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

__all__ = ["user_directory"]


def user_directory(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> str:
    """The directory of the user's own tables; empty for none.

    A user's row may let a module be loaded, and what is loaded runs with the rights of this process. As p11-kit does
    with its files of users, root's processes therefore read none, so that ``sudo`` runs nobody's code. There is no
    exception: root names a module with ``--module``, ``TOKENAUTH_MODULE`` or a file in p11-kit's own directories.
    """
    if hasattr(os, "getuid") and os.getuid() == 0:
        return ""
    home = environ.get("HOME") or os.path.expanduser("~")
    if platform == "win32":
        base = environ.get("APPDATA", "")
    elif platform == "darwin":
        base = os.path.join(home, "Library", "Application Support")
    else:
        base = environ.get("XDG_CONFIG_HOME", "")
        if not base.startswith(
            "/"
        ):  # a relative path there is to be ignored, says the XDG base directory specification
            base = os.path.join(home, ".config")
    return os.path.join(base, "tokenauth") if base else ""
