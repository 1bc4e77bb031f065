"""The names that XML Signature has for algorithms, and the form that it gives to signatures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenauth._records import Record
from tokenauth.errors import MechanismUnsupported
from tokenauth.signing.refusals import DocumentError, NotKnown

if TYPE_CHECKING:
    from cryptography.hazmat.primitives import hashes

    from tokenauth.signing.model import SigningKey

__all__ = ["DIGESTS", "SIGNATURES", "Algorithm", "algorithm_for", "digest_name", "digest_uri", "sign", "verify"]

_MORE = "http://www.w3.org/2001/04/xmldsig-more#"
_MORE_2007 = "http://www.w3.org/2007/05/xmldsig-more#"

#: Digest URI: hashlib's name (RFC 9231 section 2.1, W3C XMLENC 5.8).
DIGESTS = {
    "http://www.w3.org/2001/04/xmlenc#sha256": "sha256",
    f"{_MORE}sha384": "sha384",
    "http://www.w3.org/2001/04/xmlenc#sha512": "sha512",
    f"{_MORE}sha224": "sha224",
}


class Algorithm(Record):
    """A kind of signature: ``pkcs1``, ``pss`` or ``ecdsa``, and hashlib's name of its digest."""

    kind: str
    digest: str


#: Signature URI: what it means (RFC 9231 section 2.3). PSS has the digest in MGF1 too, and as much salt (2.3.10).
SIGNATURES = {
    f"{_MORE}rsa-sha256": Algorithm("pkcs1", "sha256"),
    f"{_MORE}rsa-sha384": Algorithm("pkcs1", "sha384"),
    f"{_MORE}rsa-sha512": Algorithm("pkcs1", "sha512"),
    f"{_MORE_2007}sha256-rsa-MGF1": Algorithm("pss", "sha256"),
    f"{_MORE_2007}sha384-rsa-MGF1": Algorithm("pss", "sha384"),
    f"{_MORE_2007}sha512-rsa-MGF1": Algorithm("pss", "sha512"),
    f"{_MORE}ecdsa-sha256": Algorithm("ecdsa", "sha256"),
    f"{_MORE}ecdsa-sha384": Algorithm("ecdsa", "sha384"),
    f"{_MORE}ecdsa-sha512": Algorithm("ecdsa", "sha512"),
}
_SIGNATURE_URIS = {meaning: uri for uri, meaning in SIGNATURES.items()}
_DIGEST_URIS = {name: uri for uri, name in DIGESTS.items()}


def digest_uri(name: str) -> str:
    """The URI of a digest by hashlib's name."""
    return _DIGEST_URIS[name]


def digest_name(uri: str) -> str:
    """hashlib's name of a digest.

    Raises:
        NotKnown: the digest is unknown, or one that no longer protects anything (SHA-1, MD5).
    """
    if uri not in DIGESTS:
        raise NotKnown(f"the XML signature uses the digest {uri!r}, which is not accepted")
    return DIGESTS[uri]


def algorithm_for(public_key: Any, digest: str, *, pss: bool = False) -> str:
    """The URI of the signatures that a key makes.

    Args:
        public_key: one of cryptography's.
        digest: hashlib's name.
        pss: RSA signs with PSS instead of PKCS #1 v1.5.

    Raises:
        MechanismUnsupported: XML signatures with such a key are read by next to nobody.
    """
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if isinstance(public_key, rsa.RSAPublicKey):
        return _SIGNATURE_URIS[Algorithm("pss" if pss else "pkcs1", digest)]
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return _SIGNATURE_URIS[Algorithm("ecdsa", digest)]
    raise MechanismUnsupported(
        "XML signatures (XAdES, ASiC) with an Ed25519 key can be verified by hardly any program",
        hint="sign with an RSA or EC key, or as --format cades or jws",
    )


def _hash(name: str) -> hashes.HashAlgorithm:
    from cryptography.hazmat.primitives import hashes

    kind: Any = getattr(hashes, name.upper())
    return kind()  # type: ignore[no-any-return]


def _rsa_padding(algorithm: Algorithm) -> Any:
    from cryptography.hazmat.primitives.asymmetric import padding

    if algorithm.kind == "pkcs1":
        return padding.PKCS1v15()
    return padding.PSS(padding.MGF1(_hash(algorithm.digest)), padding.PSS.DIGEST_LENGTH)


def sign(key: SigningKey, message: bytes) -> bytes:
    """Sign as XML wants it.

    Args:
        key: whose signature.
        message: the canonical ``SignedInfo``.

    Returns:
        The signature; of EC keys r and s, each as long as the curve's order (RFC 9231 section 2.3.6).

    Raises:
        TokenAuthError: the token does not sign.
    """
    from cryptography.hazmat.primitives.asymmetric import ec

    signature, public_key = key.sign(message), key.certificate.public_key()
    return (
        _plain(signature, _order_bytes(public_key)) if isinstance(public_key, ec.EllipticCurvePublicKey) else signature
    )


def verify(public_key: Any, uri: str, signature: bytes, message: bytes) -> bool:
    """Whether a signature in XML's form is a key's over a message.

    Args:
        public_key: one of cryptography's.
        uri: of the signature algorithm.
        signature: as it stands in ``SignatureValue``.
        message: the canonical ``SignedInfo``.

    Raises:
        DocumentError: the algorithm is not accepted.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    algorithm = SIGNATURES.get(uri)
    if algorithm is None:
        raise DocumentError(f"the XML signature uses the algorithm {uri!r}, which is not accepted")
    digest = _hash(algorithm.digest)
    try:
        if algorithm.kind == "ecdsa" and isinstance(public_key, ec.EllipticCurvePublicKey):
            public_key.verify(_der(signature, _order_bytes(public_key)), message, ec.ECDSA(digest))
        elif algorithm.kind != "ecdsa" and isinstance(public_key, rsa.RSAPublicKey):
            public_key.verify(signature, message, _rsa_padding(algorithm), digest)
        else:
            return False
    except (InvalidSignature, ValueError):
        return False
    return True


def _order_bytes(key: Any) -> int:
    return (int(key.key_size) + 7) // 8


def _plain(der: bytes, size: int) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    return b"".join(number.to_bytes(size, "big") for number in decode_dss_signature(der))


def _der(plain: bytes, size: int) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    if len(plain) != 2 * size:
        raise ValueError(f"an ECDSA signature of {len(plain)} bytes")
    return encode_dss_signature(int.from_bytes(plain[:size], "big"), int.from_bytes(plain[size:], "big"))
