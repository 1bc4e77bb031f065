"""The gate in front of a module: who may be inside, and what happens at a fork.

A module that locks by itself lets all threads in; around one that does not there is one lock. Now and then one has to
be alone inside all the same:

- to finalise a module: what other threads do in it meanwhile is undefined (PKCS #11 v3.1, 5.4);
- to fork: the child would inherit the module's locks as some other thread holds them, and hang (SoftHSM does, in one
  of ten forks under load). So before a fork the gates close and wait, not for ever, until everybody is out; in the
  child they open anew, and the first who enters finds a module that has to be initialised again (ibid.).
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
        on_fork: called by the first who enters in a child, before anybody else enters.
    """

    def __init__(self, *, shared: bool, on_fork: Callable[[], None]) -> None:
        self._shared = shared
        self._on_fork = on_fork
        self._forked = False
        self._make_locks()
        _gates.append(self)

    def _make_locks(self) -> None:
        self._door = threading.RLock()  # held for a moment by each who enters, and by whoever is to be alone
        self._inside: list[int] = []  # the threads that are; append and remove are atomic
        self._exclusive = threading.RLock()
        self._reviving = threading.RLock()
        self._reviver = 0

    def __enter__(self) -> None:
        if self._forked and self._reviver != threading.get_ident():
            self._revive()
        if not self._shared:
            self._exclusive.acquire()
            return
        me = threading.get_ident()
        if me in self._inside:  # not through the door: whoever has closed it waits for this thread
            self._inside.append(me)
            return
        with self._door:
            self._inside.append(me)

    def __exit__(self, *_: object) -> None:
        with suppress(ValueError, RuntimeError):  # in a child that was forked from inside, as a signal handler may
            if self._shared:
                self._inside.remove(threading.get_ident())
            else:
                self._exclusive.release()

    def _revive(self) -> None:
        with self._reviving:  # the others wait: a module that is not initialised yet is of no use to them
            if self._forked:
                self._reviver = threading.get_ident()
                try:
                    self._on_fork()
                    self._forked = False
                finally:
                    self._reviver = 0

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
        self._forked = True


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
