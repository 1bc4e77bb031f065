"""PAdES: signatures in PDF files, and what was done to the file after each (ISO 32000-2 section 12.8).

pyHanko reads the file and judges the changes; the signatures themselves are checked as all other CMS signatures are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

from tokenauth._records import Record
from tokenauth.signing.verification import cms, cms_levels
from tokenauth.signing.verification.assessment import Signature, failed, signer_name
from tokenauth.signing.verification.chains import hush
from tokenauth.signing.verification.evidence import Evidence
from tokenauth.signing.verification.pdf_changes import coverage, hidden_signature
from tokenauth.signing.verification.stamps import Stamp
from tokenauth.signing.verification.verdicts import Broken, Doubtful, Finding, reading

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenauth.signing.model import SignatureReport

__all__ = ["is_pdf", "signatures"]

_SUBFILTERS = {"/ETSI.CAdES.detached", "/adbe.pkcs7.detached", "/PBAD.PAdES"}
_MOST = 200  # signatures in one file


class _Field(Record):
    """A filled signature field.

    Args:
        embedded: pyHanko's ``EmbeddedPdfSignature``.
        token: the CMS message without its padding, DER.
        covers: what it covers, in words.
        problem: why it is not sound, or None.
    """

    embedded: Any
    token: bytes
    covers: tuple[str, ...]
    problem: Finding | None

    @property
    def is_stamp(self) -> bool:
        """It is a document time stamp."""
        is_named = str(self.embedded.sig_object_type) == "/DocTimeStamp"
        return is_named or str(self.embedded.sig_object.get("/SubFilter", "")) == "/ETSI.RFC3161"

    @property
    def revision(self) -> int:
        """The file's revision that it covers, from 0 on."""
        return int(self.embedded.signed_revision)

    def digest_of(self) -> Callable[[str], bytes]:
        """The digest of what it covers, by name."""

        def digest(name: str) -> bytes:
            if self.problem is not None:
                raise self.problem
            return bytes(self.embedded.compute_digest(name))

        return digest


def is_pdf(head: bytes) -> bool:
    """Whether a file is a PDF, by its first 1024 bytes (ISO 32000-2 Annex I.2)."""
    return b"%PDF-" in head[:1024]


def signatures(stream: BinaryIO, password: str | None = None) -> list[Signature | SignatureReport]:
    """The signatures in a PDF; a report for each that is not good already.

    Args:
        stream: the file.
        password: of an encrypted file.

    Raises:
        Broken: it can not be read.
        Doubtful: it is encrypted and the password is not the right one.
    """
    hush()
    reader = _reader(stream, password)
    fields, unreadable = _fields(reader, stream)
    evidence, problem = _security_store(reader)
    stamps = [field for field in fields if field.is_stamp]
    if problem is None:
        ranges = [[int(number) for number in one.embedded.byte_range] for one in fields if one.problem is None]
        problem = hidden_signature([sum(numbers[2:]) for numbers in ranges], len(fields), stream)
    found = [_signature(field, stamps, evidence, problem, reader) for field in fields if not field.is_stamp]
    if not found and stamps and not unreadable:
        raise Doubtful("the PDF has time stamps, but no signature")
    return [*found, *unreadable]


def _reader(stream: BinaryIO, password: str | None) -> Any:
    from pyhanko.pdf_utils.crypt import AuthStatus
    from pyhanko.pdf_utils.reader import PdfFileReader

    with reading("the PDF"):
        reader = PdfFileReader(stream, strict=False)
        if reader.encrypted:
            result = reader.decrypt(password or "")
            if result.status is AuthStatus.FAILED:
                raise Doubtful("the PDF is encrypted: its password is needed")
        return reader


def _fields(reader: Any, stream: BinaryIO) -> tuple[list[_Field], list[SignatureReport]]:
    """The filled fields, oldest first; and reports on those that can not even be read."""
    from pyhanko.sign.fields import enumerate_sig_fields
    from pyhanko.sign.validation import EmbeddedPdfSignature

    with reading("the PDF's signatures"):
        filled = [(name, field) for name, _, field in enumerate_sig_fields(reader, filled_status=True)]
        if len(filled) > _MOST:
            raise Broken(f"the PDF has more than {_MOST} signatures")
    embedded, unreadable = [], []
    for name, field in filled:
        try:
            with reading(f"the PDF signature {name!r}"):
                embedded.append(EmbeddedPdfSignature(reader, field, name))
                int(embedded[-1].signed_revision)
        except Finding as problem:
            embedded = [one for one in embedded if one.field_name != name]
            unreadable.append(failed("pades", problem))
    ordered = sorted(embedded, key=lambda one: one.signed_revision)
    return [_field(one, reader, stream) for one in ordered], unreadable


