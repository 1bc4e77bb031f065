"""PAdES signatures in PDFs, levels B-B to B-LTA (ETSI EN 319 142-1), on pyHanko's reader and writer.

A signature is an incremental update: what was there stays as it is, byte for byte. The evidence of level B-LT is part
of it, as far as it can be foreseen; else, and where a level is raised later, it is an update of its own.
"""

from __future__ import annotations

import contextlib
import errno
import io
from typing import TYPE_CHECKING, BinaryIO

from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter
from pyhanko.pdf_utils.misc import PdfError
from pyhanko.sign.fields import MDPPerm, SigSeedSubFilter
from pyhanko.sign.general import SigningError
from pyhanko.sign.signers.pdf_signer import PdfSignatureMetadata, PdfSigner

from tokenauth._records import Record
from tokenauth.errors import TokenAuthError
from tokenauth.signing import cades, cms
from tokenauth.signing.pades_fields import field_for, style_for
from tokenauth.signing.pades_protection import ATTRIBUTE_SIZE, Protection, protection_of
from tokenauth.signing.signer import DescribedSigner
from tokenauth.signing.waiting import run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tokenauth.signing.model import Document, Job

__all__ = [
    "PERMISSIONS",
    "TIME_STAMP_SIZE",
    "Prepared",
    "at_level",
    "complete",
    "extend",
    "open_pdf",
    "prepare",
    "sign",
]

#: By the names that ``certify`` takes: what may be done to a certified document (ISO 32000-2 table 257).
PERMISSIONS = {
    "no-changes": MDPPerm.NO_CHANGES,
    "fill-forms": MDPPerm.FILL_FORMS,
    "annotate": MDPPerm.ANNOTATE,
}
#: What pyHanko's reader raises where a damaged PDF surprises it.
_DAMAGE = (ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError, RecursionError)
#: Bytes kept free for a time stamp with its certificates: most have 3 to 6 kB.
TIME_STAMP_SIZE = 12288


class Prepared(Record):
    """A PDF with room for its signature.

    Args:
        attributes: to be signed, see :func:`tokenauth.signing.cms.signed_attributes`.
        start: where the room begins in the file.
        end: where it ends.
        protection: what the PDF's integrity protection needs, if it has one.
    """

    attributes: bytes
    start: int
    end: int
    protection: Protection | None = None


def sign(documents: Sequence[Document], job: Job, target: BinaryIO) -> None:
    """Sign one PDF.

    Args:
        documents: the one.
        job: what is asked.
        target: where the signed PDF goes.

    Raises:
        LevelNotReached: a time stamp or revocation data can not be had.
        TokenAuthError: it is no PDF, may not be signed so, or the key does not sign.
        OSError: it can not be read.
    """
    output = io.BytesIO()
    prepared = prepare(documents, job, output)
    complete(job, prepared, job.key.sign(cms.to_sign(prepared.attributes)), output)
    target.write(at_level(output, job).getbuffer())


def at_level(output: io.BytesIO, job: Job) -> io.BytesIO:
    """A PDF whose last signature is at B-T, or at B-B, with what a higher level asks for.

    Raises:
        LevelNotReached: a time stamp or revocation data can not be had.
    """
    if not job.reaches("b-lt"):
        return output
    from tokenauth.signing.pades_levels import raise_level

    return raise_level(output, job, only_last=True)


def prepare(documents: Sequence[Document], job: Job, output: BinaryIO) -> Prepared:
    """Write the PDF with room for a signature, and find what is to be signed.

    Args:
        documents: the PDF.
        job: what is asked; its key may lack the private half.
        output: a stream that can be read and written.

    Raises:
        LevelNotReached: revocation data can not be had.
        TokenAuthError: it is no PDF, or may not be signed so.
        OSError: it can not be read.
    """
    if len(documents) != 1:
        raise TokenAuthError(
            f"a PDF holds its own signature only; {len(documents)} documents were given",
            hint="sign them one by one, or in one container with the format asice",
        )
    with documents[0].open() as stream, telling(documents[0].name):
        writer = open_pdf(stream, job.options.password)
        name, spec = field_for(writer, job)
        signer = PdfSigner(
            _metadata(name, job), DescribedSigner(job.key), stamp_style=style_for(job), new_field_spec=spec
        )
        if job.reaches("b-lt"):
            from tokenauth.signing.pades_levels import foresee

            foresee(writer, job)
        protection = protection_of(writer)
        reserved = cms.size_reserved(job.key) + (TIME_STAMP_SIZE if job.reaches("b-t") else 0)
        reserved += ATTRIBUTE_SIZE if protection else 0
        made, _, _ = run(
            signer.async_digest_doc_for_signing(
                writer,
                bytes_reserved=2 * reserved,
                output=output,
            )
        )
    attributes = cms.signed_attributes(job.key, made.document_digest)
    return Prepared(attributes, made.reserved_region_start, made.reserved_region_end, protection)


