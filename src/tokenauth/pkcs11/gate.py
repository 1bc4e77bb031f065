"""The gate in front of a module: who may be inside, and what happens at a fork.

A module that locks by itself lets all threads in; around one that does not there is one lock. At a fork nobody may be
inside: the child would inherit the module's locks as some other thread holds them, and hang (SoftHSM does, in one of
ten forks under load). So before a fork the gates close and wait, not for ever, until everybody is out; in the child
they open anew, and the first who enters finds a module that has to be initialised again (PKCS #11 v3.1, 5.4).

A module in a process of its own (:mod:`tokenauth.pkcs11.isolation`) has to be initialised again, too, when that died.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class _Renewable(Protocol):
        def after_fork(self) -> None:
            """In the child: make new locks, for nobody will release the old ones."""


__all__ = ["Gate", "renew_after_fork"]

_PATIENCE = 2.0  # seconds that a fork waits for those inside


_gates: weakref.WeakSet[Gate] = weakref.WeakSet()
_renewables: weakref.WeakSet[_Renewable] = weakref.WeakSet()


class Gate:
    """To be held (``with gate:``) around every call into a module; may be held again by the thread that holds it.

    Args:
        shared: the module locks by itself.
        revive: called by the first who enters in a child of a fork or after :meth:`expire`, before anything else. If
            it fails, it is called again by the next.
    """

    def __init__(self, *, shared: bool, revive: Callable[[], None]) -> None:
        self._shared = shared
        self._revive = revive
        self._stale = False
        self._make_locks()
        _gates.add(self)

    def _make_locks(self) -> None:
        self._door = threading.Lock()  # held for a moment by each who enters, and by whoever forks
        self._inside: list[None] = []  # as many as are inside; append and pop are atomic
        self._exclusive = threading.RLock()
        self._reviving = threading.RLock()

    def __enter__(self) -> None:
        if self._shared:
            if self._stale:
                with self._reviving:
                    self._renew()
            with self._door:
                self._inside.append(None)
        else:
            self._exclusive.acquire()
            # Who is inside already has handles of the module as it was: it comes out first.
            if self._stale and not self._inside:
                self._renew_or_leave()
            self._inside.append(None)

    def __exit__(self, *_: object) -> None:
        self._inside.pop()
        if not self._shared:
            self._exclusive.release()

    def _renew(self) -> None:
        if self._stale:
            self._stale = False  # first: what is called here enters as well
            try:
                self._revive()
            except BaseException:
                self._stale = True
                raise

    def _renew_or_leave(self) -> None:
        self._inside.append(None)
        try:
            self._renew()
        except BaseException:
            self._exclusive.release()
            raise
        finally:
            self._inside.pop()

    @property
    def stale(self) -> bool:
        """Whoever enters next finds a module that has to be initialised again."""
        return self._stale

    def expire(self) -> None:
        """The module has to be initialised again before it is used."""
        self._stale = True

    def close(self, deadline: float) -> None:
        """Before a fork: let nobody in any more, and wait until all are out or the time is."""
        if not self._shared:
            self._exclusive.acquire(timeout=max(deadline - time.monotonic(), 0))
            return
        self._door.acquire(timeout=max(deadline - time.monotonic(), 0))
        while self._inside and time.monotonic() < deadline:
            time.sleep(0.0005)

    def open(self) -> None:
        """In the parent, after a fork."""
        try:
            (self._door if self._shared else self._exclusive).release()
        except RuntimeError:
            return  # the time ran out before it was closed

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


def _before_fork() -> None:
    deadline = time.monotonic() + _PATIENCE
    for gate in list(_gates):
        gate.close(deadline)


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
