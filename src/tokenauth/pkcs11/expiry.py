"""Logins that end by themselves some time after their last use.

A thread waits for that time; it is a daemon, so it holds no program open, and it is there only while a login may have
to end. A login is used from the moment that somebody looks for a key until the signature is there; while anybody does
so, it is not ended, and whoever begins while it is being ended waits. In the child of a fork there is no such thread
until the first use: what is due by then ends first.
"""

from __future__ import annotations

import atexit
import math
import threading
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Expiry", "require_seconds"]

_LONGEST_NAP = 30.0  # seconds: waiting does not count the time that a computer sleeps, the clock below does
_PATIENCE = 2.0  # seconds that the end of the program waits for a logout that has begun

_expiries: weakref.WeakSet[Expiry] = weakref.WeakSet()


def _now() -> float:
    """Seconds on a clock that goes on while the computer sleeps, where there is one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Expiry:
    """When a login is over.

    Args:
        end: called when it is; nobody uses the login meanwhile.
    """

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end
        self._seconds: float | None = None  # the shortest that any user gave
        self._due = 0.0
        self._stopped = False
        self.after_fork()
        _expiries.add(self)

    def after_fork(self) -> None:
        """In the child of a fork: no other thread is there."""
        self._changed = threading.Condition()
        self._uses = 0
        self._watching = False
        self._wakes = 0.0  # when the thread looks again

    def begin_use(self) -> None:
        """From now on the login does not end."""
        with self._changed:
            # The thread may be late: the computer slept, or this is a child that has no thread.
            if self._seconds is not None and not self._uses and _now() >= self._due:
                self._finish()
            self._uses += 1

    def end_use(self, forget_after: float | None) -> None:
        """It ends so many seconds from now, if that is the shortest that any of its users gave; None: no time given."""
        with self._changed:
            self._uses = max(self._uses - 1, 0)  # 0 before: a child that was forked while it was used
            given = [seconds for seconds in (self._seconds, forget_after) if seconds is not None]
            if not given:
                return
            self._seconds = min(given)
            self._due = _now() + self._seconds
            if not self._watching:
                self._start()
            elif self._due < self._wakes:
                self._changed.notify()

    def stop(self) -> None:
        """The program ends: nothing is begun any more, and what has begun is over."""
        if self._changed.acquire(timeout=_PATIENCE):
            self._stopped = True
            self._changed.release()

    def _start(self) -> None:
        with suppress(RuntimeError):  # the interpreter is ending
            threading.Thread(target=self._watch, name="tokenauth-forget", daemon=True).start()
            self._watching = True

    def _watch(self) -> None:
        with self._changed:
            while self._seconds is not None and not self._stopped:
                # Who uses it now will renew it.
                left = self._seconds if self._uses else self._due - _now()
                if left > 0:
                    self._wakes = _now() + left
                    self._changed.wait(min(left, _LONGEST_NAP))
                else:
                    self._finish()
            self._watching = False

    def _finish(self) -> None:
        self._seconds = None
        self._end()


def require_seconds(forget_after: float | None) -> None:
    """See that a time after which a login is forgotten makes sense.

    Raises:
        ValueError: it is neither None nor a positive number.
    """
    if forget_after is None:
        return
    good = isinstance(forget_after, int | float) and not isinstance(forget_after, bool)
    if not good or not math.isfinite(forget_after) or forget_after <= 0:
        raise ValueError(f"forget_after is a positive number of seconds, or None for never, not {forget_after!r}")


@atexit.register
def _stop_all() -> None:
    for expiry in list(_expiries):
        expiry.stop()
