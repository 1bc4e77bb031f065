"""One token: what it says of itself, its login, its sessions and its mechanisms."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Final, Literal

from tokenauth.pkcs11.gate import renew_after_fork
from tokenauth.pkcs11.login import Credentials, Login
from tokenauth.pkcs11.mechanisms import SIGNING_MECHANISMS, MechanismInfo
from tokenauth.pkcs11.readings import read_token
from tokenauth.pkcs11.returnvalues import GONE, NOT_LOGGED_IN, ReturnValue, error_for
from tokenauth.pkcs11.sessions import SessionPool

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tokenauth.pin import OnPad
    from tokenauth.pkcs11.cryptoki import Mechanism
    from tokenauth.pkcs11.modules import Module
    from tokenauth.pkcs11.readings import SlotReading

__all__ = ["Credentials", "Token"]

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
#: Seconds until a removal shows, and between two looks. pcscd asks many readers only every 0.4 s.
_UNNOTICED, _BETWEEN_LOOKS = 0.6, 0.05
_NOTHING: Final = nullcontext()


class Token:
    """A token, in whatever slot it is. Made by :class:`tokenauth.pkcs11.modules.Module`.

    Attributes:
        info: label, manufacturer, model and serial number, by which it is known again.
        slot: the slot that it is in.
        gate: to be held around every call into its module.
        login_state: whether this process is logged in.
        loaded_from: its module.
        losing: held while it is looked for after a failure; of several threads that failed alike, one looks.
    """

    def __init__(self, module: Module, reading: SlotReading) -> None:
        self.loaded_from = module
        self.info = reading.token
        self.cryptoki = module.cryptoki
        self.gate = module.gate
        self.login_state = Login(self)
        self._mechanisms: dict[int, MechanismInfo] | None = None
        self.after_fork()
        self._settle(reading)
        renew_after_fork(self)

    def _settle(self, reading: SlotReading) -> None:
        """Be in a slot, with no sessions yet."""
        self._reading = reading
        self.slot = reading.slot
        self._flags = reading.flags
        self._hardware = reading.hardware
        limit = 1 if reading.removable else _MOST_SESSIONS
        self._sessions = SessionPool(self.cryptoki, reading.slot.id, limit, lambda: self._check(reading.slot.id))

    def after_fork(self) -> None:
        """In the child of a fork: whoever held the locks is not there any more."""
        self.losing = threading.Lock()
        self._settling = threading.Lock()

    def __repr__(self) -> str:
        return f"<Token {self.info.label!r} in slot {self.slot.id} of {self.module}>"

    @property
    def generation(self) -> int:
        """Another number whenever it has begun anew; handles found in an earlier generation are void."""
        return self._sessions.generation

    @property
    def module(self) -> str:
        """The path of its module."""
        return self.loaded_from.path

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
    def session(self, doing: str, generation: int | None = None) -> Iterator[int]:
        """Lend a session: its handle.

        Args:
            doing: what for, as in "it failed while DOING".
            generation: the only one of which it may be; None for the present one.

        Raises:
            TokenAuthError: what the token answered, in the block or before it.
        """
        with self._translate(doing):
            sessions = self._present() if generation is None else self._of(generation)
            session = sessions.take()
            over = False
            try:
                yield session
                over = True
            finally:
                (sessions.give if over else sessions.discard)(session)  # a search may still be active in it

    def _of(self, generation: int) -> SessionPool:
        sessions = self._sessions
        if generation != sessions.generation:
            raise ReturnValue("CKR_SESSION_CLOSED", "C_OpenSession")
        return sessions

    def _present(self) -> SessionPool:
        """The sessions; new ones if the last one was closed after an operation that broke off."""
        sessions = self._sessions
        if sessions.closed and not sessions.retired:
            self.resettle(None, instead_of=sessions)
        return self._sessions

    def sign(
        self, mechanism: Mechanism, key: int, generation: int, data: bytes, pin: str | OnPad | None = None
    ) -> bytes:
        """Let the token sign; the one call that happens at each handshake, so it takes the straight way.

        Args:
            mechanism: how.
            key: the private key's handle.
            generation: in which it was found; in another one it may be another key's.
            data: what the mechanism takes.
            pin: for a key that wants it at each signature (``CKA_ALWAYS_AUTHENTICATE``); else None.

        Raises:
            ReturnValue: the token refused.
            TokenAuthError: it refused that PIN.
        """
        with self.gate, self._notice_if_slow() if self._hardware else _NOTHING:
            sessions = self._of(generation)
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
                    sessions.discard(session)
                else:
                    sessions.give(session)
        return signature

    @contextmanager
    def _notice_if_slow(self) -> Iterator[None]:
        """Some tokens blink and wait to be touched, which nothing in PKCS #11 tells."""
        from tokenauth.notices import notice

        timer = threading.Timer(_SLOW, notice, (f"token {self.label!r} is still at it: touch it if it blinks",))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def is_present(self) -> bool:
        """Whether there is a token in its slot; asked, not assumed."""
        with suppress(ReturnValue), self.gate:
            return self._shows()
        return False

    def _shows(self) -> bool:
        if self._hardware:  # some modules (ykcs11) look at their readers only when they list the slots
            return self.slot.id in self.cryptoki.slots()
        return bool(self.cryptoki.slot_info(self.slot.id).flags & _CKF_TOKEN_PRESENT)

    def settle_down(self) -> bool:
        """After a failure that may come of a removal: whether the token is there even when that had time to show.

        Nothing but the slots is asked for meanwhile: OpenSC can hang for good in C_GetTokenInfo between a removal
        and pcscd's notice of it.
        """
        end = time.monotonic() + (_UNNOTICED if self._reading.removable else 0)
        while present := self.is_present():
            if time.monotonic() >= end:
                break
            time.sleep(_BETWEEN_LOOKS)
        return present

    def is_as_it_was(self) -> bool:
        """Whether it is in its slot and its sessions live on, with the login if there was one; asked, not assumed.

        While it signs for somebody that is answer enough: many modules answer nobody else meanwhile.
        """
        if self._sessions.all_lent:
            return True
        with suppress(ReturnValue), self.gate:
            if not self._shows():
                return False
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
            self._check(self.slot.id)

    def _check(self, slot: int) -> None:
        """See that it is this token that is in a slot, and read its flags.

        Raises:
            ReturnValue: it is not.
        """
        info, flags = read_token(self.cryptoki, slot, removable=self._reading.removable)
        if info != self.info:
            raise ReturnValue("CKR_TOKEN_NOT_PRESENT", "C_GetTokenInfo")
        self._flags = flags

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
        except ReturnValue as error:
            if error.name in GONE:
                raise
            return None
        return MechanismInfo(info.smallest_key, info.largest_key, info.flags)

    def login(self, credentials: Credentials, *, for_signature: bool = False) -> None:
        """Log in, unless this process has; threads that need the same login wait for one.

        The PIN's state is read first, so that a locked token is never tried and its last try is never spent. A PIN
        that this token refused is not sent again.

        Args:
            credentials: give the PIN.
            for_signature: a signature follows, see :meth:`Login.ensure`.

        Raises:
            PinRequired: nobody gives a PIN.
            PinIncorrect: the token refused it.
            PinRefused: it was not sent.
            PinLocked: the token is locked.
            TokenAuthError: whatever else the token answers.
        """
        self._present()
        self.login_state.ensure(credentials, for_signature=for_signature)

    def logout(self) -> None:
        """End this process's login; keys found before are looked for again, with a new login, when they are used.

        Raises:
            TokenAuthError: the token refused.
        """
        with self.session("logging out") as session:
            self.cryptoki.logout(session)
        self.resettle(None)

    def end_login(self) -> None:
        """End this process's login whatever the token says to that: with its last session it ends anyway."""
        old = self._sessions
        with suppress(ReturnValue), self.gate:
            session = old.take()
            try:
                self.cryptoki.logout(session)
            finally:
                old.give(session)
        self.resettle(None, instead_of=old)

    def check_login(self, generation: int) -> None:
        """After a login: what does not show is not there only if the login still lasts.

        Args:
            generation: in which something does not show.

        Raises:
            TokenAuthError: it does not; :func:`~tokenauth.pkcs11.recovery.twice` makes another one.
        """
        with self.session("looking for what needs a login", generation) as session:
            if self.cryptoki.session_state(session) not in _CKS_USER:
                raise ReturnValue(NOT_LOGGED_IN, "C_GetSessionInfo")

    def retire(self) -> bool:
        """Nobody uses its sessions any more; not if they live: it was away before another thread opened them."""
        with self.gate:
            return self._sessions.retire()

    def follow(self) -> None:
        """After it was seen in another slot: begin anew there if it is there indeed.

        Raises:
            TokenRemoved: it is gone.
            TokenAuthError: its module fails.
        """
        with self.losing:
            if self.retire():
                self.resettle(self.loaded_from.locate(self.info))

    def resettle(self, reading: SlotReading | None, *, instead_of: SessionPool | None = None) -> None:
        """Begin anew, in the same or another slot: old sessions, handles and the login are gone.

        Args:
            reading: where it is; None for where it was.
            instead_of: nothing happens unless these are its sessions now; None for whichever.
        """
        with self._settling:
            old = self._sessions
            if instead_of not in {None, old}:
                return
            self._mechanisms = None
            self._settle(reading or self._reading)
        old.close()
