"""A bounded pool of sessions on one token.

A login belongs to the process and the token, and lasts while any session is open; so sessions are never closed
before the pool is. Threads that sign at the same time need one each; more than the token allows are never opened.

All sessions of a pool are on the same token and saw no removal of it: what was found or logged in to through one is
good in the others. A card that leaves takes its sessions with it for good, so a new one is trusted if an older one
still lives. Otherwise another thread could open a session on a card that was put in meanwhile, look there for a key
whose login is gone, or send it the PIN of another card.
"""

from __future__ import annotations

import itertools
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from tokenauth.pkcs11.gate import renew_after_fork
from tokenauth.pkcs11.returnvalues import GONE, ReturnValue

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenauth.pkcs11.cryptoki import Cryptoki

__all__ = ["SessionPool"]

_generations = itertools.count()


class SessionPool:
    """Sessions, opened on demand and taken in turn.

    Args:
        cryptoki: the module's functions.
        slot: the number of the token's slot.
        limit: how many at most; lowered for good when the token answers ``CKR_SESSION_COUNT``.
        check: raises :class:`ReturnValue` if another token is in the slot; called when a session is the only one.

    Attributes:
        generation: a number that no other pool has.
        closed: it gives no sessions any more.
        retired: because its token seems to have left.
    """

    def __init__(self, cryptoki: Cryptoki, slot: int, limit: int, check: Callable[[], None]) -> None:
        self.generation = next(_generations)
        self._cryptoki = cryptoki
        self._slot = slot
        self._check = check
        self.closed = self.retired = False
        self._limit = limit
        self._idle: list[int] = []
        self._open: list[int] = []
        self._count = 0  # those open and those that are being opened
        self._waiting = 0
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """In the child of a fork: whoever held the locks is not there any more."""
        self._changed = threading.Condition()
        self._opening = threading.Lock()

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
        if self.closed:  # asked after that, so that either this or close() finds it
            self._close_idle()
        # Whoever waits has said so before looking for an idle session a last time, so none is missed here.
        elif self._waiting:
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
            state = self._cryptoki.session_state(session)
        except ReturnValue:
            self.discard(session)
            raise
        self.give(session)
        return state

    def close(self) -> None:
        """Close all sessions, those that are lent when they come back. Most are dead: nobody minds."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()
        self._close_idle()

    def discard(self, session: int) -> None:
        """Instead of giving a session back: close it, because an operation may still be active in it.

        With the last one the login ends, and the pool is closed.
        """
        with self._opening:  # nobody takes it for a witness meanwhile, or opens a first one after the last
            self._open.remove(session)
            self._close_one(session)
            self.closed = self.closed or not self._open
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def _close_idle(self) -> None:
        while self._idle:
            with suppress(IndexError):  # somebody was quicker
                self._close_one(self._idle.pop())

    def _close_one(self, session: int) -> None:
        with suppress(ReturnValue):
            self._cryptoki.close_session(session)

    def _take_when_there_is_one(self) -> int:
        while True:
            with self._changed:
                self._waiting += 1
                try:
                    while not self._idle and self._count >= self._limit and not self.closed:
                        self._changed.wait()
                    if self.closed:
                        raise ReturnValue("CKR_SESSION_CLOSED", "C_OpenSession")
                    if self._idle:
                        with suppress(IndexError):  # somebody was quicker
                            return self._idle.pop()
                        continue
                    self._count += 1
                finally:
                    self._waiting -= 1
            session = self._one_more()
            if session is not None:
                return session

    def _one_more(self) -> int | None:
        """A new session, or None if the token allows no more of them."""
        try:
            with self._opening:
                return self._trusted()
        except ReturnValue as error:
            with self._changed:
                self._count -= 1
                self._changed.notify()
                if self._count == 0 or error.name != "CKR_SESSION_COUNT":
                    raise
                self._limit = self._count
                return None

    def _trusted(self) -> int:
        """A new session, on the token that the others are on."""
        if self.closed:
            raise ReturnValue("CKR_SESSION_CLOSED", "C_OpenSession")
        session = self._cryptoki.open_session(self._slot)
        try:
            self._see_that_it_is_the_token()
        except ReturnValue:
            self._close_one(session)
            raise
        self._open.append(session)
        return session

    def _see_that_it_is_the_token(self) -> None:
        if not self._open:
            self._check()
        elif not self._witness_lives():
            raise ReturnValue("CKR_DEVICE_REMOVED", "C_OpenSession")

    def _witness_lives(self) -> bool:
        try:
            self._cryptoki.session_state(self._open[0])
        except ReturnValue as error:
            return error.name not in GONE
        return True

    def retire(self) -> bool:
        """Close it for good, because its token seems to have left, unless a session says that it did not.

        Returns:
            Whether that was done.
        """
        with self._opening:  # so that nobody opens a first session in between
            if self._open and not self.closed and self._witness_lives():
                return False
            self.closed = self.retired = True
        self.close()
        return True
