"""Certificates and keys as they lie on a token, read without a login as far as the token allows."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from tokenauth.pkcs11.binding import python_pkcs11

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tokenauth.pkcs11.tokens import Token

__all__ = ["CertificateObject", "KeyObject", "Objects", "carries", "find_private_keys", "read_objects"]

_DER_OCTET_STRING = 0x04
_UNCOMPRESSED_POINT = 0x04


class CertificateObject(NamedTuple):
    """A certificate on a token.

    Args:
        der: ``CKA_VALUE``, which may be anything.
        id: ``CKA_ID``, empty if it has none.
        label: ``CKA_LABEL``, empty if it has none.
        category: ``CKA_CERTIFICATE_CATEGORY``: 1 the token's user's own, 2 an authority's, 0 unspecified.
    """

    der: bytes
    id: bytes
    label: str
    category: int


class KeyObject(NamedTuple):
    """A public or private key on a token.

    Args:
        handle: the object's handle, good in every session of this process while the token stays.
        id: ``CKA_ID``, empty if it has none.
        label: ``CKA_LABEL``, empty if it has none.
        type: ``rsa``, ``ec``, ``ed25519``, or ``other``.
        public: what identifies the public half: the RSA modulus, or the EC or Edwards point; empty if unknown.
        private: it shows only after a login (``CKA_PRIVATE``).
        signs: ``CKA_SIGN``; a key that does not say is taken to sign.
        extractable: the key can leave the token (``CKA_EXTRACTABLE``, and not ``CKA_SENSITIVE``).
        always_authenticate: ``CKA_ALWAYS_AUTHENTICATE``.
    """

    handle: int
    id: bytes
    label: str
    type: str
    public: bytes
    private: bool
    signs: bool
    extractable: bool
    always_authenticate: bool


class Objects(NamedTuple):
    """What a token shows now."""

    certificates: tuple[CertificateObject, ...]
    public_keys: tuple[KeyObject, ...]
    private_keys: tuple[KeyObject, ...]


def read_objects(token: Token) -> Objects:
    """Read all X.509 certificates and keys that the token shows; one that can not be read is left out.

    Raises:
        TokenAuthError: the token does not list its objects.
    """
    kinds = python_pkcs11().ObjectClass
    with token.session("reading its objects") as session:
        return Objects(
            tuple(_certificates(_search(session, kinds.CERTIFICATE))),
            tuple(_keys(_search(session, kinds.PUBLIC_KEY))),
            tuple(_keys(_search(session, kinds.PRIVATE_KEY))),
        )


def find_private_keys(token: Token) -> tuple[KeyObject, ...]:
    """The private keys that the token shows now.

    Raises:
        TokenAuthError: the token does not list its objects.
    """
    with token.session("looking for the private key") as session:
        return tuple(_keys(_search(session, python_pkcs11().ObjectClass.PRIVATE_KEY)))


def carries(certificate: bytes, public: bytes) -> bool:
    """Whether a certificate is for a public key.

    A certificate holds the modulus or the point as one run of bytes, so no parser is needed to see it there. Of a
    point that is written out (04 X Y) only X is looked for: a certificate may hold it compressed (02 X).

    Args:
        certificate: DER.
        public: as in :class:`KeyObject`; not empty.
    """
    if public[0] == _UNCOMPRESSED_POINT and len(public) % 2:
        public = public[1 : len(public) // 2 + 1]
    return public in certificate


def _search(session: Any, kind: Any) -> list[Any]:
    # Read to the end at once: a search that is half read blocks its session.
    return list(session.get_objects({python_pkcs11().Attribute.CLASS: kind}, batch_size=64))


def _get(thing: Any, attribute: Any, default: Any) -> Any:
    """An attribute's value; the default if the token does not give it, or gives something that is no such value."""
    try:
        return thing[attribute]
    except (python_pkcs11().PKCS11Error, ValueError, LookupError, NotImplementedError, struct.error):
        return default


def _certificates(found: Iterable[Any]) -> Iterable[CertificateObject]:
    attribute = python_pkcs11().Attribute
    for thing in found:
        if der := _get(thing, attribute.VALUE, b""):
            yield CertificateObject(
                der,
                _get(thing, attribute.ID, b""),
                _get(thing, attribute.LABEL, ""),
                int(_get(thing, attribute.CERTIFICATE_CATEGORY, 0)),
            )


def _keys(found: Iterable[Any]) -> Iterable[KeyObject]:
    attribute = python_pkcs11().Attribute
    for thing in found:
        kind = _key_type(thing)
        yield KeyObject(
            handle=thing.handle,
            id=_get(thing, attribute.ID, b""),
            label=_get(thing, attribute.LABEL, ""),
            type=kind,
            public=_public(thing, kind),
            private=_get(thing, attribute.PRIVATE, True),
            signs=_get(thing, attribute.SIGN, True),
            extractable=_get(thing, attribute.EXTRACTABLE, False) and not _get(thing, attribute.SENSITIVE, True),
            always_authenticate=_get(thing, attribute.ALWAYS_AUTHENTICATE, False),
        )


def _key_type(thing: Any) -> str:
    pkcs11 = python_pkcs11()
    names = {pkcs11.KeyType.RSA: "rsa", pkcs11.KeyType.EC: "ec", pkcs11.KeyType.EC_EDWARDS: "ed25519"}
    return names.get(_get(thing, pkcs11.Attribute.KEY_TYPE, None), "other")


def _public(thing: Any, kind: str) -> bytes:
    attribute = python_pkcs11().Attribute
    if kind == "rsa":
        return bytes(_get(thing, attribute.MODULUS, b"")).lstrip(b"\0")
    point: bytes = _get(thing, attribute.EC_POINT, b"")
    return unwrapped_point(point)


def unwrapped_point(point: bytes) -> bytes:
    """The bare point of ``CKA_EC_POINT``, which is a DER OCTET STRING (PKCS #11 v3.1, 6.3.3) or, in some modules, bare.

    A bare uncompressed point starts with 04 as well; its length tells the two apart.
    """
    if len(point) > 2 and point[0] == _DER_OCTET_STRING:
        if point[1] == len(point) - 2:
            return point[2:]
        if point[1] == 0x81 and point[2] == len(point) - 3:
            return point[3:]
    return point
