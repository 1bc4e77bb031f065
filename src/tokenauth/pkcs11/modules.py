"""PKCS#11 modules, loaded once per process, and the slots and tokens that they show."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress

from tokenauth._records import Record
from tokenauth.errors import ModuleError, TokenNotFound, TokenRemoved
from tokenauth.pkcs11.cryptoki import Cryptoki
from tokenauth.pkcs11.gate import Gate, renew_after_fork
from tokenauth.pkcs11.readings import SlotReading, read_token, text_of
from tokenauth.pkcs11.returnvalues import ReturnValue
from tokenauth.pkcs11.tokens import Token
from tokenauth.uri import LibraryInfo, SlotInfo, TokenInfo

__all__ = ["Module", "SlotFailure", "load_module", "other_modules"]


_CKF_TOKEN_INITIALIZED = 0x400  # CK_TOKEN_INFO
_CKF_REMOVABLE_DEVICE, _CKF_HW_SLOT = 0x2, 0x4  # CK_SLOT_INFO
#: What a slot answers whose token left since the list was made, or that holds something else.
_EMPTY = {"CKR_TOKEN_NOT_PRESENT", "CKR_TOKEN_NOT_RECOGNIZED", "CKR_DEVICE_REMOVED", "CKR_SLOT_ID_INVALID"}


_BETWEEN_RESTARTS = 30.0  # seconds


class SlotFailure(Record):
    """A slot that could not be read.

    Args:
        slot: the slot's number.
        ckr: the return value's name.
    """

    slot: int
    ckr: str


class Module:
    """A loaded and initialised PKCS#11 module. Made by :func:`load_module`.

    Args:
        path: the module's file.
        isolated: it runs in a process of its own.

    Attributes:
        path: the module's file.
        info: its ``CK_INFO`` as a URI can name it.
        thread_safe: it was told to lock, and can.

    Raises:
        ModuleError: the file is missing, is no PKCS#11 module, or can not be initialised.
    """

    def __init__(self, path: str, *, isolated: bool = False) -> None:
        self.path = path
        self.cryptoki = _isolated(path) if isolated else Cryptoki(path)
        self.thread_safe, self._ours = self.cryptoki.initialise()
        self.gate = Gate(shared=self.thread_safe, revive=self._begin_anew)
        self.cryptoki.on_death = self.gate.expire
        self._restarted = -_BETWEEN_RESTARTS
        self.after_fork()
        renew_after_fork(self)
        self._tokens: dict[TokenInfo, Token] = {}
        try:
            info = self.cryptoki.info()
        except ReturnValue as error:
            self._leave()
            raise ModuleError(f"{path} can not be used", ckr=error.name) from error
        version = (info.version.major, info.version.minor)
        self.info = LibraryInfo(text_of(info.manufacturer), text_of(info.description), version)

    def after_fork(self) -> None:
        """In the child of a fork: whoever held the lock is not there any more."""
        self._renewing = threading.Lock()

    def __repr__(self) -> str:
        return f"<Module {self.path}>"

    def tokens(self) -> tuple[list[Token], list[SlotFailure]]:
        """The tokens that are in the module's slots now; one that can not be read never hides the others.

        Returns:
            Initialised tokens, always the same object for the same token; and slots that failed.

        Raises:
            ModuleError: the module does not even give its slots.
        """
        try:
            readings, failures = self._readings()
        except ModuleError as error:
            if error.ckr != "CKR_CRYPTOKI_NOT_INITIALIZED":
                raise
            self.revive()
            readings, failures = self._readings()
        found = [self._token(reading) for reading in readings if reading.flags & _CKF_TOKEN_INITIALIZED]
        return [token for token in found if token is not None], failures

    def _readings(self) -> tuple[list[SlotReading], list[SlotFailure]]:
        """What is in the slots now, and which could not be read."""
        readings, failures = [], []
        with self.gate:
            for slot in self._slots():
                try:
                    readings.append(self._read(slot))
                except ReturnValue as error:
                    if error.name not in _EMPTY:
                        failures.append(SlotFailure(slot, error.name))
        return readings, failures

    def _slots(self) -> list[int]:
        try:
            return self.cryptoki.slots()
        except ReturnValue as error:
            raise ModuleError(f"{self.path} does not list its slots", ckr=error.name) from error

    def _read(self, slot: int) -> SlotReading:
        slot_info = self.cryptoki.slot_info(slot)
        removable = bool(slot_info.flags & _CKF_REMOVABLE_DEVICE)
        return SlotReading(
            SlotInfo(slot, text_of(slot_info.description), text_of(slot_info.manufacturer)),
            *read_token(self.cryptoki, slot, removable=removable),
            removable,
            bool(slot_info.flags & (_CKF_REMOVABLE_DEVICE | _CKF_HW_SLOT)),
        )

    def blank_slot(self) -> int:
        """The number of a slot whose token is not initialised yet.

        Raises:
            TokenNotFound: there is none.
        """
        with self.gate:
            for slot in self._slots():
                if not self._read(slot).flags & _CKF_TOKEN_INITIALIZED:
                    return slot
        raise TokenNotFound(f"{self.path} shows no slot with a blank token")

    def locate(self, info: TokenInfo) -> SlotReading:
        """Find a token again, in whatever slot.

        Raises:
            TokenRemoved: it is not there.
            ModuleError: the module does not even give its slots.
        """
        for reading in self._readings()[0]:
            if reading.token == info:
                return reading
        raise TokenRemoved("it was removed", token=info.label)

    def restart(self) -> bool:
        """Reload the module because it failed; not again within half a minute.

        Returns:
            Whether it was done. A module that somebody else initialised, or that another thread does not come out of,
            is left alone; so is one whose process died, for that is an error to be told, and the next use starts
            another.

        Raises:
            ModuleError: it can not be initialised again.
        """
        with self._renewing:
            recently = time.monotonic() - self._restarted < _BETWEEN_RESTARTS
            if not self._ours or self.gate.stale or recently:
                return False
            self._restarted = time.monotonic()
            return self._reload()

    def reload(self) -> None:
        """Finalise and initialise the module, so that it reads its configuration anew.

        Its tokens begin anew where they are found; those that are gone say so when they are used.

        Raises:
            ModuleError: it can not be initialised again, or somebody else initialised it and may be using it, or
                another thread does not come out of it.
        """
        if not self._ours:
            raise ModuleError(
                f"{self.path} was initialised by another part of this program, so it can not be reloaded",
                hint="let tokenauth be the first to use it",
            )
        with self._renewing:
            if not self._reload():
                raise ModuleError(
                    f"{self.path} can not be reloaded: another thread does not come out of it",
                    hint="try again when no token of it is in use",
                )

    def _reload(self) -> bool:
        with self.gate.alone() as alone:
            if alone:
                self._leave()
                self._begin_anew()
            return alone

    def revive(self) -> None:
        """Initialise the module again after somebody else in this process finalised it; nothing if nobody did.

        Raises:
            ModuleError: it can not be initialised again.
        """
        with self._renewing, self.gate.alone():
            try:
                self.cryptoki.info()
            except ReturnValue:
                self._begin_anew()

    def _leave(self) -> None:
        if self._ours:
            with suppress(ReturnValue):
                self.cryptoki.finalise()

    def _begin_anew(self) -> None:
        """Initialise the module again: after it was finalised, or its process died, or in the child of a fork."""
        with self.gate:
            self.cryptoki.initialise()
            there = {reading.token: reading for reading in self._readings()[0]}
            for info, token in list(self._tokens.items()):
                token.resettle(there.get(info))

    def _token(self, reading: SlotReading) -> Token | None:
        """The object for a token; there is never a second one, which would not know the PINs refused before."""
        token = self._tokens.get(reading.token)
        if token is None:
            token = self._tokens.setdefault(reading.token, Token(self, reading))
        if token.slot != reading.slot:
            with suppress(TokenRemoved):
                token.follow()
                return token
            return None
        return token


def _isolated(path: str) -> Cryptoki:
    from tokenauth.pkcs11.isolation import IsolatedCryptoki

    return IsolatedCryptoki(path)


def _says_isolate() -> bool:
    if not os.environ.get("TOKENAUTH_ISOLATE"):
        return False
    from tokenauth.pkcs11.isolation import switched_on

    return switched_on()


_loaded: dict[tuple[str, bool], Module] = {}
_loading = threading.Lock()


def _after_fork_in_child() -> None:
    global _loading  # noqa: PLW0603 - whoever held it is not there any more
    _loading = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def load_module(path: str, *, isolate: bool | None = None) -> Module:
    """Load a module, or give the one that is loaded already.

    Args:
        path: the module's file; the same file under two names is one module.
        isolate: run it in a process of its own; None: what ``TOKENAUTH_ISOLATE`` says. Isolated and not isolated it is
            two modules, each with its own sessions and logins.

    Raises:
        ModuleError: the file is missing, is no PKCS#11 module, or can not be initialised; or it is to be isolated and
            p11-kit is missing.
    """
    key = os.path.realpath(path), _says_isolate() if isolate is None else isolate
    if key in _loaded:
        return _loaded[key]  # also while another module takes its time to load
    with _loading:
        if key not in _loaded:
            _loaded[key] = Module(path, isolated=key[1])
        return _loaded[key]


def other_modules(module: Module) -> list[Module]:
    """What else is loaded of the same file: isolated if the module is not, or not isolated if it is."""
    real = os.path.realpath(module.path)
    return [other for (path, _), other in _loaded.items() if path == real and other is not module]
