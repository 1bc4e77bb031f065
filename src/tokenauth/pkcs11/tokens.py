"""One token: what it says of itself, its login, its sessions and its mechanisms."""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from tokenauth.errors import ModuleError, PinLocked, PinRefused, PinRequired, TokenAuthError
from tokenauth.pin import PinRequest
from tokenauth.pkcs11.mechanisms import SIGNING_MECHANISMS, MechanismInfo
from tokenauth.pkcs11.returnvalues import ReturnValue, error_for
from tokenauth.pkcs11.sessions import SessionPool

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    from tokenauth.pin import PinSource
    from tokenauth.pkcs11.cryptoki import Cryptoki, Mechanism
    from tokenauth.uri import SlotInfo, TokenInfo

__all__ = ["Credentials", "SlotReading", "Token"]

# CK_TOKEN_INFO flags, PKCS #11 v3.1 section 3.2.
_CKF_LOGIN_REQUIRED, _CKF_PROTECTED_AUTHENTICATION_PATH = 0x4, 0x100
_CKF_USER_PIN_COUNT_LOW, _CKF_USER_PIN_FINAL_TRY, _CKF_USER_PIN_LOCKED = 0x10000, 0x20000, 0x40000
#: The most serious first.
_PIN_STATES: tuple[tuple[int, Literal["low", "final", "locked"]], ...] = (
    (_CKF_USER_PIN_LOCKED, "locked"),
    (_CKF_USER_PIN_FINAL_TRY, "final"),
    (_CKF_USER_PIN_COUNT_LOW, "low"),
)
_MOST_SESSIONS = 8

#: Keys the hashes by which refused PINs are remembered, so that they say nothing outside this process.
_hash_key = os.urandom(32)


class Credentials(NamedTuple):
    """Who may be asked for a PIN, and what to tell them.

    Args:
        source: gives the PIN; None where nothing may be asked.
        reason: what the login is for, as in "to authenticate to api.example".
    """

    source: PinSource | None
    reason: str = ""

    def __repr__(self) -> str:
        return f"Credentials(reason={self.reason!r})"


class SlotReading(NamedTuple):
    """What a slot and the token in it said when they were looked at.

    Args:
        slot: the slot.
        token: the token.
        flags: of ``CK_TOKEN_INFO``.
        removable: the token can be taken out (``CKF_REMOVABLE_DEVICE``).
    """

    slot: SlotInfo
    token: TokenInfo
    flags: int
    removable: bool


