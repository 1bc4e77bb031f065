"""A private key in a token, and how it signs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeVar

from tokenauth._records import Record
from tokenauth.errors import IdentityNotFound, MechanismUnsupported, SigningFailed, TokenAuthError
from tokenauth.pkcs11.gate import renew_after_fork
from tokenauth.pkcs11.mechanisms import KeyShape, Payload, SignatureScheme, Way, lists, ways
from tokenauth.pkcs11.objects import KeyObject, carries, find_private_keys
from tokenauth.pkcs11.recovery import twice
from tokenauth.pkcs11.returnvalues import NOT_LOGGED_IN, ReturnValue, error_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenauth.pkcs11.tokens import Credentials, Token

__all__ = ["KeyReference", "TokenKey", "ecdsa_der"]

_T = TypeVar("_T")

#: What a token answers at ``C_SignInit`` when another way to the same signature may still work.
_TRY_ANOTHER_WAY = {"CKR_MECHANISM_INVALID", "CKR_MECHANISM_PARAM_INVALID"}


#: By whether only a digest was given: what may help when no mechanism leads to a signature.
_NO_WAY_HINTS = {
    False: "choose another key, or let the server offer other signature algorithms",
    True: "give the message and not its digest if the token hashes by itself, or choose another key",
}


class KeyReference(Record):
    """Which private key is meant; what is empty is not known and not compared.

    Args:
        id: ``CKA_ID``.
        label: ``CKA_LABEL``.
        certificate: DER of the certificate that is for it.
    """

    id: bytes = b""
    label: str = ""
    certificate: bytes = b""


class TokenKey:
    """A private key in a token, found again by its reference whenever that is needed.

    Args:
        token: where it is.
        reference: which one.
        shape: its type and size.
        credentials: for the login, which happens at the first signature.
    """

    def __init__(self, token: Token, reference: KeyReference, shape: KeyShape, credentials: Credentials) -> None:
        self.token = token
        self.reference = reference
        self.shape = shape
        self.credentials = credentials
        self._found: Any = (None, None)
        self._needs_login = False  # whatever the key and the token say of themselves
        self._lock = threading.Lock()
        renew_after_fork(self)
        self._ways: dict[SignatureScheme, Way] = {}  # what worked, so that the token is not asked again

    def after_fork(self) -> None:
        """In the child of a fork: whoever held the lock is not there any more."""
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<TokenKey {self.reference.label!r} ({self.shape.type}) on {self.token.label!r}>"

    def sign(self, scheme: SignatureScheme, message: bytes | None = None, *, digest: bytes | None = None) -> bytes:
        """Sign in the token; logs in first if the key needs it.

        Args:
            scheme: the kind of signature.
            message: what is to be signed, or None if only its digest is known.
            digest: the message's digest, if it is known.

        Returns:
            The signature as the token gives it: for ECDSA ``r || s``, see :func:`ecdsa_der`.

        Raises:
            PinError: the login failed.
            MechanismUnsupported: the token does not make such signatures.
            IdentityNotFound: the key is not there, or does not belong to the certificate.
            TokenAuthError: whatever else the token answers.
        """
        payload = Payload(message, digest)
        with self.token.login_state.in_use(self.credentials.forget_after):
            return self._twice(lambda: self._sign(scheme, payload, *self._prepare("")))

    def _twice(self, attempt: Callable[[], _T]) -> _T:
        """Try once more if the token was lost meanwhile and is there again.

        A token that asks for a login that it, or the key, said was not needed gets one at the second try.
        """

        def attempted() -> _T:
            try:
                return attempt()
            except TokenAuthError as error:
                self._needs_login = self._needs_login or error.ckr == NOT_LOGGED_IN
                raise

        return twice(self.token, attempted)

    def _sign(self, scheme: SignatureScheme, payload: Payload, generation: int, key: KeyObject) -> bytes:
        known = self._ways.get(scheme)
        candidates = [known] if known and not (known.needs_message and payload.message is None) else None
        for way in candidates or ways(scheme, self.shape, self.token.mechanisms(), payload):
            prepared = way.prepare(scheme, self.shape, payload)
            pin = self.token.login_state.ask(self.credentials, per_signature=True) if key.always_authenticate else None
            try:
                signature = self.token.sign(way.mechanism, key.handle, generation, prepared, pin)
            except ReturnValue as refusal:
                if refusal.name in _TRY_ANOTHER_WAY:
                    continue
                raise error_for(refusal.name, "signing", self.token.label) from refusal
            finally:
                del pin
            self._ways[scheme] = way
            return signature
        wanted = f"{scheme.padding.upper()} signatures" + (f" with {scheme.digest.upper()}" if scheme.digest else "")
        raise MechanismUnsupported(
            f"it makes no {wanted} with this {self.shape.type.upper()} key of {self.shape.bits} bits",
            token=self.token.label,
            hint=_NO_WAY_HINTS[payload.message is None],
        )

    def lists(self, scheme: SignatureScheme) -> bool:
        """Whether the token says that it makes such signatures with this key; it may do what it does not list.

        Raises:
            TokenAuthError: it does not answer.
        """
        return lists(scheme, self.shape, self.token.mechanisms())

    @property
    def ready(self) -> bool:
        """Whether the key was found and logged in to, and nothing was lost since."""
        generation: int | None = self._found[0]
        return generation == self.token.generation

    def prepare(self, reason: str = "") -> KeyObject:
        """Find the key, and log in if it does not show or asks for that; nothing happens the second time.

        Args:
            reason: what the login is for, if there is more to say than the credentials do.

        Raises:
            PinError: the login failed.
            IdentityNotFound: the key is not there, or does not belong to the certificate.
            TokenAuthError: whatever else the token answers.
        """
        with self.token.login_state.in_use(self.credentials.forget_after):
            return self._twice(lambda: self._prepare(reason)[1])

    def _prepare(self, reason: str) -> tuple[int, KeyObject]:
        """The key, and the token's generation in which it was found."""
        if not self.ready:
            with self._lock:
                if not self.ready:
                    generation = self.token.generation
                    self._found = (generation, self._find(reason, generation))
        found: tuple[int, KeyObject] = self._found
        return found

    def _find(self, reason: str, generation: int) -> KeyObject:
        """All in one generation of the token: the login of one says nothing of what shows in another."""
        key = self._look(generation)
        if key is None or key.private or self._needs_login:
            credentials = self.credentials._replace(reason=reason) if reason else self.credentials
            self.token.login(credentials, for_signature=True)
            key = self._look(generation)
            if key is None:
                self.token.check_login(generation)
        if key is None or not key.always_authenticate:
            self.token.login_state.forget_entry()
        return self._checked(key)

    def _look(self, generation: int) -> KeyObject | None:
        return matching_key(self.reference, find_private_keys(self.token, generation))

    def _checked(self, key: KeyObject | None) -> KeyObject:
        if key is None:
            raise IdentityNotFound("the certificate's private key is not on it", token=self.token.label)
        if key.public and self.reference.certificate and not carries(self.reference.certificate, key.public):
            raise IdentityNotFound(
                "the private key stored under the certificate's CKA_ID is another certificate's",
                token=self.token.label,
                hint="import the certificate again under the CKA_ID of its own key",
            )
        if not key.signs:
            raise SigningFailed(
                "the key may not sign (CKA_SIGN is false)", token=self.token.label, hint="choose another key"
            )
        return key


