"""A bounded pool of sessions on one token.

A login belongs to the process and the token, and lasts while any session is open; so sessions are never closed
before the pool is. Threads that sign at the same time need one each; more than the token allows are never opened.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tokenauth.pkcs11.returnvalues import name_of_exception

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["SessionPool"]


class SessionPool:
    """Sessions, opened on demand and taken in turn.

    Args:
        open_session: opens one; raises python-pkcs11's errors.
        limit: how many at most; lowered for good when the token answers ``CKR_SESSION_COUNT``.
    """

    def __init__(self, open_session: Callable[[], Any], limit: int) -> None:
        self._open_session = open_session
        self._limit = limit
        self._idle: list[Any] = []
        self._count = 0
        self._changed = threading.Condition()

    @contextmanager
    def session(self) -> Iterator[Any]:
        """Lend a session; waits while all of them are lent.

        Raises:
            pkcs11.exceptions.PKCS11Error: the token gives no session.
        """
        session = self._take()
        try:
            yield session
        finally:
            with self._changed:
                self._idle.append(session)
                self._changed.notify()

    def _take(self) -> Any:
        while True:
            with self._changed:
                while not self._idle and self._count >= self._limit:
                    self._changed.wait()
                if self._idle:
                    return self._idle.pop()
                self._count += 1
            try:
                return self._open_session()
            except Exception as error:
                with self._changed:
                    self._count -= 1
                    if self._count == 0 or name_of_exception(error) != "CKR_SESSION_COUNT":
                        self._changed.notify()
                        raise
                    self._limit = self._count
