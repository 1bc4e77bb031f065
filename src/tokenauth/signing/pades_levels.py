"""What raises a PDF's signatures above B-T: a security store with evidence, and time stamps of the document."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, BinaryIO

from asn1crypto import cms as asn1_cms
from asn1crypto import crl, ocsp
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from pyhanko.pdf_utils.reader import PdfFileReader
from pyhanko.sign.fields import SigFieldSpec, enumerate_sig_fields
from pyhanko.sign.signers.cms_embedder import PdfCMSEmbedder, SigIOSetup, SigObjSetup
from pyhanko.sign.signers.pdf_byterange import DocumentTimestamp
from pyhanko.sign.validation import DocumentSecurityStore
from pyhanko.sign.validation.errors import NoDSSFoundError

from tokenauth.errors import LevelNotReached, TokenAuthError
from tokenauth.signing import cms, levels
from tokenauth.signing.cades import with_attribute
from tokenauth.signing.pades import TIME_STAMP_SIZE, open_pdf
from tokenauth.signing.pades_protection import ATTRIBUTE_SIZE, announce, protection_of
from tokenauth.signing.timestamps import signer_of

if TYPE_CHECKING:
    from tokenauth.signing.model import Job

__all__ = ["foresee", "raise_level"]

_STRONG = ("sha256", "sha384", "sha512")


def raise_level(pdf: io.BytesIO, job: Job, *, only_last: bool = False) -> io.BytesIO:
    """Bring a PDF's signatures to the level that a job asks for, as far as they are not there.

    Args:
        pdf: the signed PDF.
        job: names the level, the means and the password.
        only_last: the last signature is the one that matters; who signed before has seen to the others.

    Raises:
        LevelNotReached: a time stamp or revocation data can not be had.
        TokenAuthError: the PDF holds no signature.
    """
    signatures, stamps = _embedded(pdf, job)
    if not signatures:
        raise TokenAuthError("the PDF holds no signature", hint="sign it first")
    chosen = signatures[-1:] if only_last else signatures
    digest = chosen[-1].md_algorithm if chosen[-1].md_algorithm in _STRONG else "sha256"
    if not all(_time_stamps(one) or stamps for one in chosen):
        stamped = levels.optional(job, "b-t", lambda: _stamped(pdf, job, digest))
        if stamped is None:
            return pdf
        pdf = stamped
    current = pdf
    if not (only_last and _is_foreseen(current, job)):
        evidence = levels.optional(job, "b-lt", lambda: _evidence(current, job, only_last=only_last))
        if evidence is None:
            return pdf
        pdf = _with_store(pdf, job, evidence)
    current = pdf
    return levels.optional(job, "b-lta", lambda: _stamped(current, job, digest)) or pdf


def foresee(writer: Any, job: Job) -> None:
    """Put evidence into a PDF that is about to be signed, so that the signature covers it.

    Evidence that comes later is an update of its own, in which things could be changed that nobody looks at. If it can
    not be had now, what :func:`raise_level` does then is to be done.

    Args:
        writer: writes the PDF.
        job: names the level, the signer and the means.

    Raises:
        LevelNotReached: evidence can not be had, and the job does not allow a lower level.
        TokenAuthError: a certificate is not good.
    """
    try:
        evidence = levels.evidence_for(job.key.certificate, job.key.chain, job.means)
        evidence = evidence.merged(levels.evidence_for_authority(job.key.digest, job.means))
    except LevelNotReached:
        if not job.options.allow_lower_level:
            raise
        return
    _store(writer, evidence)


def _is_foreseen(pdf: BinaryIO, job: Job) -> bool:
    """Whether the security store has evidence for the last signature, which :func:`foresee` put there with it."""
    signatures, stamps = _embedded(pdf, job)
    last = signatures[-1]
    tokens = [*_time_stamps(last), *map(_content_info, stamps)]
    try:
        store = DocumentSecurityStore.read_dss(last.reader.get_historical_resolver(last.signed_revision))
        known = {certificate.dump() for certificate in store.load_certs()}
        authorities = [signer_of(asn1_cms.ContentInfo.load(token)).dump() for token in tokens]
    except (NoDSSFoundError, ValueError):
        return False
    return bool(tokens) and known.issuperset([last.signer_cert.dump(), *authorities])


def _embedded(pdf: BinaryIO, job: Job) -> tuple[list[Any], list[Any]]:
    """pyHanko's view of the signatures and of the document time stamps, oldest first."""
    pdf.seek(0)
    reader = PdfFileReader(pdf, strict=False)
    if reader.encrypted:
        reader = open_pdf(pdf, job.options.password).prev
    return list(reader.embedded_regular_signatures), list(reader.embedded_timestamp_signatures)


