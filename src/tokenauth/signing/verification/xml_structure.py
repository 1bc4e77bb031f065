"""The structure that an XML signature must have: nothing in it that is neither signed nor checked in another way.

Wrapping attacks put something else beside, around or into a signature and hope that one reader verifies the one and
another reader shows the other. So each part is there exactly once, at its place, and holds what it may hold.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from tokenauth.signing import xades_references as references
from tokenauth.signing.verification.verdicts import Broken, Doubtful
from tokenauth.signing.xades_xml import ds, local_name, xades, xades141

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["check_structure", "qualifying_properties", "strictly_decoded", "the_one", "unsigned_properties"]

_TEXT = "text"
#: Element: the elements that it may hold, or text. What is not here is not looked into.
_CHILDREN: dict[str, tuple[str, ...] | str] = {
    ds("Signature"): (ds("SignedInfo"), ds("SignatureValue"), ds("KeyInfo"), ds("Object")),
    ds("SignedInfo"): (ds("CanonicalizationMethod"), ds("SignatureMethod"), ds("Reference")),
    ds("Reference"): (ds("Transforms"), ds("DigestMethod"), ds("DigestValue")),
    ds("SignatureValue"): _TEXT,
    ds("DigestValue"): _TEXT,
    ds("KeyInfo"): (ds("X509Data"), ds("KeyValue"), ds("KeyName")),
    ds("X509Data"): (
        ds("X509Certificate"),
        ds("X509IssuerSerial"),
        ds("X509SubjectName"),
        ds("X509SKI"),
        ds("X509CRL"),
    ),
    ds("X509Certificate"): _TEXT,
    xades("QualifyingProperties"): (xades("SignedProperties"), xades("UnsignedProperties")),
    xades("UnsignedProperties"): (xades("UnsignedSignatureProperties"),),
    xades("UnsignedSignatureProperties"): (
        xades("SignatureTimeStamp"),
        xades("CertificateValues"),
        xades("RevocationValues"),
        xades("CompleteCertificateRefs"),
        xades("CompleteRevocationRefs"),
        xades141("CompleteCertificateRefsV2"),
        xades141("TimeStampValidationData"),
        xades141("ArchiveTimeStamp"),
    ),
    xades141("TimeStampValidationData"): (xades("CertificateValues"), xades("RevocationValues")),
    xades("CertificateValues"): (xades("EncapsulatedX509Certificate"),),
    xades("RevocationValues"): (xades("CRLValues"), xades("OCSPValues")),
    xades("CRLValues"): (xades("EncapsulatedCRLValue"),),
    xades("OCSPValues"): (xades("EncapsulatedOCSPValue"),),
    xades("SignatureTimeStamp"): (ds("CanonicalizationMethod"), xades("EncapsulatedTimeStamp")),
    xades141("ArchiveTimeStamp"): (ds("CanonicalizationMethod"), xades("EncapsulatedTimeStamp")),
    xades("EncapsulatedX509Certificate"): _TEXT,
    xades("EncapsulatedCRLValue"): _TEXT,
    xades("EncapsulatedOCSPValue"): _TEXT,
    xades("EncapsulatedTimeStamp"): _TEXT,
}
#: Attributes of those elements; what is not here has none but these.
_ATTRIBUTES = {
    ds("Reference"): {"Id", "URI", "Type"},
    ds("CanonicalizationMethod"): {"Algorithm"},
    ds("SignatureMethod"): {"Algorithm"},
    ds("DigestMethod"): {"Algorithm"},
    xades("QualifyingProperties"): {"Id", "Target"},
    xades141("TimeStampValidationData"): {"Id", "URI"},
    **{
        xades(f"Encapsulated{name}"): {"Id", "Encoding"}
        for name in ("X509Certificate", "CRLValue", "OCSPValue", "TimeStamp")
    },
}
_DER_ENCODINGS = {None, "http://uri.etsi.org/01903/v1.2.2#DER"}


def check_structure(signature: Any) -> None:
    """Check a ``ds:Signature`` and all that is in it, short of what its objects hold.

    Raises:
        Broken: a part is missing, there twice, or at a wrong place.
        Doubtful: there is something that is not known.
    """
    the_one(signature, ds("SignedInfo"))
    the_one(signature, ds("SignatureValue"))
    for element in _parts(signature):
        _check_element(element)
    order = [local_name(child) for child in signature if local_name(child) != "Object"]
    if order not in (["SignedInfo", "SignatureValue"], ["SignedInfo", "SignatureValue", "KeyInfo"]):
        raise Broken("the parts of the XML signature are not in their order")
    info = signature[0]
    for name in ("CanonicalizationMethod", "SignatureMethod"):
        the_one(info, ds(name))
    if not info.findall(ds("Reference")):
        raise Broken("the XML signature signs nothing")
    for reference in info.findall(ds("Reference")):
        the_one(reference, ds("DigestMethod"))
        the_one(reference, ds("DigestValue"))


def the_one(element: Any, tag: str) -> Any:
    """The only child of a name.

    Raises:
        Broken: there is none, or there are several.
    """
    found = element.findall(tag)
    if len(found) != 1:
        raise Broken(f"the XML signature has {len(found)} elements {local_name_of(tag)} where there should be one")
    return found[0]


def local_name_of(tag: str) -> str:
    """A name without its namespace."""
    return tag.rpartition("}")[2]


def _parts(signature: Any) -> Iterator[Any]:
    """The elements that are the signature's own: objects are entered only for their XAdES properties."""
    waiting = [signature]
    while waiting:
        element = waiting.pop()
        yield element
        if element.tag == ds("Object"):
            waiting += element.findall(xades("QualifyingProperties"))
        elif element.tag in _CHILDREN:
            waiting += [child for child in element if child.tag not in (xades("SignedProperties"),)]


