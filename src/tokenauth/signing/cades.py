"""CAdES signatures of any file: beside it (``.p7s``) or around it (``.p7m``), levels B-B to B-LTA (EN 319 122-1)."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO

from tokenauth.errors import TokenAuthError
from tokenauth.signing import cms, der

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenauth.signing import levels
    from tokenauth.signing.model import Document, Job

__all__ = ["complete", "extend", "prepare", "raised", "sign", "with_attribute"]

_ATS_HASH_INDEX_V3 = "0.4.0.19122.1.5"


def sign(documents: Sequence[Document], job: Job, target: BinaryIO) -> None:
    """Sign one document.

    Args:
        documents: the one.
        job: what is asked; with ``attached`` the document is inside the signature.
        target: where the signature goes.

    Raises:
        LevelNotReached: a time stamp or revocation data can not be had.
        TokenAuthError: whatever keeps the key from signing, and a document that changes meanwhile.
        OSError: the document can not be read.
    """
    attributes = prepare(documents, job)
    complete(documents, job, attributes, job.key.sign(cms.to_sign(attributes)), target)


def prepare(documents: Sequence[Document], job: Job) -> bytes:
    """The attributes to be signed, see :func:`tokenauth.signing.cms.signed_attributes`."""
    digest = _single(documents).hash(job.key.digest)
    return cms.signed_attributes(job.key, digest, job.options.moment or datetime.now(UTC))


def complete(documents: Sequence[Document], job: Job, attributes: bytes, signature: bytes, target: BinaryIO) -> None:
    """Write what :func:`prepare` began, once the attributes are signed.

    Args:
        documents: the same one; a detached signature does not look at it any more.
        job: the same one; its key may lack the private half.
        attributes: what :func:`prepare` returned.
        signature: the raw signature of :func:`tokenauth.signing.cms.to_sign` of them.
        target: where the signature goes.

    Raises:
        LevelNotReached, TokenAuthError, OSError: as :func:`sign`.
    """
    made = raised(cms.signed_data(job.key, cms.signer_info(job.key, attributes, signature)), job)
    if not job.options.attached:
        target.write(made.encoded())
        return
    document = _single(documents)
    before, after = made.around(document.size)
    target.write(before)
    hashed = hashlib.new(job.key.digest)
    for piece in document.pieces():
        hashed.update(piece)
        target.write(piece)
    if der.octets(hashed.digest()) not in attributes:
        raise TokenAuthError(f"{document.name} changed while it was being signed", hint="sign it again")
    target.write(after)


def raised(made: cms.SignedData, job: Job, *, only_stamp: bool = False) -> cms.SignedData:
    """A signature with all that its level asks for beyond B-B; what is there already is not fetched again.

    Args:
        made: the signature.
        job: names the level, and the means.
        only_stamp: go no further than B-T; what the higher levels need stands elsewhere.

    Raises:
        LevelNotReached: a time stamp or revocation data can not be had.
    """
    if not job.reaches("b-t"):
        return made
    from tokenauth.signing import levels  # with all that reads ASN.1

    signer = made.signers[-1]
    digest = _digest_of(signer)
    if not any(map(_is_signature_time_stamp, signer.unsigned)):
        hashed = hashlib.new(digest, signer.signature).digest()
        token = levels.optional(job, "b-t", lambda: levels.timestamp(hashed, digest, job.means))
        if token is None:
            return made
        signer = signer.adding(cms.attribute(cms.SIGNATURE_TIME_STAMP, token))
        made = made.with_signer(signer)
    if only_stamp:
        return made
    evidence = levels.optional(job, "b-lt", lambda: _evidence(made, job))
    if evidence is None:
        return made
    made = made.with_evidence(evidence)
    stamp = levels.optional(job, "b-lta", lambda: _archive_time_stamp(made, job))
    return made if stamp is None else made.with_signer(signer.adding(cms.attribute(cms.ARCHIVE_TIME_STAMP, stamp)))


def extend(document: Document, job: Job, target: BinaryIO) -> None:
    """Raise the level of the last signature in a file; no key is needed.

    Args:
        document: the ``.p7s`` or ``.p7m`` file, which is read as a whole.
        job: names the level and the means; its key is not used.
        target: where the signature goes.

    Raises:
        LevelNotReached: a time stamp or revocation data can not be had.
        TokenAuthError: it is no CMS signature.
        OSError: the file can not be read.
    """
    parsed, made = cms.read(document.read())
    content = parsed["encap_content_info"]["content"]
    made = raised(made, job)
    if content.native is None:
        target.write(made.encoded())
        return
    inside = content.native
    before, after = made.around(len(inside))
    target.writelines((before, inside, after))


def _single(documents: Sequence[Document]) -> Document:
    if len(documents) != 1:
        raise TokenAuthError(
            f"a CAdES signature is of one document, not of {len(documents)}",
            hint="sign them one by one, or in one container with the format asice",
        )
    return documents[0]


def _is_signature_time_stamp(attribute: bytes) -> bool:
    return der.oid(cms.SIGNATURE_TIME_STAMP) in attribute[:20]


def _digest_of(signer: cms.SignerInfo) -> str:
    """hashlib's name of the hash in a signer's ``digestAlgorithm``."""
    name: str = _parsed(signer)["digest_algorithm"]["algorithm"].native
    return name


def _parsed(signer: cms.SignerInfo) -> Any:
    from asn1crypto import cms as asn1

    return asn1.SignerInfo.load(signer.encoded())


def _evidence(made: cms.SignedData, job: Job) -> levels.Evidence:
    """Evidence for the signer and for the authority of each signature time stamp."""
    from cryptography import x509

    from tokenauth.signing import levels

    signer = _parsed(made.signers[-1])
    certificates = [x509.load_der_x509_certificate(one) for one in made.certificates if one.startswith(b"\x30")]
    named = signer["sid"].chosen
    own = [
        one
        for one in certificates
        if one.serial_number == named["serial_number"].native and one.issuer.public_bytes() == named["issuer"].dump()
    ]
    if not own:
        raise TokenAuthError("the signature does not carry its signer's certificate")
    found = levels.evidence_for(own[0], certificates, job.means)
    for attribute in signer["unsigned_attrs"]:
        if attribute["type"].dotted == cms.SIGNATURE_TIME_STAMP:
            for token in attribute["values"]:
                found = found.merged(levels.evidence_for_token(token.dump(), job.means))
    return found


def _archive_time_stamp(made: cms.SignedData, job: Job) -> bytes:
    """An ``archive-time-stamp-v3`` (EN 319 122-1 section 5.5.3), a token with the index of what it covers."""
    from tokenauth.signing import levels

    signer = made.signers[-1]
    digest = _digest_of(signer)

    def hashed(value: bytes) -> bytes:
        return hashlib.new(digest, value).digest()

    parsed = _parsed(signer)
    values = [
        attribute["type"].dump() + value.dump()
        for attribute in parsed["unsigned_attrs"]
        for value in attribute["values"]
    ]
    columns = (made.certificates, made.revocations, values)
    index = der.sequence(
        cms.digest_algorithm(digest),
        *(der.sequence(*(der.octets(hashed(entry)) for entry in column)) for column in columns),
    )
    document = cms.message_digest(signer.signed)
    token = levels.timestamp(hashed(made.content_type + document + signer.covered + index), digest, job.means)
    return with_attribute(token, cms.attribute(_ATS_HASH_INDEX_V3, index))


def with_attribute(token: bytes, attribute: bytes) -> bytes:
    """A time-stamp token with one more unsigned attribute; its content stays what it is."""
    parsed, pieces = cms.read(token)
    content: bytes = parsed["encap_content_info"]["content"].contents
    before, after = pieces.with_signer(pieces.signers[-1].adding(attribute)).around(len(content))
    return before + content + after
