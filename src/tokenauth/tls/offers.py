"""An identity made ready for OpenSSL: certificate, chain and key as its objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenauth._lazy import lazy_property
from tokenauth.errors import IdentityNotFound
from tokenauth.inventory.certificates import walk_chain
from tokenauth.pkcs11.keys import ecdsa_der
from tokenauth.pkcs11.mechanisms import KeyShape, SignatureScheme
from tokenauth.tls.openssl.provider import TokenPKey
from tokenauth.tls.openssl.x509 import Certificate, Stack
from tokenauth.tls.schemes import SCHEMES, schemes_of

if TYPE_CHECKING:
    from tokenauth.inventory.identity import Identity
    from tokenauth.pkcs11.keys import TokenKey
    from tokenauth.pkcs11.tokens import Credentials
    from tokenauth.tls.openssl.key_types import Signer

__all__ = ["Offer"]


class Offer:
    """An identity as OpenSSL takes it; lives as long as the contexts that may use it.

    Args:
        identity: the identity.
        credentials: for the login of its key.

    Attributes:
        identity: the identity.
        key: its key in the token.

    Raises:
        IdentityNotFound: its certificate can not be read.
        UnsupportedOpenSSL: OpenSSL does not take its key.
    """

    def __init__(self, identity: Identity, credentials: Credentials) -> None:
        self.identity = identity
        self.certificate = self._read(identity)
        kind = self.certificate.key_type
        if not kind:
            raise IdentityNotFound(
                f"certificate {identity.label!r} has a key that is neither RSA, EC nor Ed25519",
                token=identity.token.label,
            )
        self.key = identity.token_key(KeyShape(kind, self.certificate.key_bits), credentials)
        self.pkey = TokenPKey(self.certificate.public_key, _signer(self.key))

    @staticmethod
    def _read(identity: Identity) -> Certificate:
        try:
            return Certificate(identity.certificate_der)
        except ValueError as error:
            raise identity.unreadable(error) from None

    @lazy_property
    def chain(self) -> list[Certificate]:
        """The issuers that are on the token, nearest first; each signature was checked."""
        others = []
        for der in self.identity.neighbours:
            try:
                others.append(Certificate(der))
            except ValueError:
                continue
        return list(walk_chain(self.certificate, others, Certificate.issued_by))

    @lazy_property
    def issuers(self) -> frozenset[bytes]:
        """The names, DER, of all that issued the certificate or a certificate of its chain."""
        return frozenset(certificate.issuer for certificate in (self.certificate, *self.chain))

    @lazy_property
    def schemes(self) -> frozenset[int]:
        """The numbers of the TLS signature schemes that the token makes with the key; all if it lists none."""
        every = schemes_of(self.key.shape, modern=False)
        return frozenset(number for number in every if self.key.lists(SCHEMES[number].scheme)) or every

    @lazy_property
    def stack(self) -> Stack:
        """The chain without a self-signed end, which the peer has or does not trust."""
        return Stack([certificate for certificate in self.chain if not certificate.issued_by(certificate)])


def _signer(key: TokenKey) -> Signer:
    def sign(scheme: SignatureScheme, message: bytes) -> bytes:
        signature = key.sign(scheme, message)
        return ecdsa_der(signature) if scheme.padding == "ecdsa" else signature

    return sign
