"""What a signed file brings along to be believed: certificates, revocation lists, OCSP responses.

None of it is trusted for being there; each piece has a signature of its own. A piece whose signature does not fit is
damage, and a damaged file is not called valid even if the signature can do without the piece.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from tokenauth._records import Record
from tokenauth.signing.verification.trust import parsed
from tokenauth.signing.verification.verdicts import Broken, Damaged, Finding, Weak, reading

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cryptography import x509

    from tokenauth.signing.verification.trust import Trust

__all__ = ["Evidence", "as_ocsp_response", "check_undamaged", "load_certificate"]

#: More than any signed file brings along; beyond it somebody wants to keep the reader busy.
_MOST = 300


class Evidence(Record):
    """Pieces found in a signed file, DER.

    Args:
        certificates: issuers and others.
        crls: revocation lists.
        ocsps: OCSP responses (RFC 6960 ``OCSPResponse``).
    """

    certificates: tuple[bytes, ...] = ()
    crls: tuple[bytes, ...] = ()
    ocsps: tuple[bytes, ...] = ()

    def __add__(self, other: object) -> Evidence:
        if not isinstance(other, Evidence):
            return NotImplemented
        return Evidence(*(tuple(dict.fromkeys(mine + theirs)) for mine, theirs in zip(self, other, strict=True)))

    @property
    def tells_of_revocation(self) -> bool:
        """Whether there is anything about revocations."""
        return bool(self.crls or self.ocsps)


def load_certificate(der: bytes) -> x509.Certificate:
    """A certificate.

    Raises:
        Broken: it is none.
        Damaged: its key is of a kind, or written in a way, that is not known.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    with reading("a certificate in the signature"):
        _check_whole_octets(parsed(der)["signature_value"])
        if parsed(der).serial_number <= 0:  # cryptography only warns (RFC 5280 section 4.1.2.2)
            raise Broken("a certificate in the signature has a serial number that is not positive")
        certificate = x509.load_der_x509_certificate(der)
        try:
            certificate.public_key()
        except (ValueError, UnsupportedAlgorithm):
            raise Damaged("the key of a certificate in the signature can not be read") from None
        return certificate


def as_ocsp_response(basic: Any) -> bytes:
    """The ``OCSPResponse`` around an asn1crypto ``BasicOCSPResponse`` (RFC 6960 section 4.2.1)."""
    from asn1crypto import core, ocsp

    return bytes(
        ocsp.OCSPResponse(
            {
                "response_status": "successful",
                "response_bytes": {
                    "response_type": "basic_ocsp_response",
                    "response": core.ParsableOctetString(basic.dump()),
                },
            }
        ).dump()
    )


def _check_whole_octets(signature: Any) -> None:
    """A signature is a string of whole octets (RFC 5280 section 4.1.1.3); readers differ in what else means."""
    if signature.contents[:1] != b"\0":
        raise Damaged("a signature on a certificate, revocation list or OCSP response is no whole number of bytes")


def check_undamaged(evidence: Evidence, signer: bytes, trust: Trust) -> None:
    """Check the own signatures of all pieces, as far as their issuers are at hand.

    A certificate of an issuer that is not at hand passes (cross-certificates are often left without theirs), unless it
    is all but the same as one that is.

    Args:
        evidence: the pieces.
        signer: the signer's certificate, DER.
        trust: more issuers.

    Raises:
        Damaged: a piece is damaged.
    """
    if max(map(len, evidence)) > _MOST:
        raise Damaged(f"the file brings along more than {_MOST} certificates, revocation lists or OCSP responses")
    try:
        _check_all(evidence, signer, trust)
    except Broken as error:  # one can not be read, and the signature may be good without it
        raise Damaged(error.reason) from None


def _check_all(evidence: Evidence, signer: bytes, trust: Trust) -> None:
    pool = [load_certificate(der) for der in dict.fromkeys((signer, *evidence.certificates, *_responders(evidence)))]
    known = list(_readable(_anchors_and_others(trust)))
    for certificate in pool:
        _check_certificate(certificate, pool + known)
    for der in evidence.crls:
        _check_crl(der, pool + known)
    for der in evidence.ocsps:
        _check_ocsp(der, pool + known)


def _readable(certificates: Iterable[bytes]) -> Iterator[x509.Certificate]:
    """Old roots that break today's rules (a serial number of 0) are no reason against anything."""
    for der in certificates:
        with contextlib.suppress(Finding):
            yield load_certificate(der)


def _anchors_and_others(trust: Trust) -> dict[bytes, None]:
    return dict.fromkeys([*(anchor.certificate for anchor in trust.anchors), *trust.others])


