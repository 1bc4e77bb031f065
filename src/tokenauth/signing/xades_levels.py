"""What raises a XAdES signature from B-B to B-T, B-LT and B-LTA (ETSI EN 319 132-1 sections 5.3 to 5.5, 6.3).

All of it is unsigned and comes behind the signature, so it can be added at any time, by anybody, without the key.
"""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tokenauth.errors import LevelNotReached
from tokenauth.signing.levels import evidence_for, evidence_for_token, optional, timestamp
from tokenauth.signing.refusals import DocumentError
from tokenauth.signing.xades_build import encoded
from tokenauth.signing.xades_check import (
    ARCHIVE_STAMP,
    SIGNATURE_STAMP,
    archive_imprint,
    certificates_of,
    check,
    parsed_certificate,
    signer_of,
    value_imprint,
)
from tokenauth.signing.xades_references import decoded
from tokenauth.signing.xades_xml import C14N_11, add, ds, local_name, xades, xades141

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tokenauth.signing.levels import Evidence
    from tokenauth.signing.model import Job
    from tokenauth.signing.xades_references import Resolver

__all__ = ["extend", "reach"]

#: Of time stamps; every time-stamping authority takes it.
_DIGEST = "sha256"
#: A CRL of more bytes is more base64 than libxml2 reads as one text.
_MOST_IN_A_TEXT = 7_400_000
_STAMP_DATA = xades141("TimeStampValidationData")


def reach(signature: Any, job: Job, resolve: Resolver) -> None:
    """Raise a signature to the level of a job.

    Args:
        signature: the ``ds:Signature``, complete and where it will stay.
        job: the level and the means.
        resolve: gives the files that it is for, if they are not in its document.

    Raises:
        LevelNotReached: it can not be reached, and the job does not allow a lower one.
        TokenAuthError: a certificate is not good.
    """
    steps = (("b-t", _time_stamp), ("b-lt", _validation_data), ("b-lta", _archive))
    for level, step in steps:
        if not optional(job, level, lambda step=step: step(signature, job, resolve)):  # type: ignore[misc]
            return


def extend(signature: Any, job: Job, resolve: Resolver) -> None:
    """As :func:`reach`, for a signature that somebody made before; one that does not verify is not worth the effort.

    Raises:
        DocumentError: it does not verify.
    """
    check(signature, resolve)
    reach(signature, job, resolve)


def _unsigned(signature: Any) -> Any:
    """The element that holds the unsigned properties; made if it is not there.

    Raises:
        DocumentError: the signature is no XAdES signature.
    """
    found = signature.findall(f"{ds('Object')}/{xades('QualifyingProperties')}")
    if len(found) != 1:
        raise DocumentError("the XML signature has no XAdES properties, so it has no level that could be raised")
    holder = found[0]
    for name in ("UnsignedProperties", "UnsignedSignatureProperties"):
        below = holder.find(xades(name))
        holder = add(holder, xades(name)) if below is None else below
    return holder


def _stamp_element(unsigned: Any, tag: str) -> Any:
    stamp = add(unsigned, tag)
    add(stamp, ds("CanonicalizationMethod"), Algorithm=C14N_11)
    return stamp


@contextmanager
def _complete_or_gone(element: Any) -> Iterator[None]:
    """An element that can not be filled in does not stay, nor those that hold nothing else: they may not be empty."""
    try:
        yield
    except BaseException:
        while len(element.getparent()) == 1 and local_name(element.getparent()).startswith("Unsigned"):
            element = element.getparent()
        element.getparent().remove(element)
        raise


def _time_stamp(signature: Any, job: Job, resolve: Resolver) -> bool:  # noqa: ARG001 - all steps are called alike
    """B-T: when the signature was there at the latest (section 5.3)."""
    unsigned = _unsigned(signature)
    if unsigned.find(SIGNATURE_STAMP) is None:
        stamp = _stamp_element(unsigned, SIGNATURE_STAMP)
        with _complete_or_gone(stamp):
            imprint = value_imprint(stamp, signature, _DIGEST)
            add(stamp, xades("EncapsulatedTimeStamp"), encoded(timestamp(imprint, _DIGEST, job.means)))
    return True


