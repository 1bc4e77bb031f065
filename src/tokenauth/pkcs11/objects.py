"""Certificates and keys as they lie on a token, read without a login as far as the token allows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from tokenauth._records import Record
from tokenauth.pkcs11.recovery import twice
from tokenauth.pkcs11.returnvalues import GONE, ReturnValue

if TYPE_CHECKING:
    from tokenauth.pkcs11.tokens import Token

__all__ = [
    "CertificateObject",
    "KeyObject",
    "Objects",
    "carries",
    "find_private_keys",
    "find_public_keys",
    "read_objects",
]

# Numbers of pkcs11t.h.
_CKO_CERTIFICATE, _CKO_PUBLIC_KEY, _CKO_PRIVATE_KEY = 1, 2, 3
_CKA_PRIVATE, _CKA_LABEL, _CKA_VALUE, _CKA_CERTIFICATE_CATEGORY = 0x2, 0x3, 0x11, 0x87
_CKA_KEY_TYPE, _CKA_ID, _CKA_SENSITIVE, _CKA_SIGN = 0x100, 0x102, 0x103, 0x108
_CKA_MODULUS, _CKA_PUBLIC_EXPONENT, _CKA_EXTRACTABLE = 0x120, 0x122, 0x162
_CKA_EC_PARAMS, _CKA_EC_POINT, _CKA_ALWAYS_AUTHENTICATE = 0x180, 0x181, 0x202
#: CKK_RSA, CKK_EC, CKK_EC_EDWARDS: the type's name, and the attributes that make the public half.
_KEY_TYPES = {
    0x0: ("rsa", (_CKA_MODULUS, _CKA_PUBLIC_EXPONENT)),
    0x3: ("ec", (_CKA_EC_POINT, _CKA_EC_PARAMS)),
    0x40: ("ed25519", (_CKA_EC_POINT, _CKA_EC_PARAMS)),
}
_CERTIFICATE_ATTRIBUTES = (_CKA_VALUE, _CKA_ID, _CKA_LABEL, _CKA_CERTIFICATE_CATEGORY)
_KEY_ATTRIBUTES = {
    _CKO_PUBLIC_KEY: (_CKA_KEY_TYPE, _CKA_ID, _CKA_LABEL),
    _CKO_PRIVATE_KEY: (
        _CKA_KEY_TYPE,
        _CKA_ID,
        _CKA_LABEL,
        _CKA_PRIVATE,
        _CKA_SIGN,
        _CKA_SENSITIVE,
        _CKA_EXTRACTABLE,
        _CKA_ALWAYS_AUTHENTICATE,
    ),
}

_DER_OCTET_STRING = 0x04
_UNCOMPRESSED_POINT = 0x04
_ONE_LENGTH_BYTE = 0x81


class CertificateObject(Record):
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


class KeyObject(Record):
    """A public or private key on a token.

    Args:
        handle: the object's handle, good in every session of this process while the token stays.
        id: ``CKA_ID``, empty if it has none.
        label: ``CKA_LABEL``, empty if it has none.
        type: ``rsa``, ``ec``, ``ed25519``, or ``other``.
        public: what identifies the public half: the RSA modulus, or the EC or Edwards point; empty if unknown.
        parameters: the rest of the public half: the RSA exponent, or ``CKA_EC_PARAMS``; empty if unknown.
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
    parameters: bytes
    private: bool
    signs: bool
    extractable: bool
    always_authenticate: bool


class Objects(Record):
    """What a token shows now."""

    certificates: tuple[CertificateObject, ...]
    public_keys: tuple[KeyObject, ...]
    private_keys: tuple[KeyObject, ...]


def read_objects(token: Token) -> Objects:
    """Read all certificates and keys that the token shows; one that can not be read is left out.

    Raises:
        TokenAuthError: the token does not list its objects.
    """

    def read() -> Objects:
        with token.session("reading its objects") as session:
            certificates = tuple(_certificates(token, session))
            public_keys = tuple(_keys(token, session, _CKO_PUBLIC_KEY))
            private_keys = tuple(_keys(token, session, _CKO_PRIVATE_KEY))
            return Objects(certificates, public_keys, _completed(private_keys, lambda: public_keys))

    return twice(token, read, restart=False)


def find_private_keys(token: Token, generation: int | None = None) -> tuple[KeyObject, ...]:
    """The private keys that the token shows now.

    Args:
        token: the token.
        generation: the only one in which to look; None for the present one.

    Raises:
        TokenAuthError: the token does not list its objects.
    """
    with token.session("looking for the private key", generation) as session:
        private_keys = tuple(_keys(token, session, _CKO_PRIVATE_KEY))
        return _completed(private_keys, lambda: tuple(_keys(token, session, _CKO_PUBLIC_KEY)))


