"""What the references of an XML signature cover of the document it is in, and what they do not."""

from __future__ import annotations

from typing import Any

from tokenauth._records import Record
from tokenauth.signing.verification.verdicts import Doubtful, Finding
from tokenauth.signing.xades_xml import ds, local_name, xades

__all__ = ["Covered", "covers"]

_ENCODINGS = (None, "http://www.w3.org/2000/09/xmldsig#base64")


class Covered(Record):
    """What the references of a signature come to.

    Args:
        elements: the elements of the document that are covered with all that is in them.
        without_signatures: the whole document is, but signatures in it are not.
        comments: nor are comments, if this is not so.
        files: the URIs of the files beside the document.
        properties: the covered ``xades:SignedProperties``, or None.
    """

    elements: tuple[Any, ...] = ()
    without_signatures: bool = False
    comments: bool = False
    files: tuple[str, ...] = ()
    properties: Any = None


def covers(covered: Covered, signature: Any, problems: list[Finding]) -> tuple[str, ...]:
    """What is covered, in words; parts of the document that are not make the signature doubtful."""
    left_out = "signatures" if covered.comments else "signatures and comments"
    words = [f"the whole document, without the {left_out} in it"] if covered.without_signatures else []
    words += [f"the element {local_name(one)} (Id {_identifier(one)})" for one in covered.elements]
    words += list(covered.files)
    if not words:
        problems.append(Doubtful("the signature covers nothing but what the signer states"))
    root = signature.getroottree().getroot()
    if not covered.without_signatures and [*root.itersiblings(preceding=True), *root.itersiblings()]:
        problems.append(Doubtful("the signature does not cover what stands before or behind the document's element"))
    loose = [] if covered.without_signatures else _loose(signature, covered.elements)
    if loose:
        names = ", ".join(dict.fromkeys(local_name(one) for one in loose[:5]))
        problems.append(Doubtful(f"the signature covers only a part of the document; not: {names}"))
        words.append(f"not: {names}")
    _check_objects(signature, covered, problems)
    return tuple(words)


def _check_objects(signature: Any, covered: Covered, problems: list[Finding]) -> None:
    """What a signature holds must be covered, and called what the signer calls it."""
    kinds = _media_types(signature, covered.properties)
    for one in signature.findall(ds("Object")):
        if set(one.attrib) - {"Id", "MimeType", "Encoding"}:
            problems.append(Doubtful("an object in the signature has attributes that are not known"))
        if one.find(xades("QualifyingProperties")) is not None:
            continue
        if not _is_within(one, covered.elements):
            if len(one) == 0 or not all(_is_within(child, covered.elements) for child in one):
                problems.append(Doubtful("the signature holds an object that it does not cover"))
        elif one.get("MimeType") not in (None, kinds.get(one.get("Id"))) or one.get("Encoding") not in _ENCODINGS:
            problems.append(Doubtful("an object in the signature is called another kind of data than the signer does"))


def _media_types(signature: Any, properties: Any) -> dict[str, str]:
    """Id of an object: its media type as the signer states it (EN 319 132-1 section 5.2.4)."""
    if properties is None:
        return {}
    forms = properties.iterfind(f"{xades('SignedDataObjectProperties')}/{xades('DataObjectFormat')}")
    by_reference = {form.get("ObjectReference"): form.findtext(xades("MimeType")) for form in forms}
    return {
        str(reference.get("URI"))[1:]: by_reference.get(f"#{reference.get('Id')}") or ""
        for reference in signature.iterfind(f"{ds('SignedInfo')}/{ds('Reference')}")
    }


def _identifier(element: Any) -> str:
    return str(element.get("Id") or element.get("ID") or element.get("id"))


def _is_within(element: Any, covered: tuple[Any, ...]) -> bool:
    return any(one is element for one in covered) or any(
        above is one for above in element.iterancestors() for one in covered
    )


def _loose(signature: Any, covered: tuple[Any, ...]) -> list[Any]:
    """The elements of the document beside what is covered: all but it, what is around it, and signatures."""
    kept = {*covered, *(above for one in covered for above in one.iterancestors())}
    kept |= set(signature.iterancestors())
    root = signature.getroottree().getroot()
    waiting, loose = [root], []
    while waiting:
        element = waiting.pop()
        if any(element is one for one in covered) or element.tag == ds("Signature") or not local_name(element):
            continue
        if element not in kept:
            loose.append(element)
            continue
        if (element.text or "").strip() or any((child.tail or "").strip() for child in element) or element.attrib:
            loose.append(element)
        waiting += list(element)
    return loose
