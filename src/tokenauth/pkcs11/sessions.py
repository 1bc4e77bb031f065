"""A bounded pool of sessions on one token.

A login belongs to the process and the token, and lasts while any session is open; so sessions are never closed
before the pool is. Threads that sign at the same time need one each; more than the token allows are never opened.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from tokenauth.pkcs11.returnvalues import ReturnValue

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SessionPool"]


class SessionPool:
    """Sessions, opened on demand and taken in turn.

    Args:
        open_session: opens one and returns its handle; raises :class:`ReturnValue`.
        limit: how many at most; lowered for good when the token answers ``CKR_SESSION_COUNT``.
    """

    def __init__(self, open_session: Callable[[], int], limit: int) -> None:
        self._open_session = open_session
        self._limit = limit
        self._idle: list[int] = []
        self._count = 0
        self._waiting = 0
        self._changed = threading.Condition()

    def take(self) -> int:
        """Borrow a session; waits while all of them are lent. To be given back with :meth:`give`.

        Raises:
            ReturnValue: the token gives no session.
        """
        try:
            return self._idle.pop()  # atomic: no lock is needed while there are enough
        except IndexError:
            return self._take_when_there_is_one()

    def give(self, session: int) -> None:
        """Give a session back."""
        self._idle.append(session)
        # Whoever waits has said so before looking for an idle session a last time, so none is missed here.
        if self._waiting:
            with self._changed:
                self._changed.notify()

    def _take_when_there_is_one(self) -> int:
        while True:
            with self._changed:
                self._waiting += 1
                try:
                    while not self._idle and self._count >= self._limit:
                        self._changed.wait()
                    if self._idle:
                        with suppress(IndexError):  # somebody was quicker
                            return self._idle.pop()
                        continue
                    self._count += 1
                finally:
                    self._waiting -= 1
            session = self._open()
            if session is not None:
                return session

    def _open(self) -> int | None:
        """A new session, or None if the token allows no more of them."""
        try:
            return self._open_session()
        except ReturnValue as error:
            with self._changed:
                self._count -= 1
                self._changed.notify()
                if self._count == 0 or error.name != "CKR_SESSION_COUNT":
                    raise
                self._limit = self._count
                return None