def _time_stamps(signature: Any) -> list[bytes]:
    """The signature time stamps inside a signature, DER."""
    return [
        token.dump()
        for one in signature.signer_info["unsigned_attrs"]
        if one["type"].dotted == cms.SIGNATURE_TIME_STAMP
        for token in one["values"]
    ]


def _content_info(stamp: Any) -> bytes:
    """A document time stamp as a ``TimeStampToken``, DER."""
    info = asn1_cms.ContentInfo({"content_type": "signed_data", "content": stamp.signed_data})
    made: bytes = info.dump()
    return made


def _evidence(pdf: BinaryIO, job: Job, *, only_last: bool) -> levels.Evidence:
    """Evidence for the signers and for all time-stamping authorities."""
    signatures, stamps = _embedded(pdf, job)
    found = levels.Evidence()
    for one in signatures[-1:] if only_last else signatures:
        signer, *others = (
            x509.load_der_x509_certificate(certificate.dump())
            for certificate in (one.signer_cert, *one.other_embedded_certs)
        )
        found = found.merged(levels.evidence_for(signer, others, job.means))
        for token in _time_stamps(one):
            found = found.merged(levels.evidence_for_token(token, job.means))
    for one in stamps:
        found = found.merged(levels.evidence_for_token(_content_info(one), job.means))
    return found


def _with_store(pdf: BinaryIO, job: Job, evidence: levels.Evidence) -> io.BytesIO:
    """The PDF with a document security store (ETSI EN 319 142-1 section 5.4.2)."""
    pdf.seek(0)
    writer = open_pdf(pdf, job.options.password)
    _store(writer, evidence)
    output = io.BytesIO()
    writer.write(output)
    return output


def _store(writer: Any, evidence: levels.Evidence) -> None:
    DocumentSecurityStore.supply_dss_in_writer(
        writer,
        None,
        certs=map(asn1_x509.Certificate.load, evidence.certificates),
        ocsps=map(ocsp.OCSPResponse.load, evidence.ocsps),
        crls=map(crl.CertificateList.load, evidence.crls),
    )


def _stamped(pdf: BinaryIO, job: Job, digest: str) -> io.BytesIO:
    """The PDF with a time stamp of the whole document (section 5.4.3)."""
    pdf.seek(0)
    writer = open_pdf(pdf, job.options.password)
    taken = {name for name, _, _ in enumerate_sig_fields(writer)}
    name = next(free for n in range(1, len(taken) + 2) if (free := f"Timestamp{n}") not in taken)
    steps = PdfCMSEmbedder(new_field_spec=SigFieldSpec(name)).write_cms(field_name=name, writer=writer)
    next(steps)
    placeholder = DocumentTimestamp(bytes_reserved=2 * (TIME_STAMP_SIZE + ATTRIBUTE_SIZE))
    reference = steps.send(SigObjSetup(sig_placeholder=placeholder))
    protection = protection_of(writer)
    if protection is not None:
        announce(writer, reference)
    prepared, output = steps.send(SigIOSetup(md_algorithm=digest, output=io.BytesIO()))
    token = levels.timestamp(prepared.document_digest, digest, job.means)
    if protection is not None:
        _, pieces = cms.read(token)
        signature = pieces.signers[-1].signature
        token = with_attribute(token, protection.attribute(prepared.document_digest, signature, digest))
    prepared.fill_with_cms(output, token)
    made: io.BytesIO = output
    return made
