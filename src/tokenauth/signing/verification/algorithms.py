"""The signature algorithms that are accepted, by the names that each format has for them.

What is not in a table is not computed at all. What is computed but too weak to rely on (ETSI TS 119 312) makes a
signature doubtful, never valid.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from tokenauth._records import Record
from tokenauth.signing.verification.verdicts import Broken, Doubtful, Weak

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Method",
    "check_digest_name",
    "check_signature",
    "digester",
    "from_asn1",
    "from_jws",
    "from_xml",
    "own_method",
]

#: Name in hashlib: the class in ``cryptography``.
DIGESTS = {
    "md5": "MD5",
    "sha1": "SHA1",
    "sha224": "SHA224",
    "sha256": "SHA256",
    "sha384": "SHA384",
    "sha512": "SHA512",
    "sha3_256": "SHA3_256",
    "sha3_384": "SHA3_384",
    "sha3_512": "SHA3_512",
}
WEAK_DIGESTS = frozenset({"md5", "sha1"})
SMALLEST_RSA = 2040
_CURVES = frozenset(
    {"secp256r1", "secp384r1", "secp521r1", "brainpoolP256r1", "brainpoolP384r1", "brainpoolP512r1", "secp256k1"}
)


class Method(Record):
    """How a signature was made.

    Args:
        key: ``rsa``, ``rsa-pss``, ``ec`` or ``eddsa``.
        digest: the name in hashlib; empty for EdDSA, which has its own.
        salt: bytes of salt of RSA-PSS.
        raw: an ECDSA signature is r||s (XML, JWS) instead of DER (X.509, CMS).
    """

    key: str
    digest: str = ""
    salt: int = 0
    raw: bool = False


_XML_BASES = {
    "http://www.w3.org/2000/09/xmldsig#": {"rsa-sha1": ("rsa", "sha1")},
    "http://www.w3.org/2001/04/xmldsig-more#": {
        **{f"rsa-{name}": ("rsa", name) for name in ("md5", "sha224", "sha256", "sha384", "sha512")},
        **{f"ecdsa-{name}": ("ec", name) for name in ("sha1", "sha224", "sha256", "sha384", "sha512")},
    },
    "http://www.w3.org/2007/05/xmldsig-more#": {
        **{f"{name}-rsa-MGF1": ("rsa-pss", name) for name in ("sha1", "sha224", "sha256", "sha384", "sha512")},
        **{f"{name.replace('_', '-')}-rsa-MGF1": ("rsa-pss", name) for name in ("sha3_256", "sha3_384", "sha3_512")},
        **{f"ecdsa-{name.replace('_', '-')}": ("ec", name) for name in ("sha3_256", "sha3_384", "sha3_512")},
    },
    "http://www.w3.org/2021/04/xmldsig-more#": {"eddsa-ed25519": ("eddsa", ""), "eddsa-ed448": ("eddsa", "")},
}
#: RFC 9231 and W3C XMLDSIG-CORE1.
_XML = {base + name: method for base, names in _XML_BASES.items() for name, method in names.items()}
#: RFC 7518 section 3.1, RFC 8037 and RFC 9864. ``none`` and the MACs (HS256, ...) are not there and never will be.
_JWS = {
    **{f"RS{bits}": ("rsa", f"sha{bits}") for bits in (256, 384, 512)},
    **{f"PS{bits}": ("rsa-pss", f"sha{bits}") for bits in (256, 384, 512)},
    **{f"ES{bits}": ("ec", f"sha{bits}") for bits in (256, 384, 512)},
    "EdDSA": ("eddsa", ""),
    "Ed25519": ("eddsa", ""),
}
#: The one curve that each of JWS's ECDSA algorithms is for (RFC 7518 section 3.4).
_JWS_CURVES = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}


def from_xml(uri: str) -> Method:
    """The method of a ``SignatureMethod``.

    Raises:
        Doubtful: it is not known.
    """
    if uri not in _XML:
        raise Doubtful(f"the signature algorithm {uri!r} is not known")
    key, digest = _XML[uri]
    return Method(key, digest, hashlib.new(digest).digest_size if key == "rsa-pss" else 0, True)


def from_jws(name: object, public_key: Any) -> Method:
    """The method of a JWS header's ``alg``.

    Raises:
        Broken: it is not accepted, or it is not for that key.
    """
    if not isinstance(name, str) or name not in _JWS:
        raise Broken(f"the JWS algorithm {name!r} is not accepted: only signatures are, neither MACs nor 'none'")
    if name in _JWS_CURVES and getattr(getattr(public_key, "curve", None), "name", "") != _JWS_CURVES[name]:
        raise Broken(f"the JWS algorithm {name} does not fit the key in the certificate")
    key, digest = _JWS[name]
    return Method(key, digest, hashlib.new(digest).digest_size if key == "rsa-pss" else 0, True)


def from_asn1(algorithm: Any, digest_algorithm: Any) -> Method:
    """The method of a CMS ``SignerInfo``.

    Args:
        algorithm: asn1crypto's ``SignedDigestAlgorithm``.
        digest_algorithm: asn1crypto's ``DigestAlgorithm``.

    Raises:
        Broken: the two contradict each other.
        Doubtful: it is not known.
    """
    name = algorithm["algorithm"].native
    digest = digest_name(digest_algorithm)
    if name in ("ed25519", "ed448"):
        _no_parameters(algorithm, null=False)
        return Method("eddsa")
    if name == "rsassa_pss":
        return _from_pss(algorithm["parameters"], digest)
    for key, names in (("rsa", ("rsassa_pkcs1v15", "rsa", "_rsa")), ("ec", ("ecdsa", "_ecdsa"))):
        if name in names or name.endswith(names[-1]):
            _no_parameters(algorithm, null=key == "rsa")
            own = name.partition("_")[0] if name.endswith(names[-1]) and "_" in name else digest
            if (own in DIGESTS and own != digest) or (own not in DIGESTS and name not in names):
                raise Broken(f"the signature algorithm {name} contradicts the digest algorithm {digest}")
            return Method(key, digest)
    raise Doubtful(f"the signature algorithm {name} is not known")


def own_method(algorithm: Any) -> Method:
    """The method of an algorithm that names its digest itself, as in certificates and OCSP responses.

    Raises:
        Doubtful: it is not known.
    """
    from asn1crypto import algos

    digest = "sha256" if algorithm["algorithm"].native in ("ed25519", "ed448") else algorithm.hash_algo
    return from_asn1(algorithm, algos.DigestAlgorithm({"algorithm": digest}))


def _from_pss(parameters: Any, digest: str) -> Method:
    used = digest_name(parameters["hash_algorithm"])
    mask = parameters["mask_gen_algorithm"]
    if mask["algorithm"].native != "mgf1" or digest_name(mask["parameters"]) != used or used != digest:
        raise Broken("the RSA-PSS parameters name several digests")
    if parameters["trailer_field"].native not in (1, "trailer_field_bc"):
        raise Broken("the RSA-PSS trailer field is unknown")
    salt = parameters["salt_length"].native
    if not 0 <= salt <= 512:
        raise Broken(f"the RSA-PSS salt length {salt} is not possible")
    return Method("rsa-pss", digest, salt)


def digest_name(algorithm: Any) -> str:
    """hashlib's name of an asn1crypto ``DigestAlgorithm``.

    Raises:
        Broken: it has parameters, which no digest has (RFC 5754 section 2).
        Doubtful: it is not known.
    """
    name = str(algorithm["algorithm"].native)
    if name not in DIGESTS:
        raise Doubtful(f"the digest algorithm {name} is not known")
    _no_parameters(algorithm, null=True)
    return name


def _no_parameters(algorithm: Any, *, null: bool) -> None:
    parameters = algorithm["parameters"]
    encoded = parameters.dump() if parameters is not None else b""
    if encoded not in ((b"", b"\x05\x00") if null else (b"",)):
        raise Broken(f"the algorithm {algorithm['algorithm'].native} has parameters that it can not have")


def check_digest_name(name: str, what: str) -> None:
    """Refuse digests with which another content can be made.

    Raises:
        Weak: it is.
    """
    if name in WEAK_DIGESTS:
        raise Weak(f"{what} uses {name.upper()}, which can be forged")


def digester(name: str) -> Any:
    """A digest being computed."""
    return hashlib.new(name, usedforsecurity=name not in WEAK_DIGESTS)


def check_signature(
    public_key: Any, method: Method, signature: bytes, data: bytes, what: str = "the signature"
) -> None:
    """Check a signature's mathematics and the strength of what it was made with.

    Args:
        public_key: one of ``cryptography``'s.
        method: how it was made.
        signature: the signature.
        data: what is signed.
        what: what reasons call the signature.

    Raises:
        Broken: the signature is not that key's over that data.
        Weak: it is, but key or digest can be broken.
    """
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    verify = _verifier(public_key, method)
    try:
        verify(signature, data)
    except InvalidSignature:
        raise Broken(f"{what} does not verify: it, or what it signs, was changed") from None
    except (UnsupportedAlgorithm, ValueError, OverflowError) as error:
        raise Broken(f"{what} can not be computed: {error}") from None
    if method.digest:
        check_digest_name(method.digest, what)
    _check_strength(public_key, what)


def _check_strength(public_key: Any, what: str) -> None:
    size, curve = getattr(public_key, "key_size", 0), getattr(public_key, "curve", None)
    if curve is not None:
        if curve.name not in _CURVES:
            raise Weak(f"{what} is made with a key on the curve {curve.name}, which is weak or unknown")
    elif hasattr(public_key, "public_numbers") and size < SMALLEST_RSA:
        raise Weak(f"{what} is made with an RSA key of {size} bits; at least {SMALLEST_RSA} are needed")


def _verifier(public_key: Any, method: Method) -> Callable[[bytes, bytes], None]:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa

    if method.key == "eddsa" and isinstance(public_key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return public_key.verify
    digest = getattr(hashes, DIGESTS[method.digest])() if method.digest else None
    if isinstance(public_key, rsa.RSAPublicKey) and method.key in ("rsa", "rsa-pss") and digest is not None:
        scheme: Any = padding.PKCS1v15()
        if method.key == "rsa-pss":
            scheme = padding.PSS(padding.MGF1(digest), method.salt)
        return lambda signature, data: public_key.verify(signature, data, scheme, digest)
    if isinstance(public_key, ec.EllipticCurvePublicKey) and method.key == "ec" and digest is not None:
        kind = ec.ECDSA(digest)
        size = (public_key.key_size + 7) // 8
        return lambda signature, data: public_key.verify(
            _to_der(signature, size) if method.raw else signature, data, kind
        )
    raise Broken("the signature algorithm does not fit the key in the certificate")


def _to_der(signature: bytes, size: int) -> bytes:
    """r||s, each as long as the curve's order, to DER."""
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    if len(signature) != 2 * size:
        raise Broken(f"the ECDSA signature has {len(signature)} bytes instead of {2 * size}")
    return encode_dss_signature(int.from_bytes(signature[:size]), int.from_bytes(signature[size:]))
