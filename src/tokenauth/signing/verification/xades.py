"""XAdES (ETSI EN 319 132-1): signatures in XML documents, and XML signatures of files beside them."""

from __future__ import annotations

import datetime
import hmac
import re
from typing import TYPE_CHECKING, Any

from tokenauth.signing import xades_references as references
from tokenauth.signing.verification import algorithms, xades_levels
from tokenauth.signing.verification.assessment import Signature, failed, signer_name
from tokenauth.signing.verification.evidence import load_certificate
from tokenauth.signing.verification.verdicts import Broken, Doubtful, Finding, reading
from tokenauth.signing.verification.xml_coverage import Covered
from tokenauth.signing.verification.xml_coverage import covers as describe
from tokenauth.signing.verification.xml_structure import (
    check_structure,
    qualifying_properties,
    strictly_decoded,
    the_one,
)
from tokenauth.signing.xades_algorithms import digest_name
from tokenauth.signing.xades_xml import CANONICALISATIONS, canonical_by, ds, local_name, parse, xades

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenauth.signing.model import SignatureReport
    from tokenauth.signing.xades_references import Resolver

__all__ = ["is_xml", "signatures", "top_signatures"]

_SIGNED_PROPERTIES = "http://uri.etsi.org/01903#SignedProperties"
_WHOLE = (references.WHOLE, references.WHOLE_WITH_COMMENTS)
_WITH_COMMENTS = {name for name, method in CANONICALISATIONS.items() if method.comments}
_MOST_SIGNATURES, _MOST_REFERENCES = 100, 10_000
_MOST_WITHIN = 100  # references into the document, each of which takes as long as the document is large
#: Digests of which another content can be made; they are computed, and then doubted.
_WEAK_DIGESTS = {
    "http://www.w3.org/2000/09/xmldsig#sha1": "sha1",
    "http://www.w3.org/2001/04/xmldsig-more#md5": "md5",
}


def is_xml(head: bytes) -> bool:
    """Whether a file is XML, by its beginning."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return text.startswith(b"<") or head.startswith((b"\xff\xfe<\0", b"\xfe\xff\0<"))


def top_signatures(tree: Any) -> list[Any]:
    """The ``ds:Signature`` elements that are not inside another (those within are countersignatures).

    Raises:
        Broken: there are too many.
    """
    found = [one for one in tree.iter(ds("Signature")) if next(one.iterancestors(ds("Signature")), None) is None]
    if len(found) > _MOST_SIGNATURES:
        raise Broken(f"the document has more than {_MOST_SIGNATURES} signatures")
    return found


def signatures(
    data: bytes,
    resolve: Resolver,
    name: str = "the document",
    *,
    format: str = "xades",
    files: tuple[str, ...] = (),
    name_of: Callable[[str], str] = str,
) -> list[Signature | SignatureReport]:
    """The signatures in an XML document; a report for each that is not good already.

    Args:
        data: the document.
        resolve: gives the files beside it.
        name: what reasons call it.
        format: what reports call the format.
        files: the files that should be covered, of a container.
        name_of: the file's name from the URI of a reference.

    Raises:
        Broken: it can not be read.
        DocumentError: likewise.
    """
    with reading("the XML"):
        if re.match(rb"[^>]*encoding=.(?!utf|UTF)[uU][tT][fF]", data):
            raise Doubtful("the XML declares its encoding in a way that no known program does")
        tree = parse(data, name)
        if tree.docinfo.xml_version != "1.0":
            raise Doubtful("the document is not XML 1.0, which XML signatures are made for")
        if local_name(tree.getroot()) == "SignedDoc":
            raise Doubtful("it is a document in the old format DigiDoc-XML, which is not verified")
        found = top_signatures(tree)
        _check_ids(tree)
    return [_within_container(_signature(one, resolve, format), files, name_of) for one in found]


def _within_container(
    found: Signature | SignatureReport, files: tuple[str, ...], name_of: Callable[[str], str]
) -> Signature | SignatureReport:
    """Files of a container that a signature leaves out make it doubtful: the container looks whole."""
    if not isinstance(found, Signature):
        return found
    with reading("the names of the signed files"):
        covers = tuple(name_of(one) if files else one for one in found.covers)
    missing = sorted(set(files) - set(covers))
    left_out = Doubtful(f"files of the container are not covered: {', '.join(missing)}")
    return found._replace(covers=covers, problems=(*found.problems, *([left_out] if missing else [])))


def _check_ids(tree: Any) -> None:
    """No Id may be there twice: each reader could take another of the two."""
    seen: set[str] = set()
    for element in tree.iter("*"):
        own = {element.get(name) for name in ("Id", "ID", "id", "{http://www.w3.org/XML/1998/namespace}id")} - {None}
        if own & seen:
            raise Broken(f"the document has the Id {min(own & seen)!r} several times, so what is signed is ambiguous")
        seen |= own


def _signature(signature: Any, resolve: Resolver, format: str) -> Signature | SignatureReport:
    covers: tuple[str, ...] = ()
    signer = ""
    problems: list[Finding] = []
    try:
        with reading("the XML signature"):
            check_structure(signature)
            certificates = tuple(
                strictly_decoded(one.text)
                for one in signature.iterfind(f"{ds('KeyInfo')}/{ds('X509Data')}/{ds('X509Certificate')}")
            )
            properties = qualifying_properties(signature)
            certificate = _signer(properties, certificates)
            signer = signer_name(certificate)
            covered = _check_references(signature, properties, resolve, problems)
            covers = describe(covered, signature, problems)
            _check_value(signature, certificate)
            named = covered.properties is not None and _names(covered.properties)
            claimed = _claimed(covered.properties)
            evidence = xades_levels.evidence_of(signature, certificates)
            stamps, archive = xades_levels.stamps_of(signature, resolve)
    except Finding as problem:
        return failed(format, problem, signer=signer, covers=covers)
    return Signature(format, certificate, evidence, covers, claimed, named, stamps, archive, tuple(problems))


def _signer(properties: Any, certificates: tuple[bytes, ...]) -> bytes:
    """The certificate that the signed properties name; without them, the first in ``KeyInfo``."""
    if not certificates:
        raise Doubtful("the signer's certificate is not in the XML signature")
    named = [] if properties is None else _certificate_digests(properties)
    if not named:
        return certificates[0]
    for certificate in certificates:
        if any(hmac.compare_digest(_hash(name, certificate), digest) for name, digest in named[:1]):
            return certificate
    raise Broken("the signer's certificate is not the one that the signature names")


def _names(properties: Any) -> bool:
    return bool(_certificate_digests(properties.getparent()))


def _certificate_digests(properties: Any) -> list[tuple[str, bytes]]:
    """``SigningCertificateV2`` or ``SigningCertificate`` (EN 319 132-1 section 5.2.2): digest's name and value."""
    path = f"{xades('SignedProperties')}/{xades('SignedSignatureProperties')}"
    holders = [
        one
        for name in ("SigningCertificateV2", "SigningCertificate")
        for one in properties.iterfind(f"{path}/{xades(name)}")
    ]
    if len(holders) > 1:
        raise Broken("the signature names its signer's certificate several times")
    return [
        (_digest_name(the_one(one, ds("DigestMethod"))), references.decoded(the_one(one, ds("DigestValue")).text))
        for holder in holders
        for one in holder.iterfind(f"{xades('Cert')}/{xades('CertDigest')}")
    ]


