"""The gate in front of a module: who may be inside, and what happens at a fork.

A module that locks by itself lets all threads in; around one that does not there is one lock. Now and then one has to
be alone inside all the same:

- to finalise a module: what other threads do in it meanwhile is undefined (PKCS #11 v3.1, 5.4);
- to fork: the child would inherit the module's locks as some other thread holds them, and hang (SoftHSM does, in one
  of ten forks under load). So before a fork the gates close and wait, not for ever, until everybody is out; in the
  child they open anew, and the first who enters finds a module that has to be initialised again (ibid.).

A module in a process of its own (:mod:`tokenauth.pkcs11.isolation`) has to be initialised again, too, when that died.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Protocol

    class _Renewable(Protocol):
        def after_fork(self) -> None:
            """In the child: make new locks, for nobody will release the old ones."""


__all__ = ["Gate", "renew_after_fork"]

_PATIENCE = 2.0  # seconds that whoever must be alone waits for those inside


_gates: list[Gate] = []  # for ever, as modules are; a WeakSet can not be read while other threads add to it
_renewables: weakref.WeakSet[_Renewable] = weakref.WeakSet()


class Gate:
    """To be held (``with gate:``) around every call into a module; may be held again by the thread that holds it.

    Args:
        shared: the module locks by itself.
        revive: called by the first who enters in a child of a fork or after :meth:`expire`, before anybody else
            enters. If it fails, it is called again by the next.
        patience: seconds that a fork waits for those inside.
    """

    def __init__(self, *, shared: bool, revive: Callable[[], None], patience: float = _PATIENCE) -> None:
        self._shared = shared
        self.patience = patience
        self._revive = revive
        self._stale = False
        self._make_locks()
        _gates.append(self)

    def _make_locks(self) -> None:
        self._door = threading.RLock()  # held for a moment by each who enters, and by whoever is to be alone
        self._inside: list[int] = []  # the threads that are; append and remove are atomic
        self._exclusive = threading.RLock()
        self._reviving = threading.RLock()
        self._reviver = 0

    def __enter__(self) -> None:
        me = threading.get_ident()
        if self._shared:
            if (self._stale or self._reviver) and self._reviver != me:
                self._renew()
            if me in self._inside:  # not through the door: whoever has closed it waits for this thread
                self._inside.append(me)
                return
            with self._door:
                self._inside.append(me)
            return
        self._exclusive.acquire()
        # Who is inside already has handles of the module as it was: it comes out first.
        if self._stale and not self._inside and not self._reviver:
            try:
                self._renew()
            except BaseException:
                self._exclusive.release()
                raise
        self._inside.append(me)

    def __exit__(self, *_: object) -> None:
        with suppress(ValueError, RuntimeError):  # in a child that was forked from inside, as a signal handler may
            self._inside.remove(threading.get_ident())
            if not self._shared:
                self._exclusive.release()

    def _renew(self) -> None:
        with self._reviving:  # the others wait: a module that is not initialised yet is of no use to them
            if not self._stale:
                return
            self._reviver = threading.get_ident()
            self._stale = False  # first: it may expire again meanwhile
            try:
                self._revive()
            except BaseException:
                self._stale = True
                raise
            finally:
                self._reviver = 0

    @property
    def stale(self) -> bool:
        """Whoever enters next finds a module that has to be initialised again."""
        return self._stale

    def expire(self) -> None:
        """The module has to be initialised again before it is used."""
        self._stale = True

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Nobody else is inside; gives whether that was to be had in time."""
        done = self.close(time.monotonic() + _PATIENCE)
        try:
            yield done
        finally:
            self.open()

    def close(self, deadline: float) -> bool:
        """Let nobody in any more, and wait until all others are out or the time is.

        Args:
            deadline: by :func:`time.monotonic`.

        Returns:
            Whether they are.
        """
        lock = self._door if self._shared else self._exclusive
        if not lock.acquire(timeout=max(deadline - time.monotonic(), 0)):
            return False
        me = threading.get_ident()
        while others := any(thread != me for thread in tuple(self._inside)):
            if time.monotonic() > deadline:
                break
            time.sleep(0.0005)
        return not others

    def open(self) -> None:
        """After :meth:`close`, by the same thread."""
        with suppress(RuntimeError):  # the time ran out before it was closed
            (self._door if self._shared else self._exclusive).release()

    def reset(self) -> None:
        """In the child, after a fork."""
        self._make_locks()
        self._stale = True


def renew_after_fork(thing: _Renewable) -> None:
    """Have an object make new locks in the children of a fork.

    Args:
        thing: its ``after_fork`` is called; it is not kept alive.
    """
    _renewables.add(thing)


def _outer_first() -> list[Gate]:
    """Whoever is inside an outer gate may still have to enter the others to come out."""
    return sorted(_gates, key=lambda gate: gate.patience)


def _before_fork() -> None:
    begun = time.monotonic()
    for gate in _outer_first():
        gate.close(begun + gate.patience)


def _after_fork_in_parent() -> None:
    for gate in list(_gates):
        gate.open()


def _after_fork_in_child() -> None:
    for gate in list(_gates):
        gate.reset()
    for thing in list(_renewables):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
