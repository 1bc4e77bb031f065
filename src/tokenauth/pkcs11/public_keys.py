"""Public keys read from a token, for keys that have no certificate yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenauth.errors import IdentityNotFound, TokenAuthError
from tokenauth.pkcs11.binding import python_pkcs11
from tokenauth.pkcs11.objects import unwrapped_point

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
    pkcs11 = python_pkcs11()
    template: dict[Any, Any] = {pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PUBLIC_KEY}
    if reference.id:
        template[pkcs11.Attribute.ID] = reference.id
    if reference.label:
        template[pkcs11.Attribute.LABEL] = reference.label
    with token.session("reading a public key") as session:
        found = list(session.get_objects(template))
        if not found:
            raise IdentityNotFound(f"no public key {reference.label!r} is on it", token=token.label)
        try:
            return _public_key(found[0])
        except ValueError as error:
            raise TokenAuthError(
                f"its public key {reference.label!r} is unusable: {error}", token=token.label
            ) from error


def _public_key(found: Any) -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    pkcs11 = python_pkcs11()
    attribute = pkcs11.Attribute
    kind = found[attribute.KEY_TYPE]
    if kind == pkcs11.KeyType.RSA:
        exponent, modulus = (int.from_bytes(found[a], "big") for a in (attribute.PUBLIC_EXPONENT, attribute.MODULUS))
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    point = unwrapped_point(found[attribute.EC_POINT])
    if kind == pkcs11.KeyType.EC:
        name = _CURVES.get(found[attribute.EC_PARAMS])
        if name is None:
            raise ValueError("its curve is none of P-256, P-384 and P-521")
        return ec.EllipticCurvePublicKey.from_encoded_point(getattr(ec, name)(), point)
    if kind == pkcs11.KeyType.EC_EDWARDS:
        return ed25519.Ed25519PublicKey.from_public_bytes(point)
    raise ValueError(f"{kind!r} is neither RSA, EC nor Ed25519")
