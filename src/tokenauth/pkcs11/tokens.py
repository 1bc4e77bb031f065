"""One token: what it says of itself, its login, its sessions and its mechanisms."""

from __future__ import annotations

import threading
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from tokenauth._records import Record
from tokenauth.errors import PinError, TokenAuthError
from tokenauth.notices import notice
from tokenauth.pkcs11.gate import renew_after_fork
from tokenauth.pkcs11.login import Credentials, Login
from tokenauth.pkcs11.mechanisms import SIGNING_MECHANISMS, MechanismInfo
from tokenauth.pkcs11.returnvalues import NOT_LOGGED_IN, ReturnValue, error_for
from tokenauth.pkcs11.sessions import SessionPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tokenauth.pin import OnPad
    from tokenauth.pkcs11.cryptoki import Mechanism
    from tokenauth.pkcs11.modules import Module
    from tokenauth.uri import SlotInfo, TokenInfo

__all__ = ["Credentials", "SlotReading", "Token"]

_T = TypeVar("_T")

# CK_TOKEN_INFO flags, PKCS #11 v3.1 section 3.2.
_CKF_LOGIN_REQUIRED, _CKF_PROTECTED_AUTHENTICATION_PATH = 0x4, 0x100
_CKF_USER_PIN_COUNT_LOW, _CKF_USER_PIN_FINAL_TRY, _CKF_USER_PIN_LOCKED = 0x10000, 0x20000, 0x40000
_CKF_TOKEN_PRESENT = 0x1  # CK_SLOT_INFO
_CKS_USER = frozenset({1, 3})  # CKS_RO_USER_FUNCTIONS, CKS_RW_USER_FUNCTIONS
#: The most serious first.
_PIN_STATES: tuple[tuple[int, Literal["low", "final", "locked"]], ...] = (
    (_CKF_USER_PIN_LOCKED, "locked"),
    (_CKF_USER_PIN_FINAL_TRY, "final"),
    (_CKF_USER_PIN_COUNT_LOW, "low"),
)
_MOST_SESSIONS = 8
_SLOW = 2.0  # seconds: a card takes one to sign
_NOTHING: Final = nullcontext()

#: What a token answers when sessions, handles or the login are gone: it is looked for again, and tried once more.
_LOST = frozenset(
    {
        "CKR_DEVICE_REMOVED",
        "CKR_TOKEN_NOT_PRESENT",
        "CKR_TOKEN_NOT_RECOGNIZED",
        "CKR_SLOT_ID_INVALID",
        "CKR_SESSION_CLOSED",
        "CKR_SESSION_HANDLE_INVALID",
        "CKR_OBJECT_HANDLE_INVALID",
        "CKR_KEY_HANDLE_INVALID",
        "CKR_USER_NOT_LOGGED_IN",
        "CKR_CRYPTOKI_NOT_INITIALIZED",
    }
)
#: What a module answers when it is confused; initialising it anew may help.
_CONFUSED = frozenset({"CKR_GENERAL_ERROR", "CKR_DEVICE_ERROR", "CKR_FUNCTION_FAILED", "CKR_DEVICE_MEMORY"})


class SlotReading(Record):
    """What a slot and the token in it said when they were looked at.

    Args:
        slot: the slot.
        token: the token.
        flags: of ``CK_TOKEN_INFO``.
        removable: the token can be taken out (``CKF_REMOVABLE_DEVICE``).
        hardware: the slot is, or takes, a device (``CKF_HW_SLOT``, ``CKF_REMOVABLE_DEVICE``).
    """

    slot: SlotInfo
    token: TokenInfo
    flags: int
    removable: bool
    hardware: bool = False


