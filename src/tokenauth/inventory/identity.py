"""An identity: a certificate on a token, with its key and its chain."""

from __future__ import annotations

import datetime
import hashlib
from typing import TYPE_CHECKING, Any

from tokenauth._lazy import lazy_property
from tokenauth._records import Record
from tokenauth.errors import IdentityNotFound
from tokenauth.inventory import certificates
from tokenauth.pkcs11.keys import KeyReference, TokenKey
from tokenauth.pkcs11.objects import CertificateObject, KeyObject, carries
from tokenauth.uri import TokenInfo, TokenURI

if TYPE_CHECKING:
    from cryptography import x509

    from tokenauth.pkcs11.mechanisms import KeyShape
    from tokenauth.pkcs11.tokens import Credentials, Token

__all__ = ["FINGERPRINT", "Found", "Identity", "fingerprint"]

#: The vendor attribute (RFC 7512 section 2.3) that tells apart certificates of the same label and ``CKA_ID``. It stands
#: in the query, which programs that do not know it pass over; in the path they would have to find nothing.
FINGERPRINT = "x-sha256"
_FINGERPRINT_DIGITS = 16
#: How OpenSC's module and Yubico's call the maker of PIV cards, and the ``CKA_ID`` of what is in slot 9C with both:
#: the key for digital signatures, of which NIST SP 800-73-4 part 1 table 4b says "PIN Always".
_PIV = ("piv_II", "Yubico")
_PIV_SIGNATURE_KEY = b"\x02"


def fingerprint(certificate: bytes) -> bytes:
    """The value of that attribute: the first digits of the SHA-256 of the certificate's DER, in lower case."""
    return hashlib.sha256(certificate).hexdigest()[:_FINGERPRINT_DIGITS].encode()


class Found(Record):
    """What lies on a token and makes an identity.

    Args:
        token: where.
        certificate: the certificate's object.
        private_key: the private key's object, if it shows.
        public_key: the public key's object, if there is one.
        others: the token's other certificates, DER.
        has_double: label and ``CKA_ID`` are another certificate's as well.
    """

    token: Token
    certificate: CertificateObject
    private_key: KeyObject | None
    public_key: KeyObject | None
    others: tuple[bytes, ...]
    has_double: bool = False

    @property
    def key(self) -> KeyObject | None:
        """Whichever half shows."""
        return self.private_key or self.public_key