class Token:
    """A token in a slot. Made by :class:`tokenauth.pkcs11.modules.Module`.

    Attributes:
        module: the path of its module.
        info: label, manufacturer, model and serial number.
        slot: the slot that it is in.
        guard: to be held around every call into its module.
        stale: its module was initialised again since; all its sessions are gone.
    """

    def __init__(
        self, module: str, cryptoki: Cryptoki, guard: AbstractContextManager[Any], reading: SlotReading
    ) -> None:
        self.module = module
        self.info = reading.token
        self.slot = reading.slot
        self.cryptoki = cryptoki
        self.guard = guard
        self._flags = reading.flags
        limit = 1 if reading.removable else _MOST_SESSIONS
        self._sessions = SessionPool(lambda: cryptoki.open_session(reading.slot.id), limit)
        self._mechanisms: dict[int, MechanismInfo] | None = None
        self._login_lock = threading.Lock()
        self._logged_in = False
        self._refused: set[bytes] = set()
        self.stale = False

    def __repr__(self) -> str:
        return f"<Token {self.info.label!r} in slot {self.slot.id} of {self.module}>"

    @property
    def label(self) -> str:
        """The token's label."""
        return self.info.label

    @property
    def login_required(self) -> bool:
        """The token has objects that show only after a login."""
        return bool(self._flags & _CKF_LOGIN_REQUIRED)

    @property
    def pin_pad(self) -> bool:
        """The PIN is entered on the token or its reader."""
        return bool(self._flags & _CKF_PROTECTED_AUTHENTICATION_PATH)

    @property
    def pin_state(self) -> Literal["ok", "low", "final", "locked"]:
        """``ok``, ``low`` (a wrong PIN was entered), ``final`` (one try left) or ``locked``, as last read."""
        return next((state for flag, state in _PIN_STATES if self._flags & flag), "ok")

    @property
    def logged_in(self) -> bool:
        """This process has logged in."""
        return self._logged_in

    @contextmanager
    def _translate(self, doing: str) -> Iterator[None]:
        """Turn what the module answers into an error of this token."""
        try:
            with self.guard:
                yield
        except ReturnValue as error:
            raise error_for(error.name, doing, self.label) from error

    @contextmanager
    def session(self, doing: str) -> Iterator[int]:
        """Lend a session: its handle.

        Args:
            doing: what for, as in "it failed while DOING".

        Raises:
            TokenAuthError: what the token answered, in the block or before it.
        """
        with self._translate(doing):
            session = self._sessions.take()
            try:
                yield session
            finally:
                self._sessions.give(session)

    def sign(self, mechanism: Mechanism, key: int, data: bytes) -> bytes:
        """Let the token sign; the one call that happens at each handshake, so it takes the straight way.

        Args:
            mechanism: how.
            key: the private key's handle.
            data: what the mechanism takes.

        Raises:
            ReturnValue: the token refused.
        """
        with self.guard:
            session = self._sessions.take()
            try:
                self.cryptoki.sign_init(session, mechanism, key)
                return self.cryptoki.sign(session, data)
            finally:
                self._sessions.give(session)

    def refresh(self) -> None:
        """Read the token's flags again.

        Raises:
            TokenRemoved: it is gone.
            TokenAuthError: whatever else it answers.
        """
        with self._translate("reading its state"):
            self._flags = int(self.cryptoki.token_info(self.slot.id).flags)

    def mechanisms(self) -> Mapping[int, MechanismInfo]:
        """What the token says it can sign with: mechanism number to sizes and flags."""
        if self._mechanisms is None:
            with self._translate("listing its mechanisms"):
                listed = SIGNING_MECHANISMS.intersection(self.cryptoki.mechanisms(self.slot.id))
                infos = {number: self._mechanism_info(number) for number in listed}
                self._mechanisms = {number: info for number, info in infos.items() if info is not None}
        return self._mechanisms

    def _mechanism_info(self, number: int) -> MechanismInfo | None:
        """One mechanism's sizes and flags; None if the token lists it and then does not know it."""
        try:
            info = self.cryptoki.mechanism_info(self.slot.id, number)
        except ReturnValue:
            return None
        return MechanismInfo(info.smallest_key, info.largest_key, info.flags)

    def login(self, credentials: Credentials) -> None:
        """Log in, unless this process has; threads that need the same login wait for one.

        The PIN's state is read first, so that a locked token is never tried and its last try is never spent. A PIN
        that this token refused is not sent again.

        Raises:
            PinRequired: nobody gives a PIN.
            PinIncorrect: the token refused it.
            PinRefused: it was not sent.
            PinLocked: the token is locked.
            TokenAuthError: whatever else the token answers.
        """
        with self._login_lock:
            if self._logged_in:
                return
            self.refresh()
            self._check_state()
            self._send(self._ask(credentials))
            self._logged_in = True
            self._refused.clear()

    def _check_state(self) -> None:
        if self.pin_state == "locked":
            raise PinLocked("the PIN is locked", token=self.label)
        if self.pin_state == "final":
            raise PinRefused(
                "only one PIN try is left, and it is not spent here",
                token=self.label,
                hint="log in once with the card's own program, which resets the counter",
            )

    def _ask(self, credentials: Credentials) -> str:
        if credentials.source is None:
            raise PinRequired("a PIN is needed to use its key, and none was given", token=self.label)
        tries = "final" if self.pin_state == "locked" else self.pin_state
        pin = credentials.source(
            PinRequest(self.label, self.info.serial, credentials.reason, tries, per_signature=False)
        )
        if pin:
            return pin
        raise PinRequired("a PIN is needed to use its key, and the PIN source gave none", token=self.label)

    def _send(self, pin: str) -> None:
        mark = hashlib.blake2b(pin.encode("utf-8", "surrogatepass"), key=_hash_key).digest()
        if mark in self._refused:
            del pin  # whoever prints this frame's variables with the traceback must not print it
            raise PinRefused(
                "it refused this PIN before, so it is not sent again", token=self.label, hint="give another PIN"
            )
        with self.session("logging in") as session:
            failed = ""
            try:
                self.cryptoki.login(session, pin)
            except ReturnValue as error:
                failed = error.name
        del pin
        if failed.startswith("CKR_PIN_"):
            self._refused.add(mark)
        if failed and failed != "CKR_USER_ALREADY_LOGGED_IN":
            raise self._login_error(failed) from None

    def _login_error(self, name: str) -> TokenAuthError:
        error = error_for(name, "logging in", self.label)
        try:
            self.refresh()
        except TokenAuthError:
            return error
        if self.pin_state == "locked" and not isinstance(error, PinLocked | ModuleError):
            return PinLocked("the PIN is wrong, and that locked it", token=self.label, ckr=name)
        return error
