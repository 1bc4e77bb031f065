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
    from tokenauth.pkcs11.cryptoki import Cryptoki

__all__ = ["SessionPool"]


class SessionPool:
    """Sessions, opened on demand and taken in turn.

    Args:
        cryptoki: the module's functions.
        slot: the number of the token's slot.
        limit: how many at most; lowered for good when the token answers ``CKR_SESSION_COUNT``.
    """

    def __init__(self, cryptoki: Cryptoki, slot: int, limit: int) -> None:
        self._cryptoki = cryptoki
        self._slot = slot
        self._closed = False
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
        if self._closed:
            self._close_one(session)
            return
        self._idle.append(session)
        # Whoever waits has said so before looking for an idle session a last time, so none is missed here.
        if self._waiting:
            with self._changed:
                self._changed.notify()

    @property
    def all_lent(self) -> bool:
        """Whether there are sessions, and all of them are in use."""
        return self._count > 0 and not self._idle

    def state(self) -> int | None:
        """The ``CK_STATE`` of some session that nobody uses now; None if there is none.

        Raises:
            ReturnValue: it is gone.
        """
        try:
            session = self._idle.pop()
        except IndexError:
            return None
        try:
            return self._cryptoki.session_state(session)
        finally:
            self.give(session)

    def close(self) -> None:
        """Close all sessions, those that are lent when they come back. Most are dead: nobody minds."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            self._changed.notify_all()
        for session in idle:
            self._close_one(session)

    def discard(self, session: int) -> int:
        """Instead of giving a session back: close it, because an operation may still be active in it.

        Returns:
            How many are left.
        """
        with self._changed:
            self._count -= 1
            self._changed.notify()
            left = self._count
        self._close_one(session)
        return left

    def _close_one(self, session: int) -> None:
        with suppress(ReturnValue):
            self._cryptoki.close_session(session)

    def _take_when_there_is_one(self) -> int:
        while True:
            with self._changed:
                self._waiting += 1
                try:
                    while not self._idle and self._count >= self._limit and not self._closed:
                        self._changed.wait()
                    if self._closed:
                        raise ReturnValue("CKR_SESSION_CLOSED", "C_OpenSession")
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
            return self._cryptoki.open_session(self._slot)
        except ReturnValue as error:
            with self._changed:
                self._count -= 1
                self._changed.notify()
                if self._count == 0 or error.name != "CKR_SESSION_COUNT":
                    raise
                self._limit = self._count
                return None
