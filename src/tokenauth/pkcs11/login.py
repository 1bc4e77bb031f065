"""The login on one token: a PIN is precious, so this is the one place that sends any, or lets a pad ask for it."""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tokenauth._records import Record
from tokenauth.errors import (
    ModuleError,
    PinError,
    PinIncorrect,
    PinLocked,
    PinRefused,
    PinRequired,
    SigningFailed,
    TokenAuthError,
    TokenRemoved,
)
from tokenauth.pin import OnPad, PinRequest
from tokenauth.pkcs11.expiry import Expiry
from tokenauth.pkcs11.gate import renew_after_fork
from tokenauth.pkcs11.returnvalues import CONFUSED, GONE, ReturnValue, error_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Literal

    from tokenauth.pin import PinSource
    from tokenauth.pkcs11.tokens import Token

__all__ = ["Credentials", "Login"]

#: What modules answer, besides ``CKR_PIN_...``, to a PIN that can not be one (OpenSC passes on what the card says).
_ILL_FORMED = frozenset({"CKR_DATA_INVALID", "CKR_DATA_LEN_RANGE", "CKR_ARGUMENTS_BAD"})
#: Keys the hashes by which refused PINs are remembered, so that they say nothing outside this process.
_hash_key = os.urandom(32)


class Credentials(Record):
    """Who may be asked for a PIN, and what to tell them.

    Args:
        source: gives the PIN; None where nothing may be asked.
        reason: what the login is for, as in "to authenticate to api.example".
        allow_final_try: the token's last try may be spent.
        forget_after: seconds after its last use at which the login ends; None for never.
    """

    source: PinSource | None
    reason: str = ""
    allow_final_try: bool = False
    forget_after: float | None = None

    def __repr__(self) -> str:
        return f"Credentials(reason={self.reason!r})"


class _Action(threading.local):
    """What a thread is about to do with a login, such as one signature: how much had been tried when it began.

    What others try, and fail at, while it waits is its failure as well: it asks for nothing.
    """

    depth = 0
    attempts = 0
    pad_failures = 0
    #: The PIN that was right for the login a moment ago, for the signature that asks for it once more.
    entry: str | None = None