def _field(embedded: Any, reader: Any, stream: BinaryIO) -> _Field:
    token = b""
    covers: tuple[str, ...] = ("nothing that can be named",)
    problem: Finding | None = None
    try:
        with reading("a PDF signature"):
            token = _token(embedded, stream)
            covers = coverage(embedded, reader, stream)
    except Finding as error:
        problem = error
    return _Field(embedded, token, covers, problem)


def _token(embedded: Any, stream: BinaryIO) -> bytes:
    """The CMS message; the gap in the byte range must hold it and nothing else."""
    from asn1crypto import parser

    numbers = [int(number) for number in embedded.byte_range]
    size = stream.seek(0, 2)
    if len(numbers) != 4 or numbers[0] != 0 or min(numbers) < 0 or sum(numbers[2:]) > size:
        raise Broken("a PDF signature covers an impossible range of the file")
    contents = bytes(embedded.pkcs7_content)
    stream.seek(numbers[1])
    gap = stream.read(max(0, min(numbers[2] - numbers[1], 2 * len(contents) + 3)))
    written = contents.hex().encode()
    if gap not in (b"<" + written + b">", b"<" + written.upper() + b">"):
        raise Broken("a PDF signature leaves out more of the file than itself")
    length = parser.peek(contents)
    if any(contents[length:]):
        raise Broken("a PDF signature is followed by something that is not padding")
    return contents[:length]


def _security_store(reader: Any) -> tuple[Evidence, Finding | None]:
    """The certificates and revocation data of the file (DSS, ETSI EN 319 142-1 section 5.4.2)."""
    from pyhanko.sign.validation.dss import DocumentSecurityStore
    from pyhanko.sign.validation.errors import NoDSSFoundError

    try:
        with reading("the PDF's validation data"):
            try:
                store = DocumentSecurityStore.read_dss(reader)
            except NoDSSFoundError:
                return Evidence(), None
            parts = (
                [certificate.dump() for certificate in store.load_certs()],
                [one.get_object().data for one in store.crls],
                [one.get_object().data for one in store.ocsps],
            )
            return Evidence(*(tuple(dict.fromkeys(part)) for part in parts)), None
    except Finding as problem:
        return Evidence(), Doubtful(problem.reason)


def _has_store(reader: Any, revision: int) -> bool:
    with reading("the PDF's validation data"):
        return "/DSS" in reader.get_historical_root(revision)


def _signature(
    field: _Field, stamps: list[_Field], evidence: Evidence, store_problem: Finding | None, reader: Any
) -> Signature | SignatureReport:
    try:
        if field.problem is not None:
            raise field.problem
        with reading("a PDF signature"):
            subfilter = str(field.embedded.sig_object.get("/SubFilter", ""))
            if subfilter not in _SUBFILTERS:
                raise Doubtful(f"the PDF signature is of a kind that is not known ({subfilter[:60] or 'none'})")
            signed = cms.read_signed_data(field.token, "the PDF signature")
            if len(signed["signer_infos"]) != 1 or signed["encap_content_info"]["content"].native is not None:
                raise Broken("the PDF signature has several signers, or a content of its own")
            own = cms.evidence_of(signed)
            info = signed["signer_infos"][0]
            signer = cms.check_signer(info, own.certificates, "data", field.embedded.compute_digest)
            later = [stamp for stamp in stamps if stamp.revision > field.revision]
            archive = [stamp for stamp in later if _has_store(reader, stamp.revision)]
    except Finding as problem:
        return failed("pades", problem, covers=field.covers, signer=_likely_signer(field))
    problems = [store_problem] if store_problem is not None else []
    try:
        own += cms_levels.evidence_beside(info)
    except Finding as problem:
        problems.append(problem)
    return Signature(
        format="pades",
        certificate=signer.certificate,
        evidence=own + evidence,
        covers=field.covers,
        claimed=signer.claimed or _stated_time(field),
        baseline=signer.names_certificate,
        stamps=cms_levels.signature_stamps(info) + tuple(_stamp(one) for one in later if one not in archive),
        archive=tuple(_stamp(one) for one in archive),
        problems=tuple(problems),
    )


def _stamp(field: _Field) -> Stamp:
    return Stamp(field.token, field.digest_of())


def _stated_time(field: _Field) -> Any:
    """The entry M of the signature, which the signature covers."""
    with reading("the time of a PDF signature"):
        stated = field.embedded.self_reported_timestamp
    return stated if stated is not None and stated.utcoffset() is not None else None


def _likely_signer(field: _Field) -> str:
    try:
        with reading("a PDF signature"):
            return signer_name(field.embedded.signer_cert.dump())
    except Finding:
        return ""