def _digest_name(method: Any) -> str:
    uri = method.get("Algorithm", "")
    return _WEAK_DIGESTS.get(uri) or digest_name(uri)


def _hash(name: str, data: bytes) -> bytes:
    digest = algorithms.digester(name)
    digest.update(data)
    return bytes(digest.digest())


def _check_value(signature: Any, certificate: bytes) -> None:
    info = the_one(signature, ds("SignedInfo"))
    form = the_one(info, ds("CanonicalizationMethod"))
    message = canonical_by(info, form)
    method = algorithms.from_xml(the_one(info, ds("SignatureMethod")).get("Algorithm", ""))
    value = strictly_decoded(the_one(signature, ds("SignatureValue")).text)
    algorithms.check_signature(load_certificate(certificate).public_key(), method, value, message)


def _check_references(signature: Any, properties: Any, resolve: Resolver, problems: list[Finding]) -> Covered:
    """Check all digests.

    Raises:
        Broken: one is wrong, or leads nowhere.
    """
    found = signature.findall(f"{ds('SignedInfo')}/{ds('Reference')}")
    within = sum(not one.get("URI") or one.get("URI").startswith("#") for one in found)
    if len(found) > _MOST_REFERENCES or within > _MOST_WITHIN:
        raise Broken(
            f"the XML signature has more than {_MOST_REFERENCES} references, or {_MOST_WITHIN} into its document"
        )
    covered = Covered()
    for reference in found:
        name = _digest_name(reference.find(ds("DigestMethod")))
        digest = algorithms.digester(name)
        for piece in references.octets(reference, resolve):
            digest.update(piece)
        if not hmac.compare_digest(digest.digest(), references.decoded(reference.findtext(ds("DigestValue")))):
            raise Broken(f"{_what(reference)} was changed after it was signed: its digest is another")
        try:
            algorithms.check_digest_name(name, "the XML signature")
        except Doubtful as problem:
            problems.append(problem)
        covered = _with(covered, reference, properties)
    if covered.properties is None and properties is not None:
        raise Broken("the XAdES properties are not covered by the signature")
    return covered


def _what(reference: Any) -> str:
    uri = reference.get("URI", "")
    if reference.get("Type") == _SIGNED_PROPERTIES:
        return "what the signer states"
    return "the document" if uri in _WHOLE else f"the element {uri}" if uri.startswith("#") else f"the file {uri}"


def _with(covered: Covered, reference: Any, properties: Any) -> Covered:
    uri = reference.get("URI", "")
    if uri and not uri.startswith("#"):
        return covered._replace(files=(*covered.files, uri))
    root = reference.getroottree().getroot()
    element = root if uri in _WHOLE else references.by_id(root, uri[1:])
    if element.tag == xades("SignedProperties"):
        if properties is None or element.getparent() is not properties:
            raise Broken("the signature covers the XAdES properties of another signature")
        if reference.get("Type") != _SIGNED_PROPERTIES:
            raise Broken("the reference to the XAdES properties is not marked as such")
        return covered._replace(properties=element)
    if reference.get("Type") == _SIGNED_PROPERTIES:
        raise Broken("the reference to the XAdES properties leads to something else")
    if uri in _WHOLE:
        last = reference.findall(f"{ds('Transforms')}/{ds('Transform')}")[-1:]
        takes = uri == references.WHOLE_WITH_COMMENTS and any(one.get("Algorithm") in _WITH_COMMENTS for one in last)
        return covered._replace(without_signatures=True, comments=covered.comments or takes)
    return covered._replace(elements=(*covered.elements, element))


def _claimed(properties: Any) -> datetime.datetime | None:
    if properties is None:
        return None
    text = properties.findtext(f"{xades('SignedSignatureProperties')}/{xades('SigningTime')}")
    if not text:
        return None
    with reading("the time that the signer states"):
        read = datetime.datetime.fromisoformat(text.strip())
        return read if read.tzinfo else read.replace(tzinfo=datetime.UTC)