def _check_element(element: Any) -> None:
    name = local_name(element)
    if not name:
        raise Doubtful("there are comments or processing instructions inside the XML signature")
    allowed = _CHILDREN.get(element.tag)
    if allowed == _TEXT:
        if len(element):
            raise Broken(f"{name} in the XML signature holds more than text")
        if element.get("Encoding") not in _DER_ENCODINGS:
            raise Doubtful(f"{name} in the XML signature has an unknown encoding")
    elif allowed is not None:
        _check_children(element, name, allowed)
    if allowed is not None or element.tag in _ATTRIBUTES:
        unknown = set(element.attrib) - _ATTRIBUTES.get(element.tag, {"Id"})
        if unknown:
            raise Doubtful(f"{name} in the XML signature has the unknown attribute {min(unknown)}")


def _check_children(element: Any, name: str, allowed: tuple[str, ...] | str) -> None:
    for child in element:
        if child.tag not in allowed:
            raise Doubtful(
                f"{name} in the XML signature holds {local_name(child) or 'a comment'}, which is not known there"
            )
    if any(text and text.strip() for text in (element.text, *(child.tail for child in element))):
        raise Broken(f"{name} in the XML signature holds text where there should be none")


def strictly_decoded(text: str | None) -> bytes:
    """Base64 in the one way to write those octets, white space apart.

    Raises:
        Broken: it is none, or another way.
    """
    decoded = references.decoded(text)
    if base64.b64encode(decoded).decode() != "".join((text or "").split()):
        raise Broken("the XML signature holds base64 that is not written as it should be")
    return decoded


def qualifying_properties(signature: Any) -> Any:
    """The XAdES properties of a signature; None if it has none.

    Raises:
        Broken: there are several, or they are for another signature.
    """
    found = signature.findall(f"{ds('Object')}/{xades('QualifyingProperties')}")
    if not found:
        return None
    if len(found) > 1:
        raise Broken("the XML signature has several sets of XAdES properties")
    if found[0].get("Target") != f"#{signature.get('Id')}":
        raise Broken("the XAdES properties are for another signature")
    if len(found[0].getparent()) != 1:
        raise Doubtful("the object with the XAdES properties holds something else too")
    return found[0]


def unsigned_properties(signature: Any) -> list[Any]:
    """The unsigned properties, in order."""
    return list(
        signature.iterfind(
            f"{ds('Object')}/{xades('QualifyingProperties')}/{xades('UnsignedProperties')}"
            f"/{xades('UnsignedSignatureProperties')}/*"
        )
    )