class Token:
    """A token, in whatever slot it is. Made by :class:`tokenauth.pkcs11.modules.Module`.

    Attributes:
        info: label, manufacturer, model and serial number, by which it is known again.
        slot: the slot that it is in.
        gate: to be held around every call into its module.
        generation: counts how often it began anew; handles found in an earlier generation are void.
        login_state: whether this process is logged in.
    """

    def __init__(self, module: Module, reading: SlotReading) -> None:
        self._module = module
        self.info = reading.token
        self.cryptoki = module.cryptoki
        self.gate = module.gate
        self.login_state = Login(self)
        self.generation = 0
        self._mechanisms: dict[int, MechanismInfo] | None = None
        self._losing = threading.Lock()
        self._settle(reading)
        renew_after_fork(self)

    def _settle(self, reading: SlotReading) -> None:
        """Be in a slot, with no sessions yet."""
        self.slot = reading.slot
        self._flags = reading.flags
        self._hardware = reading.hardware
        self._most_sessions = 1 if reading.removable else _MOST_SESSIONS
        self._sessions = self._no_sessions_yet()

    def _no_sessions_yet(self) -> SessionPool:
        return SessionPool(self.cryptoki, self.slot.id, self._most_sessions)

    def after_fork(self) -> None:
        """In the child of a fork: whoever held the lock is not there any more."""
        self._losing = threading.Lock()

    def __repr__(self) -> str:
        return f"<Token {self.info.label!r} in slot {self.slot.id} of {self.module}>"

    @property
    def module(self) -> str:
        """The path of its module."""
        return self._module.path

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
        return self.login_state.done

    @contextmanager
    def _translate(self, doing: str) -> Iterator[None]:
        """Turn what the module answers into an error of this token."""
        try:
            with self.gate:
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
            sessions = self._sessions
            session = sessions.take()
            try:
                yield session
            finally:
                sessions.give(session)

    def sign(self, mechanism: Mechanism, key: int, data: bytes, pin: str | OnPad | None = None) -> bytes:
        """Let the token sign; the one call that happens at each handshake, so it takes the straight way.

        Args:
            mechanism: how.
            key: the private key's handle.
            data: what the mechanism takes.
            pin: for a key that wants it at each signature (``CKA_ALWAYS_AUTHENTICATE``); else None.

        Raises:
            ReturnValue: the token refused.
            TokenAuthError: it refused that PIN.
        """
        with self.gate, self._notice_if_slow() if self._hardware else _NOTHING:
            sessions = self._sessions
            session = sessions.take()
            begun = over = False
            try:
                self.cryptoki.sign_init(session, mechanism, key)
                begun = True
                if pin is not None:
                    self.login_state.for_operation(session, pin)
                signature = self.cryptoki.sign(session, data)
                over = True
            finally:
                del pin
                if begun and not over:
                    self._discard(sessions, session)
                else:
                    sessions.give(session)
        return signature

    @contextmanager
    def _notice_if_slow(self) -> Iterator[None]:
        """Some tokens blink and wait to be touched, which nothing in PKCS #11 tells."""
        timer = threading.Timer(_SLOW, notice, (f"token {self.label!r} is still at it: touch it if it blinks",))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _discard(self, sessions: SessionPool, session: int) -> None:
        """Close a session, of no more use with an operation that broke off; with the last one the login ends."""
        if sessions.discard(session) == 0:
            self.login_state.forget()

    def is_present(self) -> bool:
        """Whether there is a token in its slot; asked, not assumed."""
        with suppress(ReturnValue), self.gate:
            return bool(self.cryptoki.slot_info(self.slot.id).flags & _CKF_TOKEN_PRESENT)
        return False

    def is_as_it_was(self) -> bool:
        """Whether it is in its slot and its sessions live on, with the login if there was one; asked, not assumed.

        While it signs for somebody that is answer enough: many modules answer nobody else meanwhile.
        """
        if self._sessions.all_lent:
            return True
        if not self.is_present():
            return False
        with suppress(ReturnValue), self.gate:
            state = self._sessions.state()
            return state is None or not self.logged_in or state in _CKS_USER
        return False

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
        self.login_state.ensure(credentials)

    def logout(self) -> None:
        """End this process's login; keys found before are looked for again, with a new login, when they are used.

        Raises:
            TokenAuthError: the token refused.
        """
        with self.session("logging out") as session:
            self.cryptoki.logout(session)
        self.login_state.forget()
        self.generation += 1

    def twice(self, attempt: Callable[[], _T]) -> _T:
        """Do something with the token, and once more if the token was lost meanwhile and is there again.

        A PIN error is never such a reason; that the login is gone is one.

        Raises:
            TokenRemoved: it is gone.
            TokenAuthError: what the attempt raised.
        """
        generation = self.generation
        try:
            return attempt()
        except TokenAuthError as error:
            refused = isinstance(error, PinError) and error.ckr != NOT_LOGGED_IN
            if refused or not self.lost(generation, error.ckr):
                raise
        return attempt()

    def end_login(self) -> None:
        """End this process's login whatever the token says to that: with its last session it ends anyway."""
        old = self._sessions
        with self.gate:
            with suppress(ReturnValue):
                session = old.take()
                try:
                    self.cryptoki.logout(session)
                finally:
                    old.give(session)
            self._sessions = self._no_sessions_yet()
            self.login_state.forget()
            self.generation += 1
            old.close()

    def lost(self, generation: int, ckr: str) -> bool:
        """After a failure: see whether the token is still, or again, there, and make ready to try once more.

        The token is looked for in all slots of its module. Of several threads that failed alike, one does it.

        Args:
            generation: the token's when the attempt began.
            ckr: the return value's name.

        Returns:
            Whether it makes sense to try again: everything found on the token before has to be found anew.

        Raises:
            TokenRemoved: it is gone.
            TokenAuthError: its module fails.
        """
        if ckr not in _LOST and ckr not in _CONFUSED:
            return False
        with self._losing:
            if self.generation != generation:
                return True
            if ckr in _CONFUSED and not self._module.restart():
                return False
            reading = self._module.locate(self.info)
            if self.generation == generation:  # restarting the module has settled all its tokens
                self.resettle(reading)
            return True

    def resettle(self, reading: SlotReading) -> None:
        """Begin anew, in the same or another slot: old sessions, handles and the login are gone."""
        old = self._sessions
        self._settle(reading)
        self._mechanisms = None
        self.login_state.forget()
        self.generation += 1
        old.close()
