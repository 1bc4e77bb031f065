"""Modules in processes of their own: one that crashes or hangs costs an error, and not the program.

p11-kit does the work. Its program serves a module over a socket (:mod:`tokenauth.pkcs11.module_process`); its client
module, loaded here, has the same functions and passes each call on. What is added is a time limit for each call, errors
that say what became of the module, and a new process at the next use.

p11-kit serves one call at a time, and its client takes a broken connection badly when several threads are inside. So
there is one lock around an isolated module; that costs nothing that the other end would not take anyway.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from tokenauth._records import Record
from tokenauth.errors import MechanismUnsupported, ModuleError, PinError, TokenAuthError
from tokenauth.pkcs11 import returnvalues as rv
from tokenauth.pkcs11.cryptoki import Cryptoki, Initialised, Mechanism
from tokenauth.pkcs11.discovery import find_library
from tokenauth.pkcs11.gate import renew_after_fork
from tokenauth.pkcs11.module_process import ModuleProcess
from tokenauth.pkcs11.returnvalues import ReturnValue

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["SWITCH", "TIMEOUT", "IsolatedCryptoki", "Tools", "find_tools", "switched_on", "time_limit"]

#: Environment variables.
SWITCH, TIMEOUT = "TOKENAUTH_ISOLATE", "TOKENAUTH_ISOLATE_TIMEOUT"
_ADDRESS = "P11_KIT_SERVER_ADDRESS"
_SWITCH_POSITIONS = {"": False, "0": False, "no": False, "false": False, "off": False}
_SWITCH_POSITIONS |= {"1": True, "yes": True, "true": True, "on": True}

#: Seconds that a call may take. Cards take one or two; some modules ask for a PIN in a window of their own.
_LIMIT = 60.0
_LIMITS = {"C_Sign": 120.0, "C_InitToken": 300.0}
_LIMIT_AT_PIN_PAD = 300.0  # C_Login without a PIN
#: A module that died so often within so many seconds is not started again before they are over.
_MOST_DEATHS, _DEATHS_WITHIN = 5, 30.0

#: What modules answer that take nothing but NULL in C_Initialize.
_NO_LOCKING = {"CKR_CANT_LOCK", "CKR_ARGUMENTS_BAD", "CKR_NEED_TO_CREATE_THREADS"}
_CKM_EDDSA = 0x1057
_EXPLANATION_TIMEOUT = 10.0  # seconds
_HINT = (
    "the next use starts it again; if that does not help, take the card out and insert it, or look for a newer version "
    "of its software"
)
_PACKAGES = (
    "install p11-kit with its client module: 'apt install p11-kit p11-kit-modules' (Debian, Ubuntu), "
    "'dnf install p11-kit p11-kit-server' (Fedora), 'brew install p11-kit' (macOS)"
)


def switched_on(environ: Mapping[str, str] = os.environ) -> bool:
    """What ``TOKENAUTH_ISOLATE`` says.

    Raises:
        ModuleError: neither yes nor no.
    """
    value = environ.get(SWITCH, "")
    try:
        return _SWITCH_POSITIONS[value.lower()]
    except KeyError:
        raise ModuleError(f"{SWITCH} is {value!r}, which is neither 1 nor 0", hint=f"say {SWITCH}=1") from None


def time_limit(environ: Mapping[str, str] = os.environ) -> float | None:
    """What ``TOKENAUTH_ISOLATE_TIMEOUT`` says: seconds for every call; None: what the table here says.

    Raises:
        ModuleError: that is no number of seconds.
    """
    value = environ.get(TIMEOUT, "")
    with suppress(ValueError):
        if not value or 0 < float(value) < threading.TIMEOUT_MAX:
            return float(value) if value else None
    raise ModuleError(f"{TIMEOUT} is {value!r}, which is no number of seconds", hint=f"say {TIMEOUT}=60, or unset it")


class Tools(Record):
    """The parts of p11-kit.

    Args:
        program: the path of ``p11-kit``.
        client: the path of its client module.
    """

    program: str
    client: str


def find_tools() -> Tools:
    """Find the parts of p11-kit.

    Raises:
        ModuleError: one is missing.
    """
    if sys.platform == "win32":
        raise ModuleError("modules can not be isolated on Windows: that needs p11-kit", hint=f"unset {SWITCH}")
    program, client = shutil.which("p11-kit"), find_library("p11-kit-client")
    missing = [name for name, found in (("p11-kit", program), ("p11-kit-client", client)) if not found]
    if not program or not client:
        raise ModuleError(f"modules can not be isolated: {' and '.join(missing)} can not be found", hint=_PACKAGES)
    return Tools(program, client)


@cache
def _dies_with_us() -> tuple[str, ...]:
    """The command that lets the process be killed with this one; empty where there is none (macOS, old util-linux)."""
    command = ("setpriv", "--pdeathsig", "KILL")
    try:
        done = subprocess.run([*command, "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError:
        return ()
    return () if done.returncode else command


#: Held while the environment has an address in it that is meant for one call.
_environment = threading.Lock()


class IsolatedCryptoki(Cryptoki):
    """The functions of one module that runs in a process of its own.

    A call during which the process dies, or is ended because it takes too long, raises :class:`ModuleError`; or
    :class:`PinError` if that was a login, which may have counted as a try and must not be repeated unasked. After that
    :meth:`initialise` starts another process.

    Args:
        path: the module's file.

    Attributes:
        on_death: called when the process is gone and nobody had asked it to end; perhaps in another thread.

    Raises:
        ModuleError: p11-kit is missing.
    """

    isolated = True

    def __init__(self, path: str) -> None:
        self._path = path
        self._mechanisms = {}
        self._tools = find_tools()
        self._limit = time_limit()
        self._shortest = self._limit or min(_LIMIT, *_LIMITS.values())
        self._process: ModuleProcess | None = None
        self._deaths: deque[float] = deque(maxlen=_MOST_DEATHS)
        self._lock = threading.RLock()
        self.on_death: Callable[[], None] = _nothing
        renew_after_fork(self)

    def after_fork(self) -> None:
        """In the child of a fork: the process is the parent's."""
        self._lock = threading.RLock()
        process, self._process = self._process, None
        if process is not None:
            process.abandon()

    def _limit_of(self, function: str, arguments: tuple[Any, ...]) -> float:
        if self._limit is not None:
            return self._limit
        if function == "C_Login" and arguments[2] is None:
            return _LIMIT_AT_PIN_PAD
        return _LIMITS.get(function, _LIMIT)

    def _value(self, function: str, *arguments: Any) -> int:
        with self._lock:
            process = self._process
            if process is None:
                raise ReturnValue("CKR_CRYPTOKI_NOT_INITIALIZED", function)
            limit = self._limit_of(function, arguments)
            process.expect(limit)
            try:
                value = super()._value(function, *arguments)
            finally:
                process.relax()
            if value and process.broken:
                raise self._failure(process, function, value, limit)
            return value

    def _failure(self, process: ModuleProcess, function: str, value: int, limit: float) -> TokenAuthError:
        self._bury(process)
        became = _epitaph(process, function, limit) or f"broke off the connection in {function}"
        if function == "C_Login":
            hint = "this may have counted as a PIN try; check with 'tokenauth list' before you enter the PIN again"
            return PinError(f"the module {self._path} {became}", hint=hint, ckr=rv.name_of(value))
        return ModuleError(f"the module {self._path} {became}", hint=_HINT, ckr=rv.name_of(value))

    def _died(self) -> None:
        self.on_death()

    def _bury(self, process: ModuleProcess) -> None:
        process.end()
        self._process = None
        self._deaths.append(time.monotonic())
        self.on_death()

    def initialise(self) -> Initialised:
        """Start the module in a new process, and initialise it there.

        Raises:
            ModuleError: it can not be started or initialised.
        """
        with self._lock:
            self._end()
            if len(self._deaths) == _MOST_DEATHS and time.monotonic() - self._deaths[0] < _DEATHS_WITHIN:
                raise ModuleError(
                    f"the module {self._path} ended {_MOST_DEATHS} times within {_DEATHS_WITHIN:g} s, so it is not "
                    "started again yet",
                    hint="look for a newer version of the card's software",
                )
            try:
                process = self._process = self._start()
            except (OSError, RuntimeError) as error:  # RuntimeError: no thread
                raise ModuleError(f"no process for {self._path} can be started: {error}") from error
            try:
                value = self._begin()
                # If the client finds nobody, it takes that for a module without slots, and answers CKR_OK.
                if process.attach() and value == rv.CKR_OK:
                    return Initialised(thread_safe=False, by_us=True)
            except BaseException:
                self._end()
                raise
            self._bury(process)
            raise self._not_started(process, value)

    def _start(self) -> ModuleProcess:
        with _environment:
            before = os.environ.get(_ADDRESS)
            command = [*_dies_with_us(), self._tools.program, "remote", os.path.abspath(self._path)]  # noqa: PTH100
            process = ModuleProcess(command, dict(os.environ), self._shortest, self._died)
            os.environ[_ADDRESS] = process.address
            try:
                self._load(self._tools.client)
            except BaseException:
                process.end()
                raise
            finally:
                if before is None:
                    del os.environ[_ADDRESS]
                else:
                    os.environ[_ADDRESS] = before
            return process

    def _not_started(self, process: ModuleProcess, value: int) -> ModuleError:
        became = _epitaph(process, "C_Initialize", self._limit_of("C_Initialize", ()))
        if became:
            return ModuleError(f"the module {self._path} {became}", ckr=rv.name_of(value))
        reason = self._explanation()
        if reason:
            return ModuleError(f"{self._path} can not be loaded: {reason}")
        ckr = rv.name_of(value) if value else ""
        hint = (
            f"it does not take the locking that p11-kit asks for: use it without {SWITCH}" if ckr in _NO_LOCKING else ""
        )
        return ModuleError(f"{self._path} can not be initialised", hint=hint, ckr=ckr)

    def _explanation(self) -> str:
        """Why p11-kit does not serve the module, in its words; empty if it does."""
        command = [self._tools.program, "remote", "-v", os.path.abspath(self._path)]  # noqa: PTH100
        with suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_EXPLANATION_TIMEOUT,
                start_new_session=True,
                check=False,
            )
            told = [line.partition("load module: ")[2] for line in done.stderr.splitlines() if "load module: " in line]
            return told[0].removeprefix(f"{self._path}: ") if told else ""
        return ""

    def finalise(self) -> None:
        """End the module's process: every session, login and handle is gone."""
        with self._lock:
            try:
                with suppress(TokenAuthError):  # if it dies of that, it has ended too
                    self._call("C_Finalize", None)
            finally:
                self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()

    def sign_init(self, session: int, mechanism: Mechanism, key: int) -> None:
        """Begin a signature with a key's handle."""
        try:
            super().sign_init(session, mechanism, key)
        except ReturnValue as error:
            if mechanism.number == _CKM_EDDSA and error.name == "CKR_MECHANISM_INVALID":
                raise MechanismUnsupported(
                    "p11-kit passes no Ed25519 signatures (CKM_EDDSA) to a module in a process of its own",
                    hint=f"use this key without {SWITCH} or isolate=True",
                    ckr=error.name,
                ) from error
            raise


def _epitaph(process: ModuleProcess, function: str, limit: float) -> str:
    """What became of a process that has ended, as far as it says something of the module."""
    if process.overdue:
        return f"did not answer {function} within {limit:g} s, so its process was ended"
    code = process.returncode
    if code is None or code >= 0:
        return ""
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    killed = -code in {signal.SIGKILL, signal.SIGTERM}
    return f"was killed in {function} ({name})" if killed else f"crashed in {function} ({name})"


def _nothing() -> None:
    """Until somebody wants to know."""


def _renew_lock() -> None:
    global _environment  # noqa: PLW0603
    _environment = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)
