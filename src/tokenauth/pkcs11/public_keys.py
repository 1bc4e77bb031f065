"""Public keys read from a token, for keys that have no certificate yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenauth.errors import IdentityNotFound, TokenAuthError
from tokenauth.pkcs11.keys import matching_key
from tokenauth.pkcs11.objects import KeyObject, find_public_keys

if TYPE_CHECKING:
    from tokenauth.pkcs11.keys import KeyReference
    from tokenauth.pkcs11.tokens import Token

__all__ = ["read_public_key"]

#: The DER of a named curve's OID (RFC 5480 section 2.1.1.1) and cryptography's name for the curve.
_CURVES = {
    bytes.fromhex("06082a8648ce3d030107"): "SECP256R1",
    bytes.fromhex("06052b81040022"): "SECP384R1",
    bytes.fromhex("06052b81040023"): "SECP521R1",
}


def read_public_key(token: Token, reference: KeyReference) -> Any:
    """A public key on a token, as one of cryptography's.

    Args:
        token: where it is.
        reference: its ``CKA_ID`` or label.

    Raises:
        IdentityNotFound: there is no such public key.
        TokenAuthError: it is of a kind that is not supported, or the token does not answer.
    """
    found = matching_key(reference, find_public_keys(token))
    if found is None:
        raise IdentityNotFound(f"no public key {reference.label!r} is on it", token=token.label)
    try:
        return _public_key(found)
    except ValueError as error:
        raise TokenAuthError(f"its public key {reference.label!r} is unusable: {error}", token=token.label) from error


def _public_key(found: KeyObject) -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if found.type == "rsa":
        exponent, modulus = (int.from_bytes(number, "big") for number in (found.parameters, found.public))
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    if found.type == "ec":
        name = _CURVES.get(found.parameters)
        if name is None:
            raise ValueError("its curve is none of P-256, P-384 and P-521")
        return ec.EllipticCurvePublicKey.from_encoded_point(getattr(ec, name)(), found.public)
    if found.type == "ed25519":
        return ed25519.Ed25519PublicKey.from_public_bytes(found.public)
    raise ValueError("it is neither RSA, EC nor Ed25519")
