"""CMS signatures (RFC 5652) in the shape of CAdES (ETSI EN 319 122-1), which is also that of PAdES.

They are built from pieces that are DER already, so that certificates are encoded once, that two-step signing can stop
between the attributes and the signature, and that a document inside a signature is never in memory.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tokenauth._records import Record
from tokenauth.errors import TokenAuthError
from tokenauth.inventory.certificates import encoded
from tokenauth.signing import der

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from cryptography import x509

    from tokenauth.signing.levels import Evidence
    from tokenauth.signing.model import SigningKey

__all__ = [
    "ARCHIVE_TIME_STAMP",
    "SIGNATURE_TIME_STAMP",
    "SignedData",
    "SignerInfo",
    "attribute",
    "digest_algorithm",
    "message_digest",
    "read",
    "signed_attributes",
    "signed_data",
    "signer_info",
    "size_reserved",
    "to_sign",
]

DATA, SIGNED_DATA = der.oid("1.2.840.113549.1.7.1"), der.oid("1.2.840.113549.1.7.2")
CONTENT_TYPE, MESSAGE_DIGEST, SIGNING_TIME = (f"1.2.840.113549.1.9.{last}" for last in (3, 4, 5))
SIGNING_CERTIFICATE_V2 = "1.2.840.113549.1.9.16.2.47"
SIGNATURE_TIME_STAMP = "1.2.840.113549.1.9.16.2.14"
ARCHIVE_TIME_STAMP = "0.4.0.1733.2.4"
#: id-ri-ocsp-response (RFC 5940): how an OCSP response stands among the CRLs.
_OCSP_RESPONSE = der.oid("1.3.6.1.5.5.7.16.2")
_DIGESTS = {
    "sha256": "2.16.840.1.101.3.4.2.1",
    "sha384": "2.16.840.1.101.3.4.2.2",
    "sha512": "2.16.840.1.101.3.4.2.3",
}
_RSA = {"sha256": "1.2.840.113549.1.1.11", "sha384": "1.2.840.113549.1.1.12", "sha512": "1.2.840.113549.1.1.13"}
_ECDSA = {"sha256": "1.2.840.10045.4.3.2", "sha384": "1.2.840.10045.4.3.3", "sha512": "1.2.840.10045.4.3.4"}
_PSS, _MGF1, _ED25519 = "1.2.840.113549.1.1.10", "1.2.840.113549.1.1.8", "1.3.101.112"
#: What a CMS has beside certificates and signature, generously.
_FRAME_SIZE = 1024


class SignerInfo(Record):
    """A ``SignerInfo`` in pieces, all DER.

    Args:
        head: version, sid and digestAlgorithm, one after the other.
        signed: the signed attributes, without tag and length of their set.
        tail: signatureAlgorithm and signature.
        signature: the raw signature.
        unsigned: the unsigned attributes.
    """

    head: bytes
    signed: bytes
    tail: bytes
    signature: bytes
    unsigned: tuple[bytes, ...] = ()

    def adding(self, *attributes: bytes) -> SignerInfo:
        """The same with more unsigned attributes."""
        return self._replace(unsigned=(*self.unsigned, *attributes))

    @property
    def covered(self) -> bytes:
        """What an archive time stamp covers of it (ETSI EN 319 122-1 section 5.5.3)."""
        return self.head + der.context(0, self.signed) + self.tail

    def encoded(self) -> bytes:
        """DER."""
        unsigned = der.context(1, *sorted(self.unsigned)) if self.unsigned else b""
        return der.sequence(self.covered, unsigned)


class SignedData(Record):
    """A ``SignedData`` in pieces, all DER.

    Args:
        digests: the digest algorithms.
        certificates: what is in ``certificates``.
        revocations: what is in ``crls``: CRLs, and OCSP responses in their wrapping.
        signers: of which there is at least one.
        content_type: of the encapsulated content.
    """

    digests: tuple[bytes, ...]
    certificates: tuple[bytes, ...]
    revocations: tuple[bytes, ...]
    signers: tuple[SignerInfo, ...]
    content_type: bytes = DATA

    def with_evidence(self, evidence: Evidence) -> SignedData:
        """The same with certificates and revocation data, each once."""
        ocsps = (der.context(1, _OCSP_RESPONSE, response) for response in evidence.ocsps)
        return self._replace(
            certificates=tuple(dict.fromkeys((*self.certificates, *evidence.certificates))),
            revocations=tuple(dict.fromkeys((*self.revocations, *evidence.crls, *ocsps))),
        )

    def with_signer(self, signer: SignerInfo) -> SignedData:
        """The same with another last signer."""
        return self._replace(signers=(*self.signers[:-1], signer))

    def around(self, size: int | None = None) -> tuple[bytes, bytes]:
        """The whole ``ContentInfo``, cut where the document belongs.

        Args:
            size: of the document inside it, in bytes; None: the signature is detached.

        Returns:
            What comes before the document, and what comes after it.
        """
        wrapped = any(one.startswith(b"\xa1") for one in self.revocations)
        version = 5 if wrapped else 1 if self.content_type == DATA else 3
        start = der.integer(version) + der.set_of(*self.digests)
        after = der.context(0, *sorted(self.certificates)) if self.certificates else b""
        after += der.context(1, *sorted(self.revocations)) if self.revocations else b""
        after += der.set_of(*(signer.encoded() for signer in self.signers))
        opened = [] if size is None else [0xA0, der.OCTET_STRING]
        inner, length = b"", size or 0
        for tag in reversed(opened):
            head = der.header(tag, length)
            inner, length = head + inner, length + len(head)
        content = der.header(der.SEQUENCE, len(self.content_type) + length) + self.content_type + inner
        total = len(start) + len(content) + (size or 0) + len(after)
        outer = der.header(der.SEQUENCE, total)
        wrapping = der.header(0xA0, len(outer) + total)
        info = der.header(der.SEQUENCE, len(SIGNED_DATA) + len(wrapping) + len(outer) + total)
        return info + SIGNED_DATA + wrapping + outer + start + content, after

    def encoded(self) -> bytes:
        """The ``ContentInfo`` of a detached signature, DER."""
        return b"".join(self.around())


def attribute(kind: str, *values: bytes) -> bytes:
    """An attribute, DER.

    Args:
        kind: its OID.
        values: DER.
    """
    return der.sequence(der.oid(kind), der.set_of(*values))


def signed_attributes(key: SigningKey, digest: bytes, moment: datetime | None = None) -> bytes:
    """The attributes that are signed, without tag and length of their set.

    Args:
        key: whose certificate they name.
        digest: of the document, made with the key's hash.
        moment: when it is signed, in UTC; None: it is not said (ETSI EN 319 142-1 section 6.3: not in a PDF).
    """
    attributes = [
        attribute(CONTENT_TYPE, DATA),
        attribute(MESSAGE_DIGEST, der.octets(digest)),
        _signing_certificate(key.certificate, key.digest),
    ]
    if moment is not None:
        attributes.append(attribute(SIGNING_TIME, der.time(moment)))
    return b"".join(sorted(attributes))


def message_digest(attributes: bytes) -> bytes:
    """The document's digest among signed attributes.

    Raises:
        TokenAuthError: there is none.
    """
    from asn1crypto import cms

    for one in cms.CMSAttributes.load(to_sign(attributes)):
        if one["type"].native == "message_digest":
            found: bytes = one["values"][0].native
            return found
    raise TokenAuthError("the signature does not say of what it is")


def to_sign(attributes: bytes) -> bytes:
    """The message whose signature stands in a ``SignerInfo`` (RFC 5652 section 5.4)."""
    return der.tlv(der.SET, attributes)


def signer_info(key: SigningKey, attributes: bytes, signature: bytes) -> SignerInfo:
    """What a signature of some attributes is wrapped in."""
    head = der.integer(1) + _issuer_and_serial(key.certificate) + digest_algorithm(key.digest)
    return SignerInfo(head, attributes, _signature_algorithm(key) + der.octets(signature), signature)


def signed_data(key: SigningKey, signer: SignerInfo) -> SignedData:
    """A signature with the certificates of the signer and its issuers."""
    certificates = tuple(map(_encoded, dict.fromkeys((key.certificate, *key.chain))))
    return SignedData((digest_algorithm(key.digest),), certificates, (), (signer,))


def size_reserved(key: SigningKey) -> int:
    """The most bytes that a signature without time stamp has."""
    from tokenauth.signing.schemes import signature_size

    certificates = sum(len(_encoded(one)) for one in (key.certificate, *key.chain))
    issuer = len(_issuer_and_serial(key.certificate))
    return _FRAME_SIZE + certificates + issuer + signature_size(key.certificate)


def digest_algorithm(digest: str) -> bytes:
    """Its ``AlgorithmIdentifier``, without parameters (RFC 5754 section 2).

    Raises:
        TokenAuthError: no signature should use it any more.
    """
    if digest not in _DIGESTS:
        raise TokenAuthError(f"{digest.upper()} is no hash for signatures", hint="sign the document again")
    return der.sequence(der.oid(_DIGESTS[digest]))


def _signature_algorithm(key: SigningKey) -> bytes:
    if key.type == "ed25519":
        return der.sequence(der.oid(_ED25519))
    if key.type == "ec":
        return der.sequence(der.oid(_ECDSA[key.digest]))
    if not key.pss:
        return der.sequence(der.oid(_RSA[key.digest]), der.NULL)
    algorithm = der.sequence(der.oid(_DIGESTS[key.digest]), der.NULL)
    mask = der.sequence(der.oid(_MGF1), algorithm)
    salt = der.integer(hashlib.new(key.digest).digest_size)
    parameters = der.sequence(der.context(0, algorithm), der.context(1, mask), der.context(2, salt))  # RFC 4055
    return der.sequence(der.oid(_PSS), parameters)


@lru_cache(maxsize=64)
def _encoded(certificate: x509.Certificate) -> bytes:
    return encoded(certificate)


@lru_cache(maxsize=64)
def _issuer_and_serial(certificate: x509.Certificate) -> bytes:
    return der.sequence(certificate.issuer.public_bytes(), der.integer(certificate.serial_number))


@lru_cache(maxsize=64)
def _signing_certificate(certificate: x509.Certificate, digest: str) -> bytes:
    """The attribute that ties the signature to the certificate (RFC 5035 section 3)."""
    algorithm = b"" if digest == "sha256" else digest_algorithm(digest)  # the default is left out
    hashed = der.octets(hashlib.new(digest, _encoded(certificate)).digest())
    name = der.sequence(der.context(4, certificate.issuer.public_bytes()))
    issuer_serial = der.sequence(name, der.integer(certificate.serial_number))
    identifier = der.sequence(algorithm, hashed, issuer_serial)
    return attribute(SIGNING_CERTIFICATE_V2, der.sequence(der.sequence(identifier)))


def read(content: bytes) -> tuple[Any, SignedData]:
    """Take a CMS signature to pieces.

    Args:
        content: the ``ContentInfo``, DER or BER.

    Returns:
        asn1crypto's ``SignedData``, to look into, and the pieces.

    Raises:
        TokenAuthError: it is none.
    """
    from asn1crypto import cms

    try:
        info = cms.ContentInfo.load(content)
        parsed = info["content"]
        signers = tuple(map(_pieces, parsed["signer_infos"])) if info["content_type"].native == "signed_data" else ()
        found = SignedData(
            _dumped(parsed["digest_algorithms"]),
            _dumped(parsed["certificates"]),
            _dumped(parsed["crls"]),
            signers,
            parsed["encap_content_info"]["content_type"].dump(),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise TokenAuthError(f"this is no CMS signature: {error}") from error
    if not signers:
        raise TokenAuthError("this CMS message holds no signature")
    return parsed, found


def _pieces(info: Any) -> SignerInfo:
    head = b"".join(info[name].dump() for name in ("version", "sid", "digest_algorithm"))
    tail = b"".join(info[name].dump() for name in ("signature_algorithm", "signature"))
    signed = info["signed_attrs"].contents
    if not signed:
        raise ValueError("it has no signed attributes")
    return SignerInfo(head, signed, tail, info["signature"].native, _dumped(info["unsigned_attrs"]))


def _dumped(members: Iterable[Any]) -> tuple[bytes, ...]:
    return tuple(member.dump() for member in members or ())
