"""The keys of the virtual card, by the algorithm identifiers of SP 800-78-4 table 6-2."""

from __future__ import annotations

from typing import NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa, utils

from tests.support.piv import tlv
from tests.support.piv.apdu import SW, Refusal

__all__ = ["KEY_TYPES", "Key", "generate"]

#: Key type: its algorithm identifier.
KEY_TYPES = {"rsa1024": 0x06, "rsa2048": 0x07, "rsa3072": 0x05, "p256": 0x11, "p384": 0x14}
_RSA_BITS = {0x06: 1024, 0x07: 2048, 0x05: 3072}
_CURVES: dict[int, tuple[type[ec.EllipticCurve], type[hashes.HashAlgorithm]]] = {
    0x11: (ec.SECP256R1, hashes.SHA256),
    0x14: (ec.SECP384R1, hashes.SHA384),
}


class Key(NamedTuple):
    """A key pair in a slot."""

    algorithm: int
    private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

    @property
    def size(self) -> int:
        """Bytes of the modulus, or of a coordinate."""
        return (self.private.key_size + 7) // 8

    def operate(self, data: bytes) -> bytes:
        """RSA without any padding, or an ECDSA signature (in DER) of a digest.

        Raises:
            Refusal: the data does not fit the key.
        """
        if isinstance(self.private, rsa.RSAPrivateKey):
            return self._raw_rsa(self.private, data)
        if not data or len(data) > self.size:
            raise Refusal(SW.WRONG_DATA)
        # ECDSA takes a digest as a number, so leading zeros do not change it, and fill up what is shorter.
        return self.private.sign(data.rjust(self.size, b"\0"), ec.ECDSA(utils.Prehashed(_CURVES[self.algorithm][1]())))

    def agree(self, point: bytes) -> bytes:
        """The shared secret with somebody's public key, an uncompressed point (ECDH).

        Raises:
            Refusal: the key is RSA, or that is no point of its curve.
        """
        if not isinstance(self.private, ec.EllipticCurvePrivateKey):
            raise Refusal(SW.WRONG_DATA)
        try:
            other = ec.EllipticCurvePublicKey.from_encoded_point(self.private.curve, point)
            return self.private.exchange(ec.ECDH(), other)
        except ValueError:
            raise Refusal(SW.WRONG_DATA) from None

    def public_template(self) -> bytes:
        """What GENERATE ASYMMETRIC KEY PAIR answers (SP 800-73-4 part 2 table 12)."""
        if isinstance(self.private, rsa.RSAPrivateKey):
            numbers = self.private.public_key().public_numbers()
            modulus, exponent = numbers.n.to_bytes(self.size, "big"), numbers.e.to_bytes(3, "big")
            return tlv.encode(0x7F49, tlv.encode(0x81, modulus), tlv.encode(0x82, exponent))
        point = self.private.public_key().public_numbers()
        coordinates = point.x.to_bytes(self.size, "big") + point.y.to_bytes(self.size, "big")
        return tlv.encode(0x7F49, tlv.encode(0x86, b"\4" + coordinates))

    def _raw_rsa(self, key: rsa.RSAPrivateKey, data: bytes) -> bytes:
        numbers = key.private_numbers()
        block, modulus = int.from_bytes(data, "big"), numbers.public_numbers.n
        if len(data) != self.size or block >= modulus:
            raise Refusal(SW.WRONG_DATA)
        # Chinese remainder theorem (RFC 8017 section 5.1.2), four times as fast as one power.
        first, second = pow(block, numbers.dmp1, numbers.p), pow(block, numbers.dmq1, numbers.q)
        result = second + numbers.q * ((first - second) * numbers.iqmp % numbers.p)
        return result.to_bytes(self.size, "big")


def generate(algorithm: int) -> Key:
    """A new key pair.

    Raises:
        Refusal: the card does not know the algorithm.
    """
    if bits := _RSA_BITS.get(algorithm):
        return Key(algorithm, rsa.generate_private_key(public_exponent=65537, key_size=bits))
    if algorithm in _CURVES:
        return Key(algorithm, ec.generate_private_key(_CURVES[algorithm][0]()))
    raise Refusal(SW.WRONG_DATA)
