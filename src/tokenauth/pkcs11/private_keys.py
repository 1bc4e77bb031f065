"""Keys in tokens as the private keys that ``cryptography`` knows.

They are subclasses of its abstract classes, so everything that takes such a key takes these: certificate, CSR, CRL
and CMS builders, PyJWT, paramiko. Only what a token lets out is there: ``private_bytes`` and ``private_numbers``
raise, and so does decryption and key exchange, which are not what these keys are for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from tokenauth.errors import MechanismUnsupported
from tokenauth.pkcs11.keys import ecdsa_der
from tokenauth.pkcs11.mechanisms import KeyShape, SignatureScheme

if TYPE_CHECKING:
    from tokenauth.pkcs11.keys import TokenKey

__all__ = ["Ed25519TokenKey", "EllipticCurveTokenKey", "RSATokenKey", "private_key", "shape_of"]

_Bytes = bytes | bytearray | memoryview


class _InToken:
    """What the three kinds of keys have in common."""

    def __init__(self, key: TokenKey, public_key: Any) -> None:
        self._key = key
        self._public_key = public_key

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._key.reference.label!r} on {self._key.token.label!r}>"

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key in a token can not be pickled; look it up again by its pkcs11: URI")

    def public_key(self) -> Any:
        """The public half."""
        return self._public_key

    def private_numbers(self) -> NoReturn:
        """Raises: the key can not leave the token."""
        self._stays()

    def private_bytes(self, encoding: Any = None, format: Any = None, encryption_algorithm: Any = None) -> NoReturn:  # noqa: ARG002
        """Raises: the key can not leave the token."""
        self._stays()

    def private_bytes_raw(self) -> NoReturn:
        """Raises: the key can not leave the token."""
        self._stays()

    def _stays(self) -> NoReturn:
        raise MechanismUnsupported(
            "the private key can not leave it", token=self._key.token.label, hint="use the key through its sign method"
        )

    def _refuse(self, what: str) -> NoReturn:
        raise MechanismUnsupported(f"tokenauth does not {what} with keys in tokens", token=self._key.token.label)

    def _sign(self, scheme: SignatureScheme, data: _Bytes, algorithm: Any = None) -> bytes:
        if isinstance(algorithm, Prehashed):
            if len(data) != algorithm.digest_size:
                raise ValueError(f"a {scheme.digest} digest has {algorithm.digest_size} bytes, not {len(data)}")
            return self._key.sign(scheme, digest=bytes(data))
        return self._key.sign(scheme, bytes(data))


def _digest_of(algorithm: Any) -> str:
    """hashlib's name for a hash of cryptography's; what tokens do not know is refused later, by that name."""
    algorithm = algorithm._algorithm if isinstance(algorithm, Prehashed) else algorithm
    name: str = algorithm.name
    return name


class RSATokenKey(_InToken, rsa.RSAPrivateKey):
    """An RSA private key in a token."""

    @property
    def key_size(self) -> int:
        """Bits of the modulus."""
        return self._key.shape.bits

    def sign(self, data: _Bytes, padding: Any, algorithm: Any) -> bytes:
        """Sign in the token.

        Args:
            data: the message, or its digest if the algorithm is ``Prehashed``.
            padding: ``PKCS1v15()``, or ``PSS`` whose MGF1 uses the same hash.
            algorithm: a hash, or ``Prehashed``.

        Raises:
            MechanismUnsupported: the token can not do that.
            TokenAuthError: whatever else keeps it from signing.
        """
        return self._sign(_rsa_scheme(padding, algorithm, self.key_size), data, algorithm)

    def decrypt(self, ciphertext: _Bytes, padding: Any) -> NoReturn:  # noqa: ARG002
        """Raises: not offered."""
        self._refuse("decrypt")


def _rsa_scheme(pad: Any, algorithm: Any, bits: int) -> SignatureScheme:
    digest = _digest_of(algorithm)
    if isinstance(pad, padding.PKCS1v15):
        return SignatureScheme("pkcs1", digest)
    if not isinstance(pad, padding.PSS):
        raise MechanismUnsupported(f"{pad.name} is no padding for signatures that tokens make")
    if pad.mgf._algorithm.name != digest:
        raise MechanismUnsupported("PSS with two different hashes is not offered by tokens")
    length: Any = pad._salt_length
    if length is padding.PSS.AUTO:
        raise ValueError("the salt length AUTO is for verifying only; take DIGEST_LENGTH or MAX_LENGTH")
    longest = -(-(bits - 1) // 8) - algorithm.digest_size - 2  # RFC 8017 section 9.1.1
    if length is padding.PSS.MAX_LENGTH:
        length = longest
    if isinstance(length, int) and length > longest:
        raise ValueError(f"with this key and hash a PSS salt has at most {longest} bytes, not {length}")
    return SignatureScheme("pss", digest, length if isinstance(length, int) else None)


class EllipticCurveTokenKey(_InToken, ec.EllipticCurvePrivateKey):
    """An EC private key in a token."""

    @property
    def curve(self) -> ec.EllipticCurve:
        """The curve."""
        curve: ec.EllipticCurve = self._public_key.curve
        return curve

    @property
    def key_size(self) -> int:
        """Bits of the curve's order."""
        return self._key.shape.bits

    def sign(self, data: _Bytes, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Sign in the token.

        Args:
            data: the message, or its digest if the algorithm is ``Prehashed``.
            signature_algorithm: ``ec.ECDSA`` of a hash or of ``Prehashed``.

        Returns:
            DER.

        Raises:
            MechanismUnsupported: the token can not do that.
            TokenAuthError: whatever else keeps it from signing.
        """
        algorithm = signature_algorithm.algorithm
        return ecdsa_der(self._sign(SignatureScheme("ecdsa", _digest_of(algorithm)), data, algorithm))

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> NoReturn:  # noqa: ARG002
        """Raises: not offered."""
        self._refuse("exchange keys")


class Ed25519TokenKey(_InToken, ed25519.Ed25519PrivateKey):
    """An Ed25519 private key in a token."""

    def sign(self, data: _Bytes) -> bytes:
        """Sign in the token.

        Args:
            data: the message.

        Returns:
            64 bytes.

        Raises:
            MechanismUnsupported: the token can not do that.
            TokenAuthError: whatever else keeps it from signing.
        """
        return self._sign(SignatureScheme("eddsa", ""), data)


#: cryptography's class for the public half, our name for the type, and our class for the private half.
_KINDS: tuple[tuple[type, str, type[_InToken]], ...] = (
    (rsa.RSAPublicKey, "rsa", RSATokenKey),
    (ec.EllipticCurvePublicKey, "ec", EllipticCurveTokenKey),
    (ed25519.Ed25519PublicKey, "ed25519", Ed25519TokenKey),
)
_ED25519_BITS = 256


def shape_of(public_key: Any) -> KeyShape:
    """Type and size of a public key of cryptography's.

    Raises:
        MechanismUnsupported: it is neither RSA, EC nor Ed25519.
    """
    for known, name, _ in _KINDS:
        if isinstance(public_key, known):
            return KeyShape(name, getattr(public_key, "key_size", _ED25519_BITS))
    raise MechanismUnsupported(f"{type(public_key).__name__} is neither RSA, EC nor Ed25519")


def private_key(key: TokenKey, public_key: Any) -> RSATokenKey | EllipticCurveTokenKey | Ed25519TokenKey:
    """The private key that cryptography knows for a key in a token.

    Args:
        key: the key in the token.
        public_key: its public half, one of cryptography's keys.
    """
    kinds = {name: kind for _, name, kind in _KINDS}
    made: Any = kinds[key.shape.type](key, public_key)
    return made  # type: ignore[no-any-return]
