"""What a certificate may be used for, and what is wrong with it; its chain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from tokenauth.errors import MechanismUnsupported

if TYPE_CHECKING:
    import datetime
    from collections.abc import Callable, Iterable, Iterator

    from cryptography import x509

__all__ = [
    "chain_of",
    "encoded",
    "extension",
    "is_authority",
    "issued_by",
    "parse",
    "problems_of",
    "purposes_of",
    "walk_chain",
]

_T = TypeVar("_T")

CLIENT_AUTH, SERVER_AUTH, ANY_USAGE = "1.3.6.1.5.5.7.3.2", "1.3.6.1.5.5.7.3.1", "2.5.29.37.0"
#: Purpose: the extended key usage it takes (empty: none), and the key usage (RFC 5280 sections 4.2.1.3 and 4.2.1.12).
_PURPOSES = {
    "tls-client": (CLIENT_AUTH, "digital_signature"),
    "tls-server": (SERVER_AUTH, "digital_signature"),
    "document": ("", "content_commitment"),
}


def parse(der: bytes) -> x509.Certificate:
    """Read a certificate.

    Raises:
        ValueError: it is none.
    """
    from cryptography import x509

    try:
        return x509.load_der_x509_certificate(der)
    except x509.InvalidVersion as error:
        raise ValueError(str(error)) from None


def encoded(certificate: x509.Certificate) -> bytes:
    """A certificate's DER."""
    # The public module beside this one loads all of SSH's formats, a tenth of the time that a whole signature takes.
    from cryptography.hazmat.primitives._serialization import Encoding

    return certificate.public_bytes(Encoding.DER)


def name_of(certificate: x509.Certificate) -> str:
    """The subject's common name, or all of its name if it has none."""
    from cryptography.x509.oid import NameOID

    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else certificate.subject.rfc4514_string()


def extension(certificate: x509.Certificate, kind: str) -> Any:
    """The value of an extension by the name of cryptography's class; None if it has none.

    Raises:
        ValueError: its extensions can not be read.
    """
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(getattr(x509, kind)).value
    except x509.ExtensionNotFound:
        return None
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ValueError(str(error)) from None


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether it is a CA's certificate (RFC 5280 section 4.2.1.9).

    Raises:
        ValueError: its extensions can not be read.
    """
    constraints = extension(certificate, "BasicConstraints")
    return bool(constraints and constraints.ca)


def purposes_of(certificate: x509.Certificate) -> list[str]:
    """What the certificate's extensions allow: ``tls-client``, ``tls-server``, ``document``.

    A certificate without the extensions allows TLS; documents need an explicit contentCommitment.

    Raises:
        ValueError: its extensions can not be read.
    """
    usage = extension(certificate, "KeyUsage")
    extended = extension(certificate, "ExtendedKeyUsage")
    oids = None if extended is None else {oid.dotted_string for oid in extended}

    def allows(purpose: str) -> bool:
        wanted, bit = _PURPOSES[purpose]
        bit_set = bool(wanted) if usage is None else bool(getattr(usage, bit))
        return bit_set and (not wanted or oids is None or bool(oids & {wanted, ANY_USAGE}))

    return [purpose for purpose in _PURPOSES if allows(purpose)]


def problems_of(certificate: x509.Certificate, now: datetime.datetime) -> list[str]:
    """What keeps a certificate from being used, in words.

    Args:
        certificate: the certificate.
        now: the time, with a zone.
    """
    problems = []
    if now > certificate.not_valid_after_utc:
        problems.append(f"expired on {certificate.not_valid_after_utc:%Y-%m-%d}")
    if now < certificate.not_valid_before_utc:
        problems.append(f"not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
    try:
        if not purposes_of(certificate):
            problems.append("its key usage allows neither TLS nor document signatures")
    except ValueError as error:
        problems.append(f"its extensions can not be read: {error}")
    return problems + _key_problems(certificate)


def _key_problems(certificate: x509.Certificate) -> list[str]:
    from cryptography.exceptions import UnsupportedAlgorithm

    from tokenauth.pkcs11.private_keys import shape_of

    try:
        shape_of(certificate.public_key())
    except MechanismUnsupported:
        return ["its key is neither RSA, EC nor Ed25519"]
    except (ValueError, UnsupportedAlgorithm) as error:
        return [f"its key can not be read: {error}"]
    return []


def issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the issuer's name and signature are on a certificate."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def chain_of(certificate: x509.Certificate, others: Iterable[bytes]) -> list[x509.Certificate]:
    """The issuers of a certificate, nearest first, as far as they are among others; each link is verified.

    Args:
        certificate: whose chain.
        others: DER, some of which may be garbage.
    """
    return list(walk_chain(certificate, list(_readable(others)), issued_by))


def _readable(others: Iterable[bytes]) -> Iterator[x509.Certificate]:
    for der in others:
        try:
            yield parse(der)
        except ValueError:
            continue


def walk_chain(leaf: _T, others: list[_T], issued: Callable[[_T, _T], bool]) -> Iterator[_T]:
    """From a certificate up, issuer by issuer, each at most once; a self-signed one ends it."""
    current, left = leaf, list(others)
    while not issued(current, current):
        issuer = next((other for other in left if issued(current, other)), None)
        if issuer is None:
            return
        left.remove(issuer)
        yield issuer
        current = issuer
