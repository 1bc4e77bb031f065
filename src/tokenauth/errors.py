"""One tree of errors. Each says what happened, to which token, and the next thing to do.

A PIN is never part of any of them.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "AmbiguousIdentity",
    "HandshakeFailed",
    "IdentityNotFound",
    "InvalidURI",
    "LevelNotReached",
    "MechanismUnsupported",
    "ModuleError",
    "PinError",
    "PinIncorrect",
    "PinLocked",
    "PinRefused",
    "PinRequired",
    "ReadersUnavailable",
    "SigningFailed",
    "TokenAuthError",
    "TokenNotFound",
    "TokenRemoved",
    "UnsupportedOpenSSL",
]


class TokenAuthError(Exception):
    """Whatever keeps a token's key from being used.

    Args:
        message: what happened, in one sentence without a full stop.
        hint: the next thing to do, or an empty string.
        token: the label of the token it happened to, if one is known.
        ckr: the PKCS#11 return value's name, such as ``CKR_PIN_INCORRECT``, if a token gave one.
    """

    #: What to do when the place that raised the error knows nothing better.
    default_hint = ""

    def __init__(self, message: str, *, hint: str = "", token: str = "", ckr: str = "") -> None:
        self.message = message
        self.hint = hint or self.default_hint
        self.token = token
        self.ckr = ckr
        super().__init__(self._text())

    def _text(self) -> str:
        parts = [f"token {self.token!r}: {self.message}" if self.token else self.message]
        if self.ckr:
            parts.append(f" ({self.ckr})")
        if self.hint:
            parts.append(f"; {self.hint}")
        return "".join(parts)


class InvalidURI(TokenAuthError, ValueError):
    """A ``pkcs11:`` URI that RFC 7512 does not allow. Its text never shows a ``pin-value``."""


class ModuleError(TokenAuthError):
    """A PKCS#11 module is missing, is no PKCS#11 module, or failed as a whole."""

    default_hint = "run 'tokenauth doctor' to see which modules are found and why one does not load"


class ReadersUnavailable(TokenAuthError):
    """The readers can not be looked at through PC/SC; all that needs only a PKCS#11 module works without.

    Args:
        message: what happened.
        reason: ``pyscard``: it is not installed; ``service``: PC/SC does not run, or fails; ``permission``: it refuses
            this user; ``reader``: there is none.
    """

    def __init__(self, message: str, *, reason: str, hint: str = "") -> None:
        self.reason = reason
        super().__init__(message, hint=hint)


class TokenNotFound(TokenAuthError):
    """No token matches."""

    default_hint = "run 'tokenauth list' to see the tokens that are there"


class IdentityNotFound(TokenAuthError):
    """Tokens are there, but no identity (certificate with its key) on them matches or is fit for the purpose."""

    default_hint = "run 'tokenauth list' to see the identities and what is wrong with them"


class AmbiguousIdentity(TokenAuthError):
    """Several identities would do and nothing says which one to use.

    Args:
        message: what was looked for.
        candidates: the ``pkcs11:`` URIs of the identities that would do; each alone selects one.
    """

    def __init__(self, message: str, candidates: Sequence[str]) -> None:
        self.candidates = tuple(candidates)
        super().__init__(message, hint="name one of: " + " ".join(self.candidates))


class PinError(TokenAuthError):
    """What the PIN errors have in common."""


class PinRequired(PinError):
    """The key needs a login and nothing gave a PIN."""

    default_hint = "give a PIN with pin=..., --pin-source, TOKENAUTH_PIN_SOURCE or the URI's pin-source"


class PinIncorrect(PinError):
    """The token refused the PIN. It is not sent again."""

    default_hint = "check the PIN; each wrong try brings the token nearer to locking it"


class PinRefused(PinError):
    """tokenauth did not send the PIN: it would spend the last try, or the token refused the same PIN before."""


class PinLocked(PinError):
    """The token has locked its PIN."""

    default_hint = "unblock it with the PUK or the security officer's PIN"


class TokenRemoved(TokenAuthError):
    """The token left while it was in use."""

    default_hint = "insert it again and retry"


class MechanismUnsupported(TokenAuthError):
    """The token cannot make the kind of signature that is asked for."""


class SigningFailed(TokenAuthError):
    """The token failed to sign."""


class LevelNotReached(TokenAuthError):
    """A signature can not reach the level that is asked for: a time stamp or revocation data can not be had."""

    default_hint = "try again later, or ask for a lower level"


class UnsupportedOpenSSL(TokenAuthError):
    """This Python's OpenSSL cannot take a key that lives in a token."""


class HandshakeFailed(TokenAuthError, ssl.SSLError):
    """A TLS handshake failed; ``__cause__`` is the token's error or OpenSSL's own.

    It is also an :class:`ssl.SSLError`, so that HTTP clients treat it as one and show its text.
    """

    def __init__(self, message: str, *, hint: str = "", token: str = "", ckr: str = "") -> None:
        super().__init__(message, hint=hint, token=token, ckr=ckr)
        self.strerror = self._text()

    def __str__(self) -> str:
        return self._text()
