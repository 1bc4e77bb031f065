"""The login on one token: a PIN is precious, so this is the one place that sends any."""

from __future__ import annotations

import hashlib
import os
import threading
from typing import TYPE_CHECKING

from tokenauth._records import Record
from tokenauth.errors import (
    ModuleError,
    PinError,
    PinLocked,
    PinRefused,
    PinRequired,
    SigningFailed,
    TokenAuthError,
    TokenRemoved,
)
from tokenauth.pin import PinRequest
from tokenauth.pkcs11.gate import renew_after_fork
from tokenauth.pkcs11.returnvalues import GONE, ReturnValue, error_for

if TYPE_CHECKING:
    from tokenauth.pin import PinSource
    from tokenauth.pkcs11.tokens import Token

__all__ = ["Credentials", "Login"]

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
        renew_after_fork(self)

    @property
    def done(self) -> bool:
        """This process has logged in, and the token has not begun anew since, which ends a login."""
        return self._generation == self._token.generation

    def forget(self) -> None:
        """The login is over."""
        self._generation = None

    def after_fork(self) -> None:
        """In the child of a fork: whoever held the lock is not there any more."""
        self._lock = threading.Lock()
        self.forget()

    def ensure(self, credentials: Credentials) -> None:
        """Log in, unless that was done; see :meth:`Token.login`."""
        attempts = self._attempts
        with self._lock:
            if self.done:
                return
            if self._attempts != attempts and self._last_failure is not None:
                # Somebody else tried while this thread waited: it shares the outcome and asks for nothing.
                raise _again(self._last_failure)
            self._attempts += 1
            self._last_failure = None
            try:
                self._try(credentials)
            except PinError as error:  # that a card was pulled out each learns by itself: it may be back
                self._last_failure = _again(error)
                raise
            self._refused.clear()

    def for_operation(self, session: int, pin: str | None) -> None:
        """Log in once more for the operation just begun, on a key that asks each time.

        Args:
            session: the session of the operation.
            pin: as :meth:`ask` gave it.

        Raises:
            ReturnValue: the token refused.
        """
        try:
            self._token.cryptoki.login(session, pin, "operation")
        except ReturnValue as error:
            if error.name.startswith("CKR_PIN_") and pin is not None:
                self._refused.add(_mark(pin))
            raise
        finally:
            del pin

    def ask(self, credentials: Credentials, *, per_signature: bool = False) -> str:
        """Get a PIN that may be sent to the token.

        Raises:
            PinRequired: nobody gives one.
            PinRefused: the token refused this one before, or it would spend the last try.
            PinLocked: the token is locked.
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
        if credentials.source is None:
            raise PinRequired("a PIN is needed to use its key, and none was given", token=token.label)
        request = PinRequest(token.label, token.info.serial, credentials.reason, state, per_signature=per_signature)
        pin = credentials.source(request)
        if not pin:
            raise PinRequired("a PIN is needed to use its key, and the PIN source gave none", token=token.label)
        if _mark(pin) in self._refused:
            del pin  # whoever prints this frame's variables with the traceback must not print it
            raise PinRefused(
                "it refused this PIN before, so it is not sent again", token=token.label, hint="give another PIN"
            )
        return pin

    def _try(self, credentials: Credentials) -> None:
        pin = self.ask(credentials)
        generation = self._token.generation
        try:
            failed = self._send(pin, generation)
        finally:
            del pin
        if failed and failed != "CKR_USER_ALREADY_LOGGED_IN":
            raise self._error(failed)
        self._generation = generation

    def _send(self, pin: str, generation: int) -> str:
        """Send a PIN, once; what the token answered if not ``CKR_OK``."""
        token, failed = self._token, ""
        mark = _mark(pin)
        with token.session("logging in", generation) as session:
            try:
                token.cryptoki.login(session, pin)
            except ReturnValue as error:
                failed = error.name
            finally:
                del pin
        if failed.startswith("CKR_PIN_"):
            self._refused.add(mark)
        return failed

    def _error(self, name: str) -> TokenAuthError:
        token = self._token
        if name in GONE:
            return TokenRemoved("it was removed during the login", token=token.label, ckr=name)
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


def _mark(pin: str) -> bytes:
    return hashlib.blake2b(pin.encode("utf-8", "surrogatepass"), key=_hash_key).digest()


def _again(error: TokenAuthError) -> TokenAuthError:
    """The same error for another thread: an exception object collects the tracebacks of all who raise it."""
    return type(error)(error.message, hint=error.hint, token=error.token, ckr=error.ckr)