def _metadata(field: str, job: Job) -> PdfSignatureMetadata:
    options = job.options
    return PdfSignatureMetadata(
        field_name=field,
        md_algorithm=job.key.digest,
        reason=options.reason or None,
        location=options.location or None,
        contact_info=options.contact or None,
        certify=options.certify is not None,
        docmdp_permissions=PERMISSIONS[options.certify or "fill-forms"],
        subfilter=SigSeedSubFilter.PADES,
    )


def complete(job: Job, prepared: Prepared, signature: bytes, output: BinaryIO) -> None:
    """Put the signature into the room that was left for it, with a time stamp if the level asks for one.

    Args:
        job: the same one; its key may lack the private half.
        prepared: what :func:`prepare` returned.
        signature: the raw signature of :func:`tokenauth.signing.cms.to_sign` of its attributes.
        output: the stream that :func:`prepare` wrote.

    Raises:
        LevelNotReached: a time stamp can not be had.
    """
    info = cms.signer_info(job.key, prepared.attributes, signature)
    if prepared.protection is not None:
        document = cms.message_digest(prepared.attributes)
        info = info.adding(prepared.protection.attribute(document, signature, job.key.digest))
    encoded = cades.raised(cms.signed_data(job.key, info), job, only_stamp=True).encoded().hex().upper().encode()
    room = prepared.end - prepared.start - 2  # between the angle brackets
    if len(encoded) > room:
        raise TokenAuthError(
            f"the signature has {len(encoded) // 2} bytes, and {room // 2} were kept free for it",
            hint="the time-stamping authority sends unusually many certificates; name another one",
        )
    output.seek(prepared.start + 1)
    output.write(encoded)


def extend(document: Document, job: Job, target: BinaryIO) -> None:
    """Raise the level of a PDF's signatures; no key is needed.

    Args:
        document: the PDF.
        job: names the level and the means; its key is not used.
        target: where the PDF goes.

    Raises:
        LevelNotReached: a time stamp or revocation data can not be had.
        TokenAuthError: it is no PDF, or holds no signature.
        OSError: it can not be read.
    """
    from tokenauth.signing.pades_levels import raise_level

    with telling(document.name):
        target.write(raise_level(io.BytesIO(document.read()), job).getbuffer())


def open_pdf(stream: BinaryIO, password: str | None) -> IncrementalPdfFileWriter:
    """A PDF that is to be changed by an incremental update.

    Args:
        stream: its content.
        password: if it is encrypted: the user's or the owner's.

    Raises:
        TokenAuthError: it is encrypted, and the password is missing or wrong.
        PdfError: it is no PDF.
    """
    writer = IncrementalPdfFileWriter(stream, strict=False)  # strictness would refuse hybrid-reference files
    if writer.prev.encrypted:
        from pyhanko.pdf_utils.crypt import AuthStatus

        if password is None:
            raise TokenAuthError("the PDF is encrypted", hint="give its password: password=..., or --password-source")
        handler = writer.prev.security_handler
        if handler is None or handler.authenticate(password).status == AuthStatus.FAILED:
            raise TokenAuthError("the PDF's password is wrong", hint="check the password")
        writer.encrypt(password)
    return writer


@contextlib.contextmanager
def telling(name: str) -> Iterator[None]:
    """pyHanko's errors as ours.

    Args:
        name: of the document that they are about.
    """
    try:
        yield
    except TokenAuthError:
        raise
    except (PdfError, SigningError) as error:
        said = getattr(error, "msg", None) or str(error)
        raise TokenAuthError(f"{name} can not be signed: {said.rstrip('.')}") from error
    except (*_DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # that is of seeking to where nothing can be
            raise
        raise TokenAuthError(
            f"{name} can not be signed: it is a damaged PDF ({error or type(error).__name__})",
            hint="open it in another program and save it as a new PDF",
        ) from error