def matching_key(reference: KeyReference, keys: tuple[KeyObject, ...]) -> KeyObject | None:
    """The key that belongs to a reference: by ``CKA_ID``, then by label, then by the public half.

    Of several with the same ``CKA_ID`` or label the one that the certificate is for is taken.
    """

    def for_certificate(key: KeyObject) -> bool:
        return bool(key.public and reference.certificate and carries(reference.certificate, key.public))

    by_id = [key for key in keys if reference.id and key.id == reference.id]
    by_label = [key for key in keys if reference.label and key.label == reference.label]
    for group in (by_id, by_label):
        if group:
            return max(group, key=lambda key: (for_certificate(key), key.label == reference.label))
    return next(filter(for_certificate, keys), None)


def ecdsa_der(raw: bytes) -> bytes:
    """ECDSA-Sig-Value in DER (RFC 3279 section 2.2.3) for ``r || s``, two numbers of the same length.

    Args:
        raw: at most 132 bytes (P-521).
    """
    half = len(raw) // 2
    numbers = b"".join(map(_der_integer, (raw[:half], raw[half:])))
    length = bytes([len(numbers)]) if len(numbers) < 0x80 else bytes([0x81, len(numbers)])
    return b"\x30" + length + numbers


def _der_integer(big_endian: bytes) -> bytes:
    digits = big_endian.lstrip(b"\0") or b"\0"
    if digits[0] & 0x80:
        digits = b"\0" + digits
    return bytes([0x02, len(digits)]) + digits
