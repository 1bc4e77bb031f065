"""Waiting for a token to be inserted."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tokenauth.inventory.survey import find_tokens
from tokenauth.notices import notice

if TYPE_CHECKING:
    from tokenauth.uri import TokenURI

__all__ = ["await_token"]

#: Seconds between two looks at the slots. All modules can be asked like that; few can wait by themselves.
_BETWEEN_LOOKS = 0.3


def await_token(uri: TokenURI, *, wait: float | bool, module: str | None = None, isolate: bool | None = None) -> None:
    """Wait until there is a token that a URI selects, and tell the person at the machine so if there is none yet.

    Args:
        uri: selects it.
        wait: at most so many seconds; True: for ever; False: not at all.
        module: path of the only PKCS#11 module to look at.
        isolate: as in :func:`tokenauth.create_context`.

    Raises:
        ModuleError: there is no module, or the one asked for does not load.
    """
    start, told = time.monotonic(), False
    while wait and not find_tokens(uri, module=module, isolate=isolate):
        left = _BETWEEN_LOOKS if wait is True else start + wait - time.monotonic()
        if left <= 0:
            return
        if not told:
            notice(f"waiting for a token that matches {uri.without_pin()}: insert it")
            told = True
        time.sleep(min(left, _BETWEEN_LOOKS))
