"""Generating keys in a token and storing certificates beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenauth.errors import TokenAuthError
from tokenauth.pkcs11.binding import python_pkcs11, writable_session
from tokenauth.pkcs11.keys import KeyReference, TokenKey
from tokenauth.pkcs11.private_keys import private_key, shape_of
from tokenauth.pkcs11.public_keys import read_public_key

if TYPE_CHECKING:
    from cryptography import x509

    from tokenauth.pkcs11.tokens import Credentials, Token

__all__ = ["KEY_TYPES", "generate_key", "store_certificate"]

#: DER of what CKA_EC_PARAMS takes: a named curve's OID (RFC 5480), or the name "edwards25519" (PKCS #11 v3.1, 6.3.5).
_EC_PARAMETERS = {
    "p256": bytes.fromhex("06082a8648ce3d030107"),
    "p384": bytes.fromhex("06052b81040022"),
    "p521": bytes.fromhex("06052b81040023"),
    "ed25519": bytes.fromhex("130c656477617264733235353139"),
}
_RSA_BITS = {"rsa2048": 2048, "rsa3072": 3072, "rsa4096": 4096}
#: The kinds of keys that can be generated.
KEY_TYPES = (*_RSA_BITS, *_EC_PARAMETERS)


def generate_key(token: Token, credentials: Credentials, key_type: str, reference: KeyReference) -> Any:
    """Generate a key pair in a token; the private half is sensitive, not extractable, and only signs.

    Args:
        token: where.
        credentials: for the login.
        key_type: one of :data:`KEY_TYPES`.
        reference: the ``CKA_ID`` and label to give it.

    Returns:
        The private key, as one of ``cryptography``'s, which signs through the token.

    Raises:
        ValueError: the kind of key is unknown.
        TokenAuthError: the token refused.
    """
    if key_type not in KEY_TYPES:
        raise ValueError(f"{key_type!r} is none of {', '.join(KEY_TYPES)}")
    token.login(credentials)
    with writable_session(token, "generating a key") as session:
        _generate(session, key_type, reference)
    public_key = read_public_key(token, reference)
    return private_key(TokenKey(token, reference, shape_of(public_key), credentials), public_key)


def _generate(session: Any, key_type: str, reference: KeyReference) -> None:
    pkcs11 = python_pkcs11()
    attribute = pkcs11.Attribute
    settings: dict[str, Any] = {
        "id": reference.id,
        "label": reference.label,
        "store": True,
        "capabilities": pkcs11.MechanismFlag.SIGN | pkcs11.MechanismFlag.VERIFY,
        "private_template": {attribute.SENSITIVE: True, attribute.EXTRACTABLE: False},
    }
    if key_type in _RSA_BITS:
        session.generate_keypair(pkcs11.KeyType.RSA, _RSA_BITS[key_type], **settings)
        return
    kind = pkcs11.KeyType.EC_EDWARDS if key_type == "ed25519" else pkcs11.KeyType.EC
    parameters = {attribute.EC_PARAMS: _EC_PARAMETERS[key_type]}
    session.create_domain_parameters(kind, parameters, local=True).generate_keypair(**settings)


def store_certificate(
    token: Token, credentials: Credentials, certificate: x509.Certificate, reference: KeyReference
) -> None:
    """Put a certificate on a token.

    Args:
        token: where.
        credentials: for the login.
        certificate: the certificate.
        reference: the ``CKA_ID`` and label of the key that it is for.

    Raises:
        TokenAuthError: the token refused.
    """
    from cryptography.hazmat.primitives.serialization import Encoding

    pkcs11 = python_pkcs11()
    attribute = pkcs11.Attribute
    template = {
        attribute.CLASS: pkcs11.ObjectClass.CERTIFICATE,
        attribute.CERTIFICATE_TYPE: pkcs11.CertificateType.X_509,
        attribute.TOKEN: True,
        attribute.PRIVATE: False,
        attribute.LABEL: reference.label,
        attribute.ID: reference.id,
        attribute.SUBJECT: certificate.subject.public_bytes(),
        attribute.ISSUER: certificate.issuer.public_bytes(),
        attribute.SERIAL_NUMBER: _der_integer(certificate.serial_number),
        attribute.VALUE: certificate.public_bytes(Encoding.DER),
    }
    store_object(token, credentials, template)


def store_object(token: Token, credentials: Credentials, template: dict[Any, Any]) -> None:
    """Put an object with these attributes on a token.

    Raises:
        TokenAuthError: the token refused.
    """
    token.login(credentials)
    with writable_session(token, "storing an object") as session:
        try:
            session.create_object(template)
        except NotImplementedError:
            # python-pkcs11 stores the object and then has no class of its own for some kinds.
            raise TokenAuthError("it stored an object of a kind that can not be read back", token=token.label) from None


def _der_integer(number: int) -> bytes:
    """DER of a positive INTEGER below 2^160 (RFC 5280 section 4.1.2.2), as CKA_SERIAL_NUMBER wants it."""
    digits = number.to_bytes(number.bit_length() // 8 + 1, "big")
    return bytes([0x02, len(digits)]) + digits
