"""What raises a XAdES signature from B-B to B-T, B-LT and B-LTA (ETSI EN 319 132-1 sections 5.3 to 5.5, 6.3).

All of it is unsigned and comes behind the signature, so it can be added at any time, by anybody, without the key.
"""

from __future__ import annotations

import hashlib
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tokenauth.signing import xades_algorithms as algorithms
from tokenauth.signing.levels import evidence_for, evidence_for_token, optional, timestamp
from tokenauth.signing.refusals import DocumentError
from tokenauth.signing.xades_build import encoded
from tokenauth.signing.xades_references import decoded, holds, octets
from tokenauth.signing.xades_xml import (
    C14N,
    C14N_11,
    add,
    canonical,
    ds,
    local_name,
    xades,
    xades141,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cryptography import x509

    from tokenauth.signing.levels import Evidence
    from tokenauth.signing.model import Job
    from tokenauth.signing.xades_references import Resolver

__all__ = ["archive_imprint", "check", "extend", "reach", "signer_of"]

#: Of time stamps; every time-stamping authority takes it.
_DIGEST = "sha256"
_SIGNATURE_STAMP, _ARCHIVE_STAMP = xades("SignatureTimeStamp"), xades141("ArchiveTimeStamp")
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


def check(signature: Any, resolve: Resolver) -> None:
    """See that a signature and all its references verify with the certificate in it, whoever's that may be.

    Raises:
        DocumentError: they do not, or use what is not accepted.
    """
    info, value = _part(signature, "SignedInfo"), _part(signature, "SignatureValue")
    method, form = _part(info, "SignatureMethod"), _part(info, "CanonicalizationMethod")
    message = canonical(info, form.get("Algorithm", ""))
    public_key = signer_of(signature).public_key()
    if not algorithms.verify(public_key, method.get("Algorithm", ""), decoded(value.text), message):
        raise DocumentError("the signature does not verify with the certificate in it, so its level can not be raised")
    for reference in info.iterfind(ds("Reference")):
        if not holds(reference, resolve):
            raise DocumentError(
                f"what was signed has changed since ({reference.get('URI')!r}), so the level can not be raised"
            )


def signer_of(signature: Any) -> x509.Certificate:
    """The certificate in ``KeyInfo`` that the signed properties name by its digest.

    Raises:
        DocumentError: there is none.
    """
    wanted = {
        (
            algorithms.digest_name(one.find(ds("DigestMethod")).get("Algorithm", "")),
            decoded(one.findtext(ds("DigestValue"))),
        )
        for one in signature.iterfind(
            f"{ds('Object')}/{xades('QualifyingProperties')}/{xades('SignedProperties')}"
            f"/{xades('SignedSignatureProperties')}/*/{xades('Cert')}/{xades('CertDigest')}"
        )
        if one.find(ds("DigestMethod")) is not None
    }
    for der in certificates_of(signature):
        if any(hashlib.new(name, der).digest() == digest for name, digest in wanted):
            found = _parsed(der)
            if found is None:
                raise DocumentError("the signer's certificate in the signature can not be read")
            return found
    raise DocumentError("the signature does not hold the signer's certificate that its signed properties name")


def certificates_of(signature: Any) -> list[bytes]:
    """The certificates in ``KeyInfo``, DER."""
    path = f"{ds('KeyInfo')}/{ds('X509Data')}/{ds('X509Certificate')}"
    return [decoded(one.text) for one in signature.iterfind(path)]


def archive_imprint(stamp: Any, signature: Any, digest: str, resolve: Resolver) -> bytes:
    """The digest that an ``ArchiveTimeStamp`` is for (ETSI EN 319 132-1 section 5.5.2.2).

    Args:
        stamp: the element; what comes before it is stamped.
        signature: the ``ds:Signature``.
        digest: hashlib's name.
        resolve: gives the files that the signature is for.
    """
    hashed = hashlib.new(digest)
    method = stamp.find(ds("CanonicalizationMethod"))
    algorithm = C14N if method is None else method.get("Algorithm", "")
    info = _part(signature, "SignedInfo")
    for reference in info.iterfind(ds("Reference")):
        for piece in octets(reference, resolve):
            hashed.update(piece)
    parts = [info, _part(signature, "SignatureValue"), *signature.iterfind(ds("KeyInfo"))]
    for part in (*parts, *_before(stamp), *_unreferenced_objects(signature)):
        hashed.update(canonical(part, algorithm))
    return hashed.digest()


def _before(stamp: Any) -> list[Any]:
    """The unsigned properties in front of a time stamp."""
    return [one for one in stamp.itersiblings(preceding=True) if local_name(one)][::-1]


def _unreferenced_objects(signature: Any) -> Iterator[Any]:
    uris = {one.get("URI") for one in signature.iterfind(f"{ds('SignedInfo')}/{ds('Reference')}")}
    for holder in signature.iterfind(ds("Object")):
        identifier = holder.get("Id")
        if holder.find(xades("QualifyingProperties")) is None and (not identifier or f"#{identifier}" not in uris):
            yield holder


def _part(element: Any, name: str) -> Any:
    found = element.findall(ds(name))
    if len(found) != 1:
        raise DocumentError(f"the XML signature has {len(found)} elements {name} where there should be one")
    return found[0]


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
    stamp = add(unsigned, tag, Id=f"TS-{secrets.token_hex(8)}")
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
    if unsigned.find(_SIGNATURE_STAMP) is None:
        imprint = hashlib.new(_DIGEST, canonical(_part(signature, "SignatureValue"), C14N_11)).digest()
        stamp = _stamp_element(unsigned, _SIGNATURE_STAMP)
        with _complete_or_gone(stamp):
            add(stamp, xades("EncapsulatedTimeStamp"), encoded(timestamp(imprint, _DIGEST, job.means)))
    return True


def _validation_data(signature: Any, job: Job, resolve: Resolver) -> bool:  # noqa: ARG001
    """B-LT: all that shows that the signer's and the authority's certificates were good (section 5.4)."""
    unsigned = _unsigned(signature)
    has_values = unsigned.find(xades("RevocationValues")) is not None
    known = [parsed for der in certificates_of(signature) if (parsed := _parsed(der))]
    evidence = None if has_values else evidence_for(signer_of(signature), known, job.means)
    _evidence_of_last_stamp(unsigned, _SIGNATURE_STAMP, job)
    if evidence is not None:
        _values(unsigned, evidence)
    return True


def _archive(signature: Any, job: Job, resolve: Resolver) -> bool:
    """B-LTA: a time stamp over all of it, which a later one renews (section 5.5)."""
    unsigned = _unsigned(signature)
    if unsigned.find(_ARCHIVE_STAMP) is not None:
        _evidence_of_last_stamp(unsigned, _ARCHIVE_STAMP, job)
    stamp = _stamp_element(unsigned, _ARCHIVE_STAMP)
    with _complete_or_gone(stamp):
        imprint = archive_imprint(stamp, signature, _DIGEST, resolve)
        add(stamp, xades("EncapsulatedTimeStamp"), encoded(timestamp(imprint, _DIGEST, job.means)))
    return True


def _evidence_of_last_stamp(unsigned: Any, tag: str, job: Job) -> None:
    """Evidence for the last time stamp of a kind, unless it is there (``TimeStampValidationData``)."""
    stamp = unsigned.findall(tag)[-1]
    identifier = stamp.get("Id")
    uri = f"#{identifier}" if identifier else None
    if any(one.get("URI") == uri for one in unsigned.iterfind(_STAMP_DATA)):
        return
    evidence = evidence_for_token(decoded(stamp.findtext(xades("EncapsulatedTimeStamp"))), job.means)
    _values(add(unsigned, _STAMP_DATA, **({"URI": uri} if uri else {})), evidence)


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


def _parsed(der: bytes) -> x509.Certificate | None:
    from cryptography import x509

    try:
        return x509.load_der_x509_certificate(der)
    except ValueError:
        return None