def _validation_data(signature: Any, job: Job, resolve: Resolver) -> bool:  # noqa: ARG001
    """B-LT: all that shows that the signer's and the authority's certificates were good (section 5.4)."""
    unsigned = _unsigned(signature)
    has_values = unsigned.find(xades("RevocationValues")) is not None
    known = [parsed for der in certificates_of(signature) if (parsed := parsed_certificate(der))]
    evidence = None if has_values else _fits(evidence_for(signer_of(signature), known, job.means))
    _evidence_of_last_stamp(unsigned, SIGNATURE_STAMP, job)
    if evidence is not None:
        _values(unsigned, evidence)
    return True


def _archive(signature: Any, job: Job, resolve: Resolver) -> bool:
    """B-LTA: a time stamp over all of it, which a later one renews (section 5.5)."""
    unsigned = _unsigned(signature)
    if unsigned.find(ARCHIVE_STAMP) is not None:
        _evidence_of_last_stamp(unsigned, ARCHIVE_STAMP, job)
    stamp = _stamp_element(unsigned, ARCHIVE_STAMP)
    with _complete_or_gone(stamp):
        imprint = archive_imprint(stamp, signature, _DIGEST, resolve)
        add(stamp, xades("EncapsulatedTimeStamp"), encoded(timestamp(imprint, _DIGEST, job.means)))
    return True


def _evidence_of_last_stamp(unsigned: Any, tag: str, job: Job) -> None:
    """Evidence for the last time stamp of a kind, unless it is there (``TimeStampValidationData``)."""
    stamp = unsigned.findall(tag)[-1]
    is_covered = next(stamp.itersiblings(ARCHIVE_STAMP), None) is not None
    if not (stamp.get("Id") or is_covered):
        stamp.set("Id", f"TS-{secrets.token_hex(8)}")  # not before something refers to it
    uri = f"#{stamp.get('Id')}" if stamp.get("Id") else None
    if any(one.get("URI") == uri for one in unsigned.iterfind(_STAMP_DATA)):
        return
    evidence = evidence_for_token(decoded(stamp.findtext(xades("EncapsulatedTimeStamp"))), job.means)
    _values(add(unsigned, _STAMP_DATA, **({"URI": uri} if uri else {})), _fits(evidence))


def _values(holder: Any, evidence: Evidence) -> None:
    """Write evidence (sections 5.4.1 and 5.4.3)."""
    values = add(holder, xades("CertificateValues"))
    _write(values, "EncapsulatedX509Certificate", evidence.certificates)
    revocation = add(holder, xades("RevocationValues"))
    if evidence.crls:
        _write(add(revocation, xades("CRLValues")), "EncapsulatedCRLValue", evidence.crls)
    if evidence.ocsps:
        _write(add(revocation, xades("OCSPValues")), "EncapsulatedOCSPValue", evidence.ocsps)


def _write(holder: Any, name: str, values: Sequence[bytes]) -> None:
    for value in values:
        add(holder, xades(name), encoded(value))


def _fits(evidence: Evidence) -> Evidence:
    """The evidence, if readers with libxml2's limits (10 million characters in a text) can read it back.

    Raises:
        LevelNotReached: they can not.
    """
    largest = max(map(len, (*evidence.certificates, *evidence.ocsps, *evidence.crls)))
    if largest > _MOST_IN_A_TEXT:
        raise LevelNotReached(
            f"a CRL has {largest} bytes; at most {_MOST_IN_A_TEXT} fit into an XML signature",
            hint="the level needs an OCSP responder for these certificates; or sign as --format cades or pades",
        )
    return evidence
