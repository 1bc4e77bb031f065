"""Cards and readers that come and go.

A thread waits inside PC/SC, which wakes it when something happens; it looks at nothing again and again, except for a
service that is not there. When the service is restarted it connects anew, and tells what is not as it was.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from tokenauth._records import Record
from tokenauth.cards.pcsc import Context, PCSCError
from tokenauth.errors import ReadersUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tokenauth.cards.pcsc import State

__all__ = ["INSERTED", "READER_ADDED", "READER_REMOVED", "REMOVED", "SERVICE_BACK", "SERVICE_LOST", "Event", "watch"]

INSERTED, REMOVED = "inserted", "removed"
READER_ADDED, READER_REMOVED = "reader-added", "reader-removed"
SERVICE_LOST, SERVICE_BACK = "service-lost", "service-back"

_LONGEST_WAIT = 60.0  # seconds; where PC/SC tells of new readers
_WITHOUT_NEWS = 1.0  # seconds; where it does not, and between attempts to reach the service
_STOP = 0.2  # seconds between attempts to wake the thread that is to end, and between looks at a new service
_ATTEMPTS = 10


class Event(Record):
    """Something that happened.

    Args:
        kind: ``inserted``, ``removed``: a card; ``reader-added``, ``reader-removed``; ``service-lost``,
            ``service-back``: PC/SC itself, of which only changes are told that last.
        reader: the name of the reader; empty if PC/SC itself is meant.
        present: a card is in it now.
        atr: the card's answer to reset; of one that was removed, too.
    """

    kind: str
    reader: str = ""
    present: bool = False
    atr: bytes = b""


class _Watch:
    """Calls back for what happens, until it is closed."""

    def __init__(self, callback: Callable[[Event], object], *, initial: bool) -> None:
        self._callback = callback
        self._initial = initial
        self._stopped = threading.Event()
        context = Context()
        try:
            self._known = _look(context)
        except PCSCError as error:
            context.close()
            raise error.reason from error
        self._context: Context | None = context
        self._since = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="tokenauth-readers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop; when it returns nothing is called any more, unless it is called from there."""
        self._stopped.set()
        if self._thread is threading.current_thread():
            return
        for _ in range(_ATTEMPTS):
            context = self._context
            if context is not None:  # if it does not wait yet, this wakes nobody
                context.cancel()
            self._thread.join(_STOP)
            if not self._thread.is_alive():
                return

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        if self._initial:
            now, self._known = self._known, {}
            self._update(now, counted=True)
        failures, told = 0, False
        while not self._stopped.is_set():
            try:
                if self._context is None:
                    now = self._reconnect()
                    if told:
                        self._tell(Event(SERVICE_BACK))
                        told = False
                    self._update(now, counted=False)
                self._follow()
            except (PCSCError, ReadersUnavailable):
                failures = 1 if self._disconnect() else failures + 1
                if failures == 1:
                    continue  # a service that is only restarted, or started by a connection, is there at once
                if not told:
                    self._tell(Event(SERVICE_LOST))
                    told = True
                self._stopped.wait(_WITHOUT_NEWS)
        self._disconnect()

    def _reconnect(self) -> dict[str, State]:
        """Connect to a service that has just begun, and say how its readers are."""
        self._context = Context()
        self._since = time.monotonic()
        return self._settled(self._context)

    def _disconnect(self) -> bool:
        """Give up the connection, if there is one; whether it lasted for some time."""
        context, self._context = self._context, None
        if context is None:
            return False
        context.close()
        return time.monotonic() - self._since > _WITHOUT_NEWS

    def _settled(self, context: Context) -> dict[str, State]:
        """How readers are at a service that has just begun: it may take a moment until it sees cards that stayed."""
        for _ in range(_ATTEMPTS):
            now = _look(context)
            if all(name in now and now[name].present for name, before in self._known.items() if before.present):
                break
            self._stopped.wait(_STOP)
        return now

    def _follow(self) -> None:
        while not self._stopped.is_set() and (context := self._context) is not None:
            known = {name: state.flags for name, state in self._known.items()}
            context.wait(known, _LONGEST_WAIT if context.tells_new_readers else _WITHOUT_NEWS)
            self._update(_look(context), counted=True)

    def _update(self, now: dict[str, State], *, counted: bool) -> None:
        before, self._known = self._known, now
        for name in dict.fromkeys([*before, *now]):
            for event in _changes(name, before.get(name), now.get(name), counted=counted):
                self._tell(event)

    def _tell(self, event: Event) -> None:
        if self._stopped.is_set():
            return
        try:
            self._callback(event)
        except Exception:
            import logging

            logging.getLogger("tokenauth").exception("what was to be called for an event of a reader failed")


def _look(context: Context) -> dict[str, State]:
    return {state.reader: state for state in context.look()}


def _changes(name: str, before: State | None, now: State | None, *, counted: bool) -> Iterator[Event]:
    """What happened to a reader.

    Args:
        name: the reader's.
        before: how it was; None: it was not there.
        now: how it is.
        counted: both come from the same service, whose counter tells of a card that was out meanwhile.
    """
    was_in, is_in = before is not None and before.present, now is not None and now.present
    same = False
    if before is not None and now is not None:
        same = before.atr == now.atr or not (before.atr and now.atr)  # the answer may come after the card
        same = same and (before.changes == now.changes or not counted)
    if before is None:
        yield Event(READER_ADDED, name)
    if before is not None and was_in and not (is_in and same):
        yield Event(REMOVED, name, present=False, atr=before.atr)
    if now is not None and is_in and not (was_in and same):
        yield Event(INSERTED, name, present=True, atr=now.atr)
    if now is None:
        yield Event(READER_REMOVED, name)


def watch(callback: Callable[[Event], object], *, initial: bool = False) -> _Watch:
    """Be called for each card and reader that comes or goes from now on.

    Args:
        callback: called on a thread of its own, one event after the other; what it raises is logged.
        initial: begin with what is there already, as if it came now.

    Returns:
        Something to ``close()`` at the end, or to use in a ``with`` statement. The thread keeps no program open.

    Raises:
        ReadersUnavailable: pyscard is missing, or PC/SC does not run or refuses now. If it goes away later, it is
            waited for.
    """
    watching = _Watch(callback, initial=initial)
    watching.start()
    return watching