class Login:
    """Whether this process is logged in to a token, and how it gets there.

    Args:
        token: the token.
    """

    def __init__(self, token: Token) -> None:
        self._token = token
        self._lock = threading.Lock()
        self._generation: int | None = None  # of the token, when this process logged in
        self._refused: set[bytes] = set()
        self._attempts = 0
        self._last_failure: TokenAuthError | None = None
        self._pad = threading.Lock()
        self._pad_failures = 0
        self._pad_failure = ""  # what the last failed entry was answered with
        self._action = _Action()
        self._expiry = Expiry(self._expire)
        self._forgetful: list[Callable[[], object]] = []  # the forget() of the sources that gave a PIN
        renew_after_fork(self)

    @property
    def done(self) -> bool:
        """This process has logged in, and the token has not begun anew since, which ends a login."""
        return self._generation == self._token.generation

    def forget(self) -> None:
        """The login is over."""
        self._generation = None

    def after_fork(self) -> None:
        """In the child of a fork: whoever held the locks is not there any more."""
        self._lock = threading.Lock()
        self._pad = threading.Lock()
        self.forget()
        self._expiry.after_fork()

    @contextmanager
    def in_use(self, forget_after: float | None = None) -> Iterator[None]:
        """Do something with the login: if there is one, it lasts until the end of the block at least.

        Args:
            forget_after: seconds from then on after which it ends, unless it is used again; None for never.
        """
        action = self._action
        self._expiry.begin_use()
        if not action.depth:
            action.attempts, action.pad_failures = self._attempts, self._pad_failures
        action.depth += 1
        try:
            yield
        finally:
            action.depth -= 1
            self._expiry.end_use(forget_after)

    def _expire(self) -> None:
        """End a login that was not used for long enough, and what the sources remember."""
        if self.done:
            self._token.end_login()
        forgetful, self._forgetful = self._forgetful, []
        for forget in forgetful:
            try:
                forget()
            except Exception as error:  # noqa: BLE001 - nobody waits for this, and the others have to forget as well
                import logging

                logging.getLogger("tokenauth").warning("a PIN source could not forget: %s", type(error).__name__)

    def ensure(self, credentials: Credentials, *, for_signature: bool = False) -> None:
        """Log in, unless that was done; see :meth:`Token.login`.

        Args:
            credentials: give the PIN.
            for_signature: a signature follows in this thread. If its key asks for the PIN as well, the same entry
                serves for both, so that a person is asked once; :meth:`forget_entry` if it does not.
        """
        with self.in_use(credentials.forget_after), self._lock:
            if self.done:
                return
            others_tried, self._action.attempts = self._attempts != self._action.attempts, self._attempts
            if others_tried and self._last_failure is not None:
                raise _again(self._last_failure)
            self._attempts += 1
            self._action.attempts = self._attempts  # this thread may try again, if the token was lost and is back
            self._last_failure = None
            try:
                self._try(credentials, for_signature=for_signature)
            except PinError as error:  # that a card was pulled out each learns by itself: it may be back
                self._last_failure = _again(error)
                raise
            self._refused.clear()

    def for_operation(self, session: int, entry: str | OnPad) -> None:
        """Log in once more for the operation just begun, on a key that asks each time.

        Args:
            session: the session of the operation.
            entry: as :meth:`ask` gave it.

        Raises:
            PinError: the token refused.
            TokenAuthError: whatever else it answers.
        """
        try:
            failed = self._enter(session, entry, "operation")
        finally:
            del entry
        if failed:
            raise self._error(failed)

    def forget_entry(self) -> None:
        """The PIN just entered is not needed a second time."""
        self._action.entry = None

    def ask(self, credentials: Credentials, *, per_signature: bool = False) -> str | OnPad:
        """Get a PIN that may be sent to the token, or leave to have it entered on its pad.

        Raises:
            PinRequired: nobody gives one.
            PinRefused: the token refused this one before, or it would spend the last try.
            PinLocked: the token is locked.
        """
        token = self._token
        state = self._tries(credentials)
        entry, self._action.entry = self._action.entry, None
        if entry is not None and per_signature:
            return entry
        del entry
        if credentials.source is None:
            raise PinRequired(
                "a PIN is needed to use its key, and none was given", token=token.label, hint=_pad_hint(token)
            )
        request = PinRequest(
            token.label,
            token.info.serial,
            credentials.reason,
            state,
            per_signature=per_signature,
            pin_pad=token.pin_pad,
        )
        pin = self._asked(credentials, request)
        if isinstance(pin, OnPad):
            if not token.pin_pad:
                raise PinRequired("it has no pad, but the PIN source says to enter the PIN there", token=token.label)
            return pin
        if not pin:
            raise PinRequired(
                "a PIN is needed to use its key, and the PIN source gave none",
                token=token.label,
                hint=_pad_hint(token),
            )
        if _mark(pin) in self._refused:
            del pin  # whoever prints this frame's variables with the traceback must not print it
            raise PinRefused(
                "it refused this PIN before, so it is not sent again", token=token.label, hint="give another PIN"
            )
        return pin

    def _tries(self, credentials: Credentials) -> Literal["ok", "low", "final"]:
        """What the token says of the PIN's tries now, if one may be spent.

        Raises:
            PinRefused, PinLocked: as :meth:`ask`.
        """
        token = self._token
        token.refresh()
        state = token.pin_state
        if state == "locked":
            raise PinLocked("the PIN is locked", token=token.label)
        if state == "final" and not credentials.allow_final_try:
            raise PinRefused(
                "only one PIN try is left, and it is not spent unasked",
                token=token.label,
                hint="if you are sure of the PIN, say --allow-final-try or allow_final_try=True",
            )
        return state

    def _asked(self, credentials: Credentials, request: PinRequest) -> str | OnPad | None:
        """What the source answers. If it remembers it, and the login is to be forgotten, both go together."""
        source = credentials.source
        assert source is not None  # noqa: S101 - seen by the caller
        forget = getattr(source, "forget", None)
        if credentials.forget_after is not None and forget is not None and forget not in self._forgetful:
            self._forgetful.append(forget)
        return source(request)

    def _try(self, credentials: Credentials, *, for_signature: bool) -> None:
        entry = self.ask(credentials)
        generation = self._token.generation
        try:
            with self._token.session("logging in", generation) as session:
                failed = self._enter(session, entry, "user")
            if for_signature and not failed and isinstance(entry, str):
                self._action.entry = entry
        finally:
            del entry
        if failed and failed != "CKR_USER_ALREADY_LOGGED_IN":
            raise self._error(failed)
        self._generation = generation

    def _enter(self, session: int, entry: str | OnPad, user: str) -> str:
        """Send a PIN, once, or have it entered; what the token answered if not ``CKR_OK``."""
        if isinstance(entry, OnPad):
            return self._enter_on_pad(session, entry, user)
        try:
            self._token.cryptoki.login(session, entry, user)
        except ReturnValue as error:
            if error.name.startswith("CKR_PIN_") or error.name in _ILL_FORMED:
                self._refused.add(_mark(entry))
            return error.name
        finally:
            del entry
        return ""

    def _enter_on_pad(self, session: int, entry: OnPad, user: str) -> str:
        """Let the reader ask, for one after the other.

        Nobody knows which PIN was entered there, so none can be remembered as refused. But who was waiting when an
        entry failed shares that failure: the next try is for a person to begin.
        """
        with self._pad:
            if self._action.pad_failures != self._pad_failures:
                self._action.pad_failures = self._pad_failures
                return self._pad_failure
            if entry.notice is not None:
                entry.notice()
            try:
                self._token.cryptoki.login(session, None, user)
            except ReturnValue as error:
                if isinstance(error_for(error.name, ""), PinError | SigningFailed):  # else it left, or the like
                    self._pad_failures += 1
                    self._pad_failure = error.name
                return error.name
        return ""

    def _error(self, name: str) -> TokenAuthError:
        token = self._token
        if name in GONE or (name in CONFUSED and not token.settle_down()):
            token.resettle(None)  # ykcs11 believes for as long as a session is open what it read from a leaving card
            return TokenRemoved("it was removed during the login", token=token.label, ckr=name)
        if name in _ILL_FORMED:
            return PinIncorrect("the PIN has a form that it does not allow", token=token.label, ckr=name)
        error = error_for(name, "logging in", token.label)
        try:
            token.refresh()
            if token.pin_state == "locked" and not isinstance(error, PinLocked | ModuleError):
                return PinLocked("the PIN is wrong, and that locked it", token=token.label, ckr=name)
        except TokenRemoved as removed:  # some modules say nothing clearer at the login itself
            return removed
        except TokenAuthError:
            pass  # its state is not known: the worst is assumed
        if isinstance(error, SigningFailed):
            # The token may have counted this as a try, so it must not be taken for a failure to be tried again.
            return PinError(error.message, hint=error.hint, token=error.token, ckr=name)
        return error


def _pad_hint(token: Token) -> str:
    """What to do where no PIN was given; empty for what is usual."""
    pad = "let it be entered on the reader's pad with --pin-source pad, or pin=tokenauth.pin.PinPad() in Python"
    return pad if token.pin_pad else ""


def _mark(pin: str) -> bytes:
    return hashlib.blake2b(pin.encode("utf-8", "surrogatepass"), key=_hash_key).digest()


def _again(error: TokenAuthError) -> TokenAuthError:
    """The same error for another thread: an exception object collects the tracebacks of all who raise it."""
    return type(error)(error.message, hint=error.hint, token=error.token, ckr=error.ckr)
