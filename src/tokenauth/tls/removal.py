"""Noticing that the card leaves that a context has used.

PC/SC tells when a card leaves a reader, if the token's slot is named like one. Else, as with a module for something
that is no card, or without pyscard, the slot is looked at every second. The threads are daemons; there is one for each
token that is in use, and only if somebody wants to be told.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING

from tokenauth.errors import ReadersUnavailable, TokenAuthError
from tokenauth.pkcs11.gate import renew_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from tokenauth.cards.events import Event
    from tokenauth.pkcs11.tokens import Token
    from tokenauth.uri import TokenInfo

    class _Forgets(Protocol):
        def forget(self) -> None:
            """Forget what was found on tokens, and what was made with them."""


__all__ = ["Removal", "as_removal"]

_BETWEEN_LOOKS = 1.0  # seconds
_SURE = 0.2  # seconds after which a token that does not show is looked for once more
_STILL_WANTED = 30.0  # seconds between looks whether anybody wants to know, where PC/SC tells of cards
_PATIENCE = 1.0  # seconds that the end of the program waits for a thread to leave the module

_removals: weakref.WeakSet[Removal] = weakref.WeakSet()


class _Use:
    """A token in use, by whom, and the thread that watches it."""

    def __init__(self, token: Token, removal: Removal) -> None:
        self.token = token
        self.generation = token.generation
        self.users: weakref.WeakSet[_Forgets] = weakref.WeakSet()
        self._removal = weakref.ref(removal)
        self._gone = threading.Event()
        self._stopped = False
        self.thread = threading.Thread(target=self._watch, name="tokenauth-removal", daemon=True)

    def stop(self) -> None:
        """Watch no longer."""
        self._stopped = True
        self._gone.set()

    def _watch(self) -> None:
        while (removal := self._removal()) is not None and not self._stopped and not removal.released(self):
            del removal
            gone = self._by_reader()
            if gone is None:
                gone = self._by_slot()
            removal = self._removal()
            if gone and not self._stopped and removal is not None:
                removal.left(self)
                return

    def _wanted(self) -> bool:
        return bool(self.users) and self._removal() is not None

    def _by_reader(self) -> bool | None:
        """Wait until PC/SC says that the card is gone, or nobody wants to know; None at once if it can not tell."""
        from tokenauth.cards.events import READER_REMOVED, REMOVED, watch
        from tokenauth.cards.readers import read_readers
        from tokenauth.inventory.serving import is_reader_of

        def look(event: Event) -> None:
            if event.kind in {REMOVED, READER_REMOVED} and is_reader_of(event.reader, self.token.slot):
                self._gone.set()

        try:
            with watch(look):
                readings = [one for one in read_readers(ask=False) if is_reader_of(one.reader, self.token.slot)]
                if not readings:
                    return self._gone.is_set() or None  # it may have been unplugged just now
                while self._wanted() and readings[0].present:
                    if self._gone.wait(_STILL_WANTED):
                        return True
                return not readings[0].present
        except ReadersUnavailable:
            return None

    def _by_slot(self) -> bool:
        """Look at the slot until the token is gone, or nobody wants to know."""
        while self._wanted() and not self._gone.wait(_BETWEEN_LOOKS):
            if not self._present() and not self._gone.wait(_SURE) and not self._present():
                return True
        return False

    def _present(self) -> bool:
        with suppress(TokenAuthError):
            return self.token.is_present()
        return False


class Removal:
    """Somebody who is told when a card leaves that a context has used.

    Args:
        on_remove: called with what the token says of itself, on a thread of its own, once each time that it leaves.
    """

    def __init__(self, on_remove: Callable[[TokenInfo], object]) -> None:
        self._on_remove = on_remove
        self._uses: dict[Token, _Use] = {}
        self.after_fork()
        renew_after_fork(self)
        _removals.add(self)

    def after_fork(self) -> None:
        """In the child of a fork: there are no threads; the next use of a token starts one."""
        self._lock = threading.Lock()
        self._uses.clear()

    def used(self, token: Token, user: _Forgets) -> None:
        """A token is in use.

        Args:
            token: the token.
            user: whose ``forget`` is called when it leaves; it is not kept alive.
        """
        with self._lock:
            use = self._uses.get(token)
            if use is None:
                use = self._uses[token] = _Use(token, self)
                use.users.add(user)
                with suppress(RuntimeError):  # the interpreter is ending
                    use.thread.start()
            use.generation = token.generation
            use.users.add(user)

    def released(self, use: _Use) -> bool:
        """Whether nobody uses a token any more; then it is not watched any more either."""
        with self._lock:
            if self._uses.get(use.token) is not use:
                return True
            if use.users:
                return False
            del self._uses[use.token]
            return True

    def left(self, use: _Use) -> None:
        """A token has left: what was made with it is forgotten, and then it is told."""
        with self._lock:
            self._uses.pop(use.token, None)
            users = list(use.users)
        for user in users:
            user.forget()
        if use.token.generation == use.generation:  # else somebody has noticed, and it may be there again
            with suppress(TokenAuthError):
                # PC/SC may be quicker than the module: one that still believes in the card would give a session on it
                # to the next login, which then fails. OpenSC looks anew when it is asked for its slots.
                use.token.is_present()
                use.token.end_login()
        try:
            self._on_remove(use.token.info)
        except Exception:
            import logging

            logging.getLogger("tokenauth").exception("what was to be called when a token left failed")

    def stop(self) -> None:
        """The program ends: nobody is told any more."""
        for use in list(self._uses.values()):
            use.stop()
        for use in list(self._uses.values()):
            use.thread.join(_PATIENCE)


def as_removal(on_remove: Callable[[TokenInfo], object] | Removal | None) -> Removal | None:
    """Whoever is to be told, from what a user gave; one that is one already is shared.

    Raises:
        TypeError: it can not be called.
    """
    if on_remove is None or isinstance(on_remove, Removal):
        return on_remove
    if not callable(on_remove):
        raise TypeError(f"on_remove is called with a token, so it is to be a function, not {on_remove!r}")
    return Removal(on_remove)


@atexit.register
def _stop_all() -> None:
    for removal in list(_removals):
        removal.stop()
