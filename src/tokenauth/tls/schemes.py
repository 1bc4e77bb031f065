"""The signatures that TLS knows, and which of them a token can make.

A token that makes only some of them (no PSS, one hash) must not be asked for the others: OpenSSL takes the first one
that it and the server know, and TLS 1.3 takes nothing but PSS from an RSA key (RFC 8446 section 4.2.3). So a context
is told beforehand.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from tokenauth._records import Record
from tokenauth.pkcs11.mechanisms import SignatureScheme
from tokenauth.tls.openssl import handshake

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tokenauth.pkcs11.mechanisms import KeyShape

__all__ = ["SCHEMES", "Limiter", "TLSScheme", "schemes_of"]

_BEYOND_1_2 = frozenset({ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.MAXIMUM_SUPPORTED})


class TLSScheme(Record):
    """A signature scheme of TLS.

    Args:
        name: as OpenSSL spells it in lists of them.
        key: the type of key.
        scheme: what the token has to make.
        bits: the only size of curve that it goes with in TLS 1.3; 0 for any.
        modern: TLS 1.3 has it.
    """

    name: str
    key: str
    scheme: SignatureScheme
    bits: int = 0
    modern: bool = True


#: By their numbers in TLS. Those of TLS 1.2 alone are a hash's number and a signature's (RFC 5246 section 7.4.1.4.1).
SCHEMES = {
    0x0403: TLSScheme("ecdsa_secp256r1_sha256", "ec", SignatureScheme("ecdsa", "sha256"), bits=256),
    0x0503: TLSScheme("ecdsa_secp384r1_sha384", "ec", SignatureScheme("ecdsa", "sha384"), bits=384),
    0x0603: TLSScheme("ecdsa_secp521r1_sha512", "ec", SignatureScheme("ecdsa", "sha512"), bits=521),
    0x0807: TLSScheme("ed25519", "ed25519", SignatureScheme("eddsa", "")),
    0x0804: TLSScheme("rsa_pss_rsae_sha256", "rsa", SignatureScheme("pss", "sha256")),
    0x0805: TLSScheme("rsa_pss_rsae_sha384", "rsa", SignatureScheme("pss", "sha384")),
    0x0806: TLSScheme("rsa_pss_rsae_sha512", "rsa", SignatureScheme("pss", "sha512")),
    0x0401: TLSScheme("RSA+SHA256", "rsa", SignatureScheme("pkcs1", "sha256"), modern=False),
    0x0501: TLSScheme("RSA+SHA384", "rsa", SignatureScheme("pkcs1", "sha384"), modern=False),
    0x0601: TLSScheme("RSA+SHA512", "rsa", SignatureScheme("pkcs1", "sha512"), modern=False),
    0x0303: TLSScheme("ECDSA+SHA224", "ec", SignatureScheme("ecdsa", "sha224"), modern=False),
    0x0301: TLSScheme("RSA+SHA224", "rsa", SignatureScheme("pkcs1", "sha224"), modern=False),
    0x0203: TLSScheme("ECDSA+SHA1", "ec", SignatureScheme("ecdsa", "sha1"), modern=False),
    0x0201: TLSScheme("RSA+SHA1", "rsa", SignatureScheme("pkcs1", "sha1"), modern=False),
}


def schemes_of(key: KeyShape, *, modern: bool) -> frozenset[int]:
    """The schemes of a kind of key.

    Args:
        key: its type and size.
        modern: in TLS 1.3; else in TLS 1.2, where a curve goes with any hash.
    """
    return frozenset(
        number
        for number, known in SCHEMES.items()
        if known.key == key.type and (not modern or (known.modern and known.bits in {0, key.bits}))
    )


class Limiter:
    """Keeps a context to what its tokens can sign.

    Args:
        context: whose highest version of TLS, and own signatures, are limited.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._uncapped: ssl.TLSVersion | None = None  # what was allowed before it was capped
        self._limited = False

    def limit(self, keys: Iterable[tuple[KeyShape, frozenset[int]]]) -> None:
        """Limit the context, or lift the limits, before its next connection.

        Args:
            keys: each key that may be used, and the schemes that its token makes with it.
        """
        known = list(keys)
        able = frozenset[int]().union(*(schemes for _, schemes in known))
        poor = any(schemes_of(key, modern=False) - schemes for key, schemes in known)
        if poor or self._limited:
            every = [scheme.name for scheme in SCHEMES.values()]
            own = [scheme.name for number, scheme in SCHEMES.items() if number in able] if poor else every
            handshake.limit_own_schemes(self._context, own, every)
            self._limited = poor
        self._cap(needed=poor and not any(schemes_of(key, modern=True) & schemes for key, schemes in known))

    def _cap(self, *, needed: bool) -> None:
        """Let the context speak TLS 1.2 at most, or what it spoke before.

        Who allows TLS 1.3 only has decided: the token may be able to do what it does not list.
        """
        context = self._context
        if needed and self._uncapped is None and context.minimum_version < ssl.TLSVersion.TLSv1_3:
            if context.maximum_version in _BEYOND_1_2:
                self._uncapped = context.maximum_version
                context.maximum_version = ssl.TLSVersion.TLSv1_2
        elif not needed and self._uncapped is not None:
            if context.maximum_version == ssl.TLSVersion.TLSv1_2:
                context.maximum_version = self._uncapped
            self._uncapped = None
