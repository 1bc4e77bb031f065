"""Which hash and which padding go with a key, and the raw signature. The only place where documents meet a key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from tokenauth.errors import MechanismUnsupported

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography import x509

    from tokenauth.signing.model import SigningKey

__all__ = [
    "digest_for",
    "key_for",
    "key_type",
    "must_be_pss",
    "sign_message",
    "sign_prehashed",
    "signature_size",
    "verify_message",
]

_HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
#: A hash no weaker than the curve (ETSI TS 119 312 section 7).
_CURVE_DIGESTS = {384: "sha384", 521: "sha512", 512: "sha512"}
#: id-RSASSA-PSS: a certificate that has it for its key's algorithm allows no PKCS #1 v1.5 signatures (RFC 4055).
_RSASSA_PSS = "1.2.840.113549.1.1.10"
_ED25519_SIZE = 64


def key_type(certificate: x509.Certificate) -> str:
    """``rsa``, ``ec`` or ``ed25519``.

    Raises:
        MechanismUnsupported: the certificate is for another kind of key.
    """
    public_key = certificate.public_key()
    kinds = {rsa.RSAPublicKey: "rsa", ec.EllipticCurvePublicKey: "ec", ed25519.Ed25519PublicKey: "ed25519"}
    for kind, name in kinds.items():
        if isinstance(public_key, kind):
            return name
    raise MechanismUnsupported(
        f"documents can not be signed with a key of the kind {type(public_key).__name__}",
        hint="choose an RSA, EC or Ed25519 key",
    )


def digest_for(certificate: x509.Certificate) -> str:
    """hashlib's name of the hash that goes with a certificate's key.

    RSA and P-256: SHA-256. P-384: SHA-384. P-521: SHA-512. Ed25519: SHA-512, which RFC 8419 section 3.1 demands.

    Raises:
        MechanismUnsupported: the certificate is for another kind of key.
    """
    kind = key_type(certificate)
    if kind == "ed25519":
        return "sha512"
    public_key: Any = certificate.public_key()
    return _CURVE_DIGESTS.get(public_key.key_size, "sha256") if kind == "ec" else "sha256"


def must_be_pss(certificate: x509.Certificate) -> bool:
    """Whether the certificate allows its RSA key only for RSASSA-PSS."""
    return certificate.public_key_algorithm_oid.dotted_string == _RSASSA_PSS


def key_for(
    certificate: x509.Certificate, chain: Iterable[x509.Certificate], private_key: Any, *, pss: bool | None = None
) -> SigningKey:
    """A key with the hash and padding that go with it.

    Args:
        certificate: the signer's.
        chain: its issuers, nearest first.
        private_key: one of cryptography's kind; None if it is elsewhere.
        pss: RSASSA-PSS instead of PKCS #1 v1.5; None: only if the certificate allows nothing else.

    Raises:
        MechanismUnsupported: the key is neither RSA, EC nor Ed25519.
    """
    from tokenauth.signing.model import SigningKey

    digest = digest_for(certificate)
    padded = must_be_pss(certificate) if pss is None else pss and key_type(certificate) == "rsa"
    return SigningKey(certificate, tuple(chain), private_key, digest, padded)


def signature_size(certificate: x509.Certificate) -> int:
    """The most bytes that a raw signature has."""
    public_key: Any = certificate.public_key()
    kind = key_type(certificate)
    if kind == "ed25519":
        return _ED25519_SIZE
    octets = (public_key.key_size + 7) // 8
    size: int = octets if kind == "rsa" else 2 * octets + 9  # DER: two integers, each perhaps with a zero in front
    return size


def sign_message(key: SigningKey, data: bytes) -> bytes:
    """What :meth:`SigningKey.sign` does."""
    if key.type == "ed25519":
        return bytes(_private(key).sign(data))
    return bytes(_private(key).sign(data, *_scheme(key, _HASHES[key.digest])))


def sign_prehashed(key: SigningKey, digest: bytes) -> bytes:
    """What :meth:`SigningKey.sign_digest` does."""
    if key.type == "ed25519":
        raise MechanismUnsupported("an Ed25519 key signs messages, not their digests", hint="give the message")
    return bytes(_private(key).sign(digest, *_scheme(key, Prehashed(_HASHES[key.digest]))))


def verify_message(key: SigningKey, data: bytes, signature: bytes) -> None:
    """Check a raw signature of a message.

    Raises:
        cryptography.exceptions.InvalidSignature: it is not the key's, or of another message.
    """
    public_key: Any = key.certificate.public_key()
    scheme = () if key.type == "ed25519" else _scheme(key, _HASHES[key.digest])
    public_key.verify(signature, data, *scheme)


def _private(key: SigningKey) -> Any:
    if key.private_key is None:
        raise MechanismUnsupported("there is no private key here: only its certificate was given", hint="name a token")
    return key.private_key


def _scheme(key: SigningKey, algorithm: Any) -> tuple[Any, ...]:
    """The arguments that cryptography's keys want after the data."""
    if key.type == "ec":
        return (ec.ECDSA(algorithm),)
    if not key.pss:
        return padding.PKCS1v15(), algorithm
    pad = padding.PSS(padding.MGF1(_HASHES[key.digest]), padding.PSS.DIGEST_LENGTH)
    return pad, algorithm