def _check_certificate(certificate: x509.Certificate, pool: list[x509.Certificate]) -> None:
    issuers = [other for other in pool if other.subject == certificate.issuer or _key_of_issuer(certificate, other)]
    if any(_issued(certificate, issuer) for issuer in issuers):
        return
    doubles = [
        other
        for other in pool
        if other != certificate
        and other.serial_number == certificate.serial_number
        and other.public_key() == certificate.public_key()
    ]
    # Issuers change their keys and keep their names, so the name alone accuses only where the key is named as well.
    named = [issuer for issuer in issuers if _names_other_key(certificate, issuer) is not True]
    if named or doubles:
        raise Damaged(f"the file's copy of the certificate {_name(certificate)} is damaged")


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    import asn1crypto.x509

    if certificate.issuer != issuer.subject:
        return False
    algorithm = asn1crypto.x509.Certificate.load(certificate.public_bytes(_der()))["signature_algorithm"]
    return _is_by(issuer, algorithm, certificate.signature, certificate.tbs_certificate_bytes)


def _is_by(issuer: x509.Certificate, algorithm: Any, signature: bytes, data: bytes) -> bool:
    """Whether a certificate's key signed something; old roots have SHA-1 signatures, whose worth is judged later."""
    from tokenauth.signing.verification.algorithms import check_signature, own_method

    try:
        with reading("a signature"):
            check_signature(issuer.public_key(), own_method(algorithm), signature, data)
    except Weak:
        return True
    except Finding:
        return False
    return True


def _identifiers(certificate: x509.Certificate) -> tuple[bytes | None, bytes | None]:
    """The key identifier of a certificate's issuer and its own."""
    from cryptography import x509

    found: list[bytes | None] = []
    for kind, field in (("AuthorityKeyIdentifier", "key_identifier"), ("SubjectKeyIdentifier", "digest")):
        try:
            value = certificate.extensions.get_extension_for_class(getattr(x509, kind)).value
            found.append(getattr(value, field))
        except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
            found.append(None)
    return found[0], found[1]


def _key_of_issuer(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    wanted, own = _identifiers(certificate)[0], _identifiers(issuer)[1]
    return wanted is not None and wanted == own


def _names_other_key(certificate: x509.Certificate, issuer: x509.Certificate) -> bool | None:
    """Whether the certificate says that another key of the same issuer signed it; None if it says nothing."""
    wanted, own = _identifiers(certificate)[0], _identifiers(issuer)[1]
    return None if wanted is None or own is None else wanted != own


def _name(certificate: x509.Certificate) -> str:
    try:
        return repr(certificate.subject.rfc4514_string())
    except ValueError:
        return f"with the serial number {certificate.serial_number:x}"


def _check_crl(der: bytes, pool: list[x509.Certificate]) -> None:
    import asn1crypto.crl
    from cryptography import x509

    with reading("a revocation list in the file"):
        algorithm = asn1crypto.crl.CertificateList.load(der)["signature_algorithm"]
        _check_whole_octets(asn1crypto.crl.CertificateList.load(der)["signature"])
        crl = x509.load_der_x509_crl(der)
        issuers = [certificate for certificate in pool if certificate.subject == crl.issuer]
        if any(_is_by(issuer, algorithm, crl.signature, crl.tbs_certlist_bytes) for issuer in issuers):
            return
    raise Damaged("a revocation list in the file is damaged, or its issuer is not there")


def _check_ocsp(der: bytes, pool: list[x509.Certificate]) -> None:
    from cryptography.x509 import ocsp

    with reading("an OCSP response in the file"):
        response = ocsp.load_der_ocsp_response(der)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise Damaged("an OCSP response in the file is an error message")
        if any(_answered(response, certificate) for certificate in [*response.certificates, *pool]):
            return
    raise Damaged("an OCSP response in the file is damaged, or its responder's certificate is not there")


def _answered(response: Any, certificate: x509.Certificate) -> bool:
    """Whether a certificate's key signed an OCSP response."""
    import asn1crypto.ocsp

    basic = asn1crypto.ocsp.OCSPResponse.load(response.public_bytes(_der()))["response_bytes"]["response"].parsed
    _check_whole_octets(basic["signature"])
    return _is_by(certificate, basic["signature_algorithm"], response.signature, response.tbs_response_bytes)


def _der() -> Any:
    from cryptography.hazmat.primitives.serialization import Encoding

    return Encoding.DER


def _responders(evidence: Evidence) -> list[bytes]:
    """The certificates inside the OCSP responses."""
    from cryptography.x509 import ocsp

    with reading("an OCSP response in the file"):
        return [
            certificate.public_bytes(_der())
            for der in evidence.ocsps
            for response in [ocsp.load_der_ocsp_response(der)]
            if response.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
            for certificate in response.certificates
        ]
