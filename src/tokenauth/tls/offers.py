"""An identity made ready for OpenSSL: certificate, chain and key as its objects."""

from __future__ import annotations

import ctypes
import weakref
from ctypes import byref, c_size_t, c_void_p
from functools import cached_property
from typing import TYPE_CHECKING

from tokenauth.errors import IdentityNotFound
from tokenauth.identity.certificates import walk_chain
from tokenauth.pkcs11.keys import ecdsa_der
from tokenauth.pkcs11.mechanisms import KeyShape, SignatureScheme
from tokenauth.tls.openssl import openssl
from tokenauth.tls.provider import TokenPKey

if TYPE_CHECKING:
    from tokenauth.identity.identity import Identity
    from tokenauth.pkcs11.keys import TokenKey
    from tokenauth.pkcs11.tokens import Credentials
    from tokenauth.tls.provider import Signer

__all__ = ["Certificate", "Offer", "name_der"]

#: The names under which OpenSSL knows the kinds of keys.
_KEY_TYPES = {b"RSA": "rsa", b"EC": "ec", b"ED25519": "ed25519"}
_KU_DIGITAL_SIGNATURE = 0x80  # openssl/x509v3.h
_PURPOSES = {"tls-client": 1, "tls-server": 2}  # X509_PURPOSE_SSL_CLIENT, X509_PURPOSE_SSL_SERVER


def name_der(name: int) -> bytes:
    """The DER of an ``X509_NAME``."""
    der, size = c_void_p(), c_size_t()
    openssl().X509_NAME_get0_der(name, byref(der), byref(size))
    return ctypes.string_at(der, size.value) if der else b""


class Certificate:
    """An ``X509``.

    Args:
        der: the certificate.

    Raises:
        ValueError: it is none.
    """

    def __init__(self, der: bytes) -> None:
        lib = openssl()
        position = c_void_p(ctypes.cast(ctypes.c_char_p(der), c_void_p).value)
        address = lib.d2i_X509(None, byref(position), len(der))
        if not address:
            raise ValueError(lib.errors())
        self.address: int = address
        weakref.finalize(self, lib.X509_free, address).atexit = False

    @property
    def public_key(self) -> int:
        """The ``EVP_PKEY`` of its public key; 0 if OpenSSL can not read that."""
        return openssl().X509_get0_pubkey(self.address) or 0

    @property
    def issuer(self) -> bytes:
        """The issuer's name, DER."""
        return name_der(openssl().X509_get_issuer_name(self.address))

    def issued_by(self, issuer: Certificate) -> bool:
        """Whether the issuer's name and signature are on it."""
        lib = openssl()
        if lib.X509_check_issued(issuer.address, self.address) == 0 and issuer.public_key:
            verified: bool = lib.X509_verify(self.address, issuer.public_key) == 1
            lib.ERR_clear_error()
            return verified
        return False

    def valid_now(self) -> bool:
        """Whether the time is within its dates."""
        lib = openssl()
        begin, end = lib.X509_get0_notBefore(self.address), lib.X509_get0_notAfter(self.address)
        return bool(lib.X509_cmp_current_time(begin) < 0 < lib.X509_cmp_current_time(end))

    def allows(self, purpose: str) -> bool:
        """Whether its extensions allow ``tls-client`` or ``tls-server`` with digital signatures."""
        lib = openssl()
        usage = lib.X509_get_key_usage(self.address)
        return bool(usage & _KU_DIGITAL_SIGNATURE and lib.X509_check_purpose(self.address, _PURPOSES[purpose], 0) == 1)


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
        lib = openssl()
        self.identity = identity
        self.certificate = self._read(identity)
        public = self.certificate.public_key
        kind = next((ours for name, ours in _KEY_TYPES.items() if public and lib.EVP_PKEY_is_a(public, name)), "")
        if not kind:
            raise IdentityNotFound(
                f"certificate {identity.label!r} has a key that is neither RSA, EC nor Ed25519",
                token=identity.token.label,
            )
        self.key = identity.token_key(KeyShape(kind, lib.EVP_PKEY_get_bits(public)), credentials)
        self.pkey = TokenPKey(public, _signer(self.key))

    @staticmethod
    def _read(identity: Identity) -> Certificate:
        try:
            return Certificate(identity.certificate_der)
        except ValueError as error:
            raise IdentityNotFound(
                f"certificate {identity.label!r} can not be read: {error}",
                token=identity.token.label,
                hint="write the certificate to the token again, or name another identity",
            ) from None

    @cached_property
    def chain(self) -> list[Certificate]:
        """The issuers that are on the token, nearest first; each signature was checked."""
        others = []
        for der in self.identity.neighbours:
            try:
                others.append(Certificate(der))
            except ValueError:
                continue
        return list(walk_chain(self.certificate, others, Certificate.issued_by))

    @cached_property
    def issuers(self) -> frozenset[bytes]:
        """The names, DER, of all that issued the certificate or a certificate of its chain."""
        return frozenset(certificate.issuer for certificate in (self.certificate, *self.chain))

    @cached_property
    def stack(self) -> int:
        """The chain as a ``STACK_OF(X509)`` without a self-signed end, which the peer has or does not trust."""
        lib = openssl()
        stack: int = lib.OPENSSL_sk_new_null()
        weakref.finalize(self, lib.OPENSSL_sk_free, stack).atexit = False
        for certificate in self.chain:
            if not certificate.issued_by(certificate):
                lib.OPENSSL_sk_push(stack, certificate.address)
        return stack


def _signer(key: TokenKey) -> Signer:
    def sign(scheme: SignatureScheme, message: bytes) -> bytes:
        signature = key.sign(scheme, message)
        return ecdsa_der(signature) if scheme.padding == "ecdsa" else signature

    return sign
