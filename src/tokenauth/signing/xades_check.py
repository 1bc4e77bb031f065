"""Whether a XAdES signature fits together: its value, what it is for, and its time stamps.

This is what is seen to before a level is raised. Whom to trust is the verification's question, not this one's.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from tokenauth.signing import xades_algorithms as algorithms
from tokenauth.signing.refusals import DocumentError
from tokenauth.signing.xades_references import decoded, holds, octets
from tokenauth.signing.xades_xml import canonical_by, ds, local_name, xades, xades141

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography import x509

    from tokenauth.signing.xades_references import Resolver

__all__ = [
    "ARCHIVE_STAMP",
    "SIGNATURE_STAMP",
    "archive_imprint",
    "certificates_of",
    "check",
    "parsed_certificate",
    "part",
    "signer_of",
    "value_imprint",
]

SIGNATURE_STAMP, ARCHIVE_STAMP = xades("SignatureTimeStamp"), xades141("ArchiveTimeStamp")


def check(signature: Any, resolve: Resolver) -> None:
    """See that a signature, its references and its time stamps fit together, whoever's the certificate in it may be.

    Raises:
        DocumentError: they do not, or use what is not accepted.
    """
    info, value = part(signature, "SignedInfo"), part(signature, "SignatureValue")
    method, form = part(info, "SignatureMethod"), part(info, "CanonicalizationMethod")
    message = canonical_by(info, form)
    public_key = signer_of(signature).public_key()
    if not algorithms.verify(public_key, method.get("Algorithm", ""), decoded(value.text), message):
        raise DocumentError("the signature does not verify with the certificate in it, so its level can not be raised")
    for reference in info.iterfind(ds("Reference")):
        if not holds(reference, resolve):
            raise DocumentError(
                f"what was signed has changed since ({reference.get('URI')!r}), so the level can not be raised"
            )
    for stamp in signature.iterfind(f".//{xades('UnsignedSignatureProperties')}/*"):
        if stamp.tag in (SIGNATURE_STAMP, ARCHIVE_STAMP):
            _check_stamp(stamp, signature, resolve)


def _check_stamp(stamp: Any, signature: Any, resolve: Resolver) -> None:
    """See that a time stamp is of what it should be of."""
    from asn1crypto import cms, tsp

    token = decoded(stamp.findtext(xades("EncapsulatedTimeStamp")))
    try:
        content = cms.ContentInfo.load(token)["content"]["encap_content_info"]["content"]
        covered = content.parse(tsp.TSTInfo)["message_imprint"]
        digest, imprint = covered["hash_algorithm"]["algorithm"].native, covered["hashed_message"].native
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DocumentError(f"a time stamp of the signature can not be read: {error}") from None
    if digest not in algorithms.DIGESTS.values():
        raise DocumentError(f"a time stamp of the signature uses the digest {digest!r}, which is not accepted")
    if stamp.tag == SIGNATURE_STAMP:
        expected = value_imprint(stamp, signature, digest)
    else:
        expected = archive_imprint(stamp, signature, digest, resolve)
    if imprint != expected:
        raise DocumentError("a time stamp of the signature is of something else, so the level can not be raised")


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
            found = parsed_certificate(der)
            if found is None:
                raise DocumentError("the signer's certificate in the signature can not be read")
            return found
    raise DocumentError("the signature does not hold the signer's certificate that its signed properties name")


def certificates_of(signature: Any) -> list[bytes]:
    """The certificates in ``KeyInfo``, DER."""
    path = f"{ds('KeyInfo')}/{ds('X509Data')}/{ds('X509Certificate')}"
    return [decoded(one.text) for one in signature.iterfind(path)]


def value_imprint(stamp: Any, signature: Any, digest: str) -> bytes:
    """The digest that a ``SignatureTimeStamp`` is for (ETSI EN 319 132-1 section 5.3).

    Args:
        stamp: the element.
        signature: the ``ds:Signature``.
        digest: hashlib's name.
    """
    return hashlib.new(digest, _form(part(signature, "SignatureValue"), stamp)).digest()


def archive_imprint(stamp: Any, signature: Any, digest: str, resolve: Resolver) -> bytes:
    """The digest that an ``ArchiveTimeStamp`` is for (ETSI EN 319 132-1 section 5.5.2.2).

    Args:
        stamp: the element; what comes before it is stamped.
        signature: the ``ds:Signature``.
        digest: hashlib's name.
        resolve: gives the files that the signature is for.
    """
    hashed = hashlib.new(digest)
    info = part(signature, "SignedInfo")
    for reference in info.iterfind(ds("Reference")):
        for piece in octets(reference, resolve):
            hashed.update(piece)
    parts = [info, part(signature, "SignatureValue"), *signature.iterfind(ds("KeyInfo"))]
    for one in (*parts, *_before(stamp), *_unreferenced_objects(signature)):
        hashed.update(_form(one, stamp))
    return hashed.digest()


def _form(element: Any, stamp: Any) -> bytes:
    return canonical_by(element, stamp.find(ds("CanonicalizationMethod")))


def _before(stamp: Any) -> list[Any]:
    """The unsigned properties in front of a time stamp."""
    return [one for one in stamp.itersiblings(preceding=True) if local_name(one)][::-1]


def _unreferenced_objects(signature: Any) -> Iterator[Any]:
    uris = {one.get("URI") for one in signature.iterfind(f"{ds('SignedInfo')}/{ds('Reference')}")}
    for holder in signature.iterfind(ds("Object")):
        identifier = holder.get("Id")
        if holder.find(xades("QualifyingProperties")) is None and (not identifier or f"#{identifier}" not in uris):
            yield holder


def part(element: Any, name: str) -> Any:
    """The one child of an element of XML Signature.

    Raises:
        DocumentError: there is none, or several.
    """
    found = element.findall(ds(name))
    if len(found) != 1:
        raise DocumentError(f"the XML signature has {len(found)} elements {name} where there should be one")
    return found[0]


def parsed_certificate(der: bytes) -> x509.Certificate | None:
    """A certificate, or None if it is none."""
    from cryptography import x509

    try:
        return x509.load_der_x509_certificate(der)
    except ValueError:
        return None