class Identity:
    """A certificate on a token, with its private key and its chain.

    Made by :func:`tokenauth.identity` and :func:`tokenauth.identities`. Looking at one never logs in; the first
    signature of :attr:`private_key` does.

    Attributes:
        label: the certificate's label, or the key's.
        id: the ``CKA_ID`` that certificate and key share.
    """

    def __init__(self, found: Found, credentials: Credentials) -> None:
        self._found = found
        self._credentials = credentials
        key = found.key
        self.label: str = found.certificate.label or (key.label if key else "")
        self.id: bytes = found.certificate.id or (key.id if key else b"")

    def __repr__(self) -> str:
        return f"<Identity {self.uri}>"

    @property
    def token(self) -> TokenInfo:
        """The token: ``label``, ``manufacturer``, ``model`` and ``serial``."""
        return self._found.token.info

    @property
    def module(self) -> str:
        """The path of the PKCS#11 module that shows it."""
        return self._found.token.module

    @property
    def certificate_der(self) -> bytes:
        """The certificate as it lies on the token."""
        return self._found.certificate.der

    @property
    def neighbours(self) -> tuple[bytes, ...]:
        """The token's other certificates, DER; the chain is among them."""
        return self._found.others

    @property
    def always_authenticate(self) -> bool | None:
        """Its key takes the PIN for each signature; None if that does not show, as for most keys before a login."""
        key = self._found.private_key
        return None if key is None else key.always_authenticate

    @lazy_property
    def uri(self) -> str:
        """The ``pkcs11:`` URI that selects this identity and no other."""
        info = self.token
        named: dict[str, Any] = {"token": info.label, "serial": info.serial}
        if not any(named.values()):
            named = {"manufacturer": info.manufacturer, "model": info.model, "slot_id": self._found.token.slot.id}
        named |= {"object": self.label, "id": self.id}
        if self._found.has_double:
            named["vendor_query"] = [(FINGERPRINT, fingerprint(self.certificate_der))]
        return str(TokenURI(**{name: value for name, value in named.items() if value not in ("", b"")}))

    @lazy_property
    def certificate(self) -> x509.Certificate:
        """The certificate.

        Raises:
            IdentityNotFound: what lies there is no certificate.
        """
        try:
            return certificates.parse(self.certificate_der)
        except ValueError as error:
            raise self.unreadable(error) from None

    def text_of(self, name: str) -> str:
        """The certificate's ``subject`` or ``issuer`` in words (RFC 4514), also if it can not be read."""
        try:
            words: str = getattr(self.certificate, name).rfc4514_string()
        except (IdentityNotFound, ValueError):
            return f"(the {name} can not be read)"
        return words

    def unreadable(self, reason: Exception) -> IdentityNotFound:
        """The error for a certificate that is none."""
        return IdentityNotFound(
            f"certificate {self.label!r} can not be read: {reason}",
            token=self.token.label,
            hint="write the certificate to the token again, or name another identity",
        )

    @lazy_property
    def chain(self) -> list[x509.Certificate]:
        """The certificate's issuers that are on the token, nearest first; each signature was checked."""
        return certificates.chain_of(self.certificate, self.neighbours)

    @lazy_property
    def private_key(self) -> Any:
        """The private key, as one of ``cryptography``'s; it signs through the token and never leaves it.

        Raises:
            IdentityNotFound: the certificate, or the public key in it, can not be read.
            MechanismUnsupported: the key is neither RSA, EC nor Ed25519.
        """
        from cryptography.exceptions import UnsupportedAlgorithm

        from tokenauth.pkcs11.private_keys import private_key, shape_of

        try:
            public_key = self.certificate.public_key()
        except (ValueError, UnsupportedAlgorithm) as error:
            raise self.unreadable(error) from None
        return private_key(self.token_key(shape_of(public_key)), public_key)

    def token_key(self, shape: KeyShape, credentials: Credentials | None = None) -> TokenKey:
        """The key as the PKCS#11 layer knows it.

        Args:
            shape: type and size of the certificate's public key.
            credentials: for its login, if not those that the identity was found with.
        """
        reference = KeyReference(self.id, self.label, self.certificate_der)
        return TokenKey(self._found.token, reference, shape, credentials or self._credentials)

    @property
    def credentials(self) -> Credentials:
        """For the login that the key may need."""
        return self._credentials

    @lazy_property
    def purposes(self) -> list[str]:
        """What the certificate allows: some of ``tls-client``, ``tls-server``, ``document``."""
        try:
            return certificates.purposes_of(self.certificate)
        except (IdentityNotFound, ValueError):
            return []

    @property
    def has_key(self) -> bool | None:
        """Whether the certificate's key is on the same token; None: that can not be seen before a login."""
        found, token = self._found, self._found.token
        if found.key is None:
            return None if token.login_required and not token.logged_in else False
        halves = [half.public for half in (found.private_key, found.public_key) if half is not None and half.public]
        return carries(self.certificate_der, halves[0]) if halves else True

    @property
    def asks_each_time(self) -> bool | None:
        """Whether its key wants the PIN for each signature; None: that can not be seen before a login.

        Of PIV cards it is known: their modules show no private key before a login, but the one in slot 9C does.
        """
        key = self._found.private_key
        if key is not None:
            return key.always_authenticate
        return True if self.id == _PIV_SIGNATURE_KEY and self.token.manufacturer.startswith(_PIV) else None

    @property
    def problems(self) -> list[str]:
        """What keeps the identity from being used, or should worry its owner; in words."""
        try:
            certificate = self.certificate
        except IdentityNotFound as error:
            return [error.message]
        return certificates.problems_of(certificate, datetime.datetime.now(datetime.UTC)) + self._key_problems()

    def _key_problems(self) -> list[str]:
        found, token = self._found, self._found.token
        if found.key is None:
            if token.logged_in:
                return ["its private key is not on the token"]
            return [] if token.login_required else ["its private key does not show on the token"]
        problems = []
        halves = [half.public for half in (found.private_key, found.public_key) if half is not None and half.public]
        if halves and not carries(self.certificate_der, halves[0]):
            problems.append("the key stored with it is another certificate's")
        if found.private_key is not None and found.private_key.extractable:
            problems.append("its private key can be copied out of the token")
        return problems
