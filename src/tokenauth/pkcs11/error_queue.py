"""Keeping what a module leaves behind from the ``ssl`` module.

SoftHSM and other modules use the libcrypto that Python's ``ssl`` uses as well, and leave errors in its queue for
this thread. ``ssl`` looks there to tell a time-out from a failure, and would take them for its own: an unrelated
connection fails with the module's ``NO_SUCH_ENGINE``. So the queue is emptied after each call into a module.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["clear"]


def _find() -> Callable[[], None]:
    """OpenSSL's ``ERR_clear_error`` (also LibreSSL's), found as in :mod:`tokenauth.tls.openssl.library`."""
    try:
        import _ssl

        function = ctypes.PyDLL(getattr(_ssl, "__file__", None)).ERR_clear_error
    except (ImportError, OSError, AttributeError):
        return lambda: None  # a hidden OpenSSL is not shared with modules either
    function.restype, function.argtypes = None, ()
    return function


clear = _find()