def find_public_keys(token: Token) -> tuple[KeyObject, ...]:
    """The public keys that the token shows now.

    Raises:
        TokenAuthError: the token does not list its objects.
    """
    with token.session("looking for the public key") as session:
        return tuple(_keys(token, session, _CKO_PUBLIC_KEY))


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


def bare_point(point: bytes) -> bytes:
    """The bare point of ``CKA_EC_POINT``, which is a DER OCTET STRING (PKCS #11 v3.1, 6.3.3) or, in some modules, bare.

    A bare uncompressed point starts with 04 as well; its length tells the two apart.
    """
    if point[:1] == bytes([_DER_OCTET_STRING]):
        header = 3 if point[1:2] == bytes([_ONE_LENGTH_BYTE]) else 2
        if len(point) > header and point[header - 1] == len(point) - header:
            return point[header:]
    return point


def _certificates(token: Token, session: int) -> Iterator[CertificateObject]:
    for _, found in _objects(token, session, _CKO_CERTIFICATE, _CERTIFICATE_ATTRIBUTES):
        if found.get(_CKA_VALUE):
            category = _number(found.get(_CKA_CERTIFICATE_CATEGORY))
            yield CertificateObject(found[_CKA_VALUE], found.get(_CKA_ID, b""), _label(found), category)


def _keys(token: Token, session: int, object_class: int) -> Iterator[KeyObject]:
    for handle, found in _objects(token, session, object_class, _KEY_ATTRIBUTES[object_class]):
        kind, (public, parameters) = _public_half(token, session, handle, _number(found.get(_CKA_KEY_TYPE, b"\xff")))
        sensitive = _flag(found, _CKA_SENSITIVE, default=True)
        yield KeyObject(
            handle=handle,
            id=found.get(_CKA_ID, b""),
            label=_label(found),
            type=kind,
            public=public,
            parameters=parameters,
            private=_flag(found, _CKA_PRIVATE, default=True),
            signs=_flag(found, _CKA_SIGN, default=True),
            extractable=_flag(found, _CKA_EXTRACTABLE, default=False) and not sensitive,
            always_authenticate=_flag(found, _CKA_ALWAYS_AUTHENTICATE, default=False),
        )


def _completed(
    private_keys: tuple[KeyObject, ...], public_keys: Callable[[], tuple[KeyObject, ...]]
) -> tuple[KeyObject, ...]:
    """Private keys with the public half that many tokens tell only of the public key beside them."""
    if all(key.public for key in private_keys):
        return private_keys
    public = public_keys()
    return tuple(key if key.public else _with_public_half(key, public) for key in private_keys)


def _with_public_half(key: KeyObject, public_keys: tuple[KeyObject, ...]) -> KeyObject:
    """The key with the public half of the one public key that has its ``CKA_ID``, and its label if several do."""
    same = [other for other in public_keys if (other.type, other.id) == (key.type, key.id)]
    if len(same) > 1 or not key.id:
        same = [other for other in same if other.label == key.label]
    return key._replace(public=same[0].public, parameters=same[0].parameters) if len(same) == 1 else key


def _objects(
    token: Token, session: int, object_class: int, types: tuple[int, ...]
) -> Iterator[tuple[int, dict[int, bytes]]]:
    """The objects of a class, with those attributes that they tell; one that fails is left out."""
    for handle in token.cryptoki.find(session, object_class):
        try:
            yield handle, token.cryptoki.attributes(session, handle, types)
        except ReturnValue as error:
            if error.name in GONE:
                raise  # it is not this object: the rest of the list would be missing


def _public_half(token: Token, session: int, handle: int, key_type: int) -> tuple[str, tuple[bytes, bytes]]:
    if key_type not in _KEY_TYPES:
        return "other", (b"", b"")
    kind, types = _KEY_TYPES[key_type]
    try:
        found = token.cryptoki.attributes(session, handle, types)
    except ReturnValue as error:
        if error.name in GONE:
            raise
        found = {}
    public, parameters = (found.get(number, b"") for number in types)
    return kind, (public.lstrip(b"\0") if kind == "rsa" else bare_point(public), parameters)


def _label(found: dict[int, bytes]) -> str:
    return found.get(_CKA_LABEL, b"").decode("utf-8", "replace").rstrip("\0")


def _number(value: bytes | None) -> int:
    """A ``CK_ULONG``; what is none counts as a number that means nothing."""
    return int.from_bytes(value, sys.byteorder) if value is not None else 0


def _flag(found: dict[int, bytes], number: int, *, default: bool) -> bool:
    value = found.get(number)
    return any(value) if value else default
