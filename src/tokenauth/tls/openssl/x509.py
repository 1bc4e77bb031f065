"""Certificates as OpenSSL knows them, and what TLS must know of them."""

from __future__ import annotations

import ctypes
import weakref
from ctypes import byref, c_size_t, c_void_p

from tokenauth.tls.openssl.library import openssl

__all__ = ["Certificate", "Stack", "name_der"]

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
    def key_type(self) -> str:
        """``rsa``, ``ec`` or ``ed25519``; empty for any other key."""
        lib, public = openssl(), self.public_key
        return next((ours for name, ours in _KEY_TYPES.items() if public and lib.EVP_PKEY_is_a(public, name)), "")

    @property
    def key_bits(self) -> int:
        """Bits of the modulus, or of the curve's order."""
        return int(openssl().EVP_PKEY_get_bits(self.public_key))

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


class Stack:
    """A ``STACK_OF(X509)``.

    Args:
        certificates: what is on it; kept.
    """

    def __init__(self, certificates: list[Certificate]) -> None:
        lib = openssl()
        self._certificates = certificates
        self.address: int = lib.OPENSSL_sk_new_null()
        weakref.finalize(self, lib.OPENSSL_sk_free, self.address).atexit = False
        for certificate in certificates:
            lib.OPENSSL_sk_push(self.address, certificate.address)
