"""What raises a XAdES signature from B-B to B-T, B-LT and B-LTA (ETSI EN 319 132-1 sections 5.3 to 5.5, 6.3).

All of it is unsigned and comes behind the signature, so it can be added at any time, by anybody, without the key.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING, Any

from tokenauth.signing import xades_algorithms as algorithms
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

    from tokenauth.signing.model import Job
    from tokenauth.signing.xades_references import Resolver

__all__ = ["archive_imprint", "check", "extend", "reach", "signer_of"]

#: Of time stamps; every time-stamping authority takes it.
_DIGEST = "sha256"
_ARCHIVE = xades141("ArchiveTimeStamp")


def reach(signature: Any, job: Job, resolve: Resolver) -> None:
    """Raise a signature to the level of a job.

    Args:
        signature: the ``ds:Signature``, complete and where it will stay.
        job: the level and the means.
        resolve: gives the files that it is for, if they are not in its document.

    Raises:
        TokenAuthError: the level can not be reached.
    """
    steps = (("b-t", _time_stamp), ("b-lt", _validation_data), ("b-lta", _archive))
    for level, step in steps:
        if job.reaches(level):
            step(signature, job, resolve)


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
    from cryptography import x509

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
            try:
                return x509.load_der_x509_certificate(der)
            except ValueError as error:
                raise DocumentError(f"the signer's certificate in the signature can not be read: {error}") from None
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


def _stamped(stamp: Any, imprint: bytes, job: Job) -> None:
    """Fill in the token; without one the element does not stay."""
    from tokenauth.signing import levels

    try:
        token = levels.time_stamp(imprint, _DIGEST, job.means)
    except BaseException:
        stamp.getparent().remove(stamp)
        raise
    add(stamp, xades("EncapsulatedTimeStamp"), encoded(token))


def _time_stamp(signature: Any, job: Job, resolve: Resolver) -> None:  # noqa: ARG001 - all steps are called alike
    """B-T: when the signature was there at the latest (section 5.3.2)."""
    unsigned = _unsigned(signature)
    if unsigned.find(xades("SignatureTimeStamp")) is not None:
        return
    imprint = hashlib.new(_DIGEST, canonical(_part(signature, "SignatureValue"), C14N_11)).digest()
    _stamped(_stamp_element(unsigned, xades("SignatureTimeStamp")), imprint, job)


def _validation_data(signature: Any, job: Job, resolve: Resolver) -> None:  # noqa: ARG001
    """B-LT: all that shows that the signer's and the authority's certificates were good (sections 5.4.1 and 5.4.3)."""
    from tokenauth.signing import levels

    unsigned = _unsigned(signature)
    if unsigned.find(xades("RevocationValues")) is None:
        gathered = levels.gather(signer_of(signature), certificates_of(signature), job.means)
        _values(unsigned, gathered)
    _stamps_data(unsigned, xades("SignatureTimeStamp"), job)


def _stamps_data(unsigned: Any, tag: str, job: Job) -> None:
    """Validation data of the last time stamp of a kind, unless it is there (``TimeStampValidationData``, 5.5.1)."""
    from tokenauth.signing import levels

    stamp = unsigned.findall(tag)[-1]
    uri = f"#{stamp.get('Id')}"
    if any(one.get("URI") == uri for one in unsigned.iterfind(xades141("TimeStampValidationData"))):
        return
    token = decoded(stamp.findtext(xades("EncapsulatedTimeStamp")))
    data = add(unsigned, xades141("TimeStampValidationData"), URI=uri)
    try:
        _values(data, levels.gather_for_token(token, job.means))
    except BaseException:
        unsigned.remove(data)
        raise


def _values(holder: Any, gathered: Any) -> None:
    values = add(holder, xades("CertificateValues"))
    _list(values, "EncapsulatedX509Certificate", gathered.certificates)
    revocation = add(holder, xades("RevocationValues"))
    if gathered.crls:
        _list(add(revocation, xades("CRLValues")), "EncapsulatedCRLValue", gathered.crls)
    if gathered.ocsps:
        _list(add(revocation, xades("OCSPValues")), "EncapsulatedOCSPValue", gathered.ocsps)


def _list(holder: Any, name: str, values: Sequence[bytes]) -> None:
    for value in values:
        add(holder, xades(name), encoded(value))


def _archive(signature: Any, job: Job, resolve: Resolver) -> None:
    """B-LTA: a time stamp over all of it, which a later one renews (section 5.5.2)."""
    unsigned = _unsigned(signature)
    if unsigned.find(_ARCHIVE) is not None:
        _stamps_data(unsigned, _ARCHIVE, job)
    stamp = _stamp_element(unsigned, _ARCHIVE)
    try:
        imprint = archive_imprint(stamp, signature, _DIGEST, resolve)
    except BaseException:
        unsigned.remove(stamp)
        raise
    _stamped(stamp, imprint, job)
