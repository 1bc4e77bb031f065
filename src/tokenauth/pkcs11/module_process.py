"""One process with one PKCS#11 module in it: how it is started, watched and ended.

The process is ``p11-kit remote MODULE``, which serves a module over its stdin and stdout. At the other end is p11-kit's
client module, in our process, which connects to a unix socket. That socket is ours: whoever connects is given the
process, whose id we therefore know, so that a call that takes too long is ended by ending the process.

One thread stands behind each process, and sleeps. It starts the process (``PR_SET_PDEATHSIG`` speaks of the *thread*
that did), ends it when a call is overdue, and sees it die in between calls.
"""

from __future__ import annotations

import atexit
import os
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import tempfile
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote_from_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["ModuleProcess"]

_LONGEST_PATH = 100  # bytes; sockaddr_un has 108 (Linux) or 104 (macOS)
_TO_FINISH = 1.0  # seconds that a process gets to end by itself, once its stdin is closed
_TO_DIE = 2.0  # seconds after SIGKILL: what hangs in the kernel does not die
_PEER = "3i"  # struct ucred: pid, uid, gid (unix(7))

_alive: weakref.WeakSet[ModuleProcess] = weakref.WeakSet()
_program_ends = threading.Event()


class ModuleProcess:
    """A process, from before it is started until it is gone.

    Args:
        command: the program and its arguments.
        environment: its environment.
        shortest: seconds; no call is given less than that.
        on_death: called, in another thread, when the process is found dead while nobody had asked it to end.

    Attributes:
        address: where p11-kit's client has to connect (``P11_KIT_SERVER_ADDRESS``).
        overdue: it was ended because a call took too long.

    Raises:
        OSError: the system gives no socket or directory.
        RuntimeError: it gives no thread, or this program ends.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], shortest: float, on_death: Callable[[], None]
    ) -> None:
        self._command = command
        self._environment = environment
        self._shortest = shortest
        self._on_death = on_death
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None  # a copy of the client's end
        self._number = -1  # the descriptor that the client itself uses
        self._deadline: float | None = None
        self._dozing = self._ending = self._killed = self.overdue = False
        self._lock = threading.Lock()
        self._directory = _private_directory()
        path = str(self._directory / "module")
        self.address = "unix:path=" + quote_from_bytes(os.fsencode(path))
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen(2)
        self._wake, self._waker = os.pipe()
        self._thread = threading.Thread(target=self._run, name="tokenauth module process", daemon=True)
        self._thread.start()
        _alive.add(self)
        if _program_ends.is_set():  # the others are being ended: a thread that goes on must not start another
            self.end()
            raise RuntimeError("the program ends")

    @property
    def returncode(self) -> int | None:
        """As in :class:`subprocess.Popen`; None also if it was killed by us, or never started."""
        code = self._process.returncode if self._process is not None else None
        return None if self._killed and code == -signal.SIGKILL else code

    # What is called around each call into the module.

    def expect(self, limit: float) -> None:
        """A call begins, and has so many seconds."""
        self._deadline = time.monotonic() + limit
        # Whoever dozes has said so before looking at the deadline a last time, so none is missed here.
        if self._dozing:
            os.write(self._waker, b".")

    def relax(self) -> None:
        """The call is over."""
        self._deadline = None

    @property
    def broken(self) -> bool:
        """Nothing more will come from it, though it did. The client closes its end as soon as anything fails there."""
        if self._line is None:
            return False
        poll = select.poll()
        poll.register(self._line, 0)  # reports only that the other end was closed
        return bool(poll.poll(0)) or not _is_same(self._number, self._line.fileno())

    # Beginning and end.

    def attach(self) -> bool:
        """After the client's ``C_Initialize``: find its end of the connection.

        Subprocesses do not inherit that any more, and a fork can close it: the login is the process's.

        Returns:
            Whether it is connected; where it is not, ``C_Initialize`` succeeds all the same.
        """
        path = str(self._directory / "module")
        for number in map(int, os.listdir("/dev/fd")):  # noqa: PTH208
            with suppress(OSError):
                if _peer_of(number) == path:
                    os.set_inheritable(number, False)
                    self._number, self._line = number, socket.socket(fileno=os.dup(number))
                    os.write(self._waker, b".")
                    return True
        return False

    def end(self) -> None:
        """End it: by closing its stdin, or by force if a call is under way or it does not end by itself."""
        with self._lock:
            if self not in _alive:
                return
            self._ending = True
            os.write(self._waker, b".")
            self._thread.join(_TO_FINISH + 2 * _TO_DIE)
            _alive.discard(self)
            if not self._thread.is_alive():
                self._close()

    def abandon(self) -> None:
        """In the child of a fork: close what was inherited; the process is the parent's."""
        if self in _alive:
            _alive.discard(self)
            self._listener.close()
            self._close()
        if self._process is not None:
            self._process.returncode = 0  # or Popen would wait for it, and warn

    def _close(self) -> None:
        os.close(self._wake)
        os.close(self._waker)
        if self._line is not None:
            if _is_same(self._number, self._line.fileno()):
                os.close(self._number)  # the client will not be asked any more
            self._line.close()
            self._line = None

    # What the thread does.

    def _run(self) -> None:
        try:
            self._watch()
        finally:
            self._finish()

    def _watch(self) -> None:
        """Until the process is to end."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.register(self._listener, select.POLLIN)
        watched: socket.socket | None = None
        while not self._ending:
            ready = {descriptor for descriptor, _ in poll.poll(self._nap())}
            self._dozing = False
            if self._listener.fileno() in ready:
                self._admit()
            if self._wake in ready:
                os.read(self._wake, 64)
                if watched is None and (watched := self._line) is not None:
                    poll.register(watched, 0)
                    poll.unregister(self._listener)
                    self._close_door()
            if watched is not None and watched.fileno() in ready:
                if not self._ending:
                    self._on_death()
                return
            deadline = self._deadline
            if deadline is not None and time.monotonic() >= deadline:
                self.overdue = True
                return

    def _nap(self) -> float | None:
        """Milliseconds to sleep: no call that begins meanwhile is overdue before `shortest` is over. None: no limit."""
        self._dozing = True
        deadline = self._deadline
        if deadline is None:
            return None
        self._dozing = False
        return max(min(deadline - time.monotonic(), self._shortest), 0) * 1000

    def _admit(self) -> None:
        """Give the first who connects the process.

        The client connects once more if the process ended before it answered (p11-kit 0.25: and falls over if it then
        finds no socket). That one is sent away.
        """
        connection = self._listener.accept()[0]
        with connection, suppress(OSError):
            if not _is_ourselves(connection):
                return
            if self._process is not None:
                connection.settimeout(_TO_FINISH)
                connection.recv(1)
                return
            descriptor = connection.fileno()
            # If it can not be started, the client finds the connection closed.
            self._process = subprocess.Popen(
                self._command, stdin=descriptor, stdout=descriptor, env=self._environment, start_new_session=True
            )

    def _finish(self) -> None:
        process = self._process
        if process is not None and (self.overdue or (self._ending and self._deadline is not None)):
            self._kill(process)
        if self._line is not None:
            with suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)  # frees the caller, too, of a process that can not be killed
        if process is not None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_TO_DIE if self._killed else _TO_FINISH)
            if process.returncode is None:
                self._kill(process)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_TO_DIE)
        self._close_door()

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            self._killed = True
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)

    def _close_door(self) -> None:
        self._listener.close()
        shutil.rmtree(self._directory, ignore_errors=True)


def _private_directory() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="tokenauth-"))
    if len(os.fsencode(directory / "module")) > _LONGEST_PATH:
        directory.rmdir()
        directory = Path(tempfile.mkdtemp(prefix="tokenauth-", dir="/tmp"))
    return directory


def _is_ourselves(connection: socket.socket) -> bool:
    """The directory is for us only; Linux tells besides which process it is."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    size = struct.calcsize(_PEER)
    pid, uid, _ = struct.unpack(_PEER, connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return bool(pid == os.getpid() and uid == os.geteuid())


def _peer_of(number: int) -> str:
    """The path that a descriptor is connected to, if it is a unix socket's."""
    if not stat.S_ISSOCK(os.fstat(number).st_mode):
        return ""
    with socket.socket(fileno=os.dup(number)) as copy:
        return str(copy.getpeername()) if copy.family == socket.AF_UNIX else ""


def _is_same(number: int, descriptor: int) -> bool:
    """Whether two descriptors are of one socket; numbers are used again."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(number), os.fstat(descriptor))
    return False


@atexit.register
def _end_all() -> None:
    _program_ends.set()
    for process in list(_alive):
        process.end()
