"""What callbacks inside OpenSSL have to tell the call that led there.

Callbacks run on the thread that called into OpenSSL, so one place per thread is enough. Errors can not travel
through C; they wait here until the call is over.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenauth.tls.offers import Offer

__all__ = ["begin", "end", "keep", "offer", "take", "use"]


class _Exchange(threading.local):
    error: BaseException | None = None
    offer: Offer | None = None


_current = _Exchange()


def begin() -> None:
    """Forget what an earlier call on this thread left."""
    _current.error = None
    _current.offer = None


def keep(error: BaseException) -> None:
    """Keep an error for :func:`take`; the first one is the cause, so later ones are dropped."""
    if _current.error is None:
        _current.error = error


def take() -> BaseException | None:
    """The error that was kept since :func:`begin`, once."""
    error, _current.error = _current.error, None
    return error


def use(chosen: Offer) -> None:
    """Note which identity the connection authenticates with."""
    _current.offer = chosen


def offer() -> Offer | None:
    """The one noted since :func:`begin`."""
    return _current.offer


def end() -> Offer | None:
    """The one noted since :func:`begin`, once. Its key signs as long as somebody keeps it."""
    chosen, _current.offer = _current.offer, None
    return chosen
