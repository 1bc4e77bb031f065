"""What the references of an XML signature stand for: the octets that are digested.

Only what XAdES signatures need is understood: the whole document without signatures, an element of it, base64 in an
element, and files beside it. Anything else (XSLT, free XPath) would let a signature cover next to nothing while it
looks whole, so it is refused.
"""

from __future__ import annotations

import base64
import binascii
import copy
import hashlib
from collections.abc import Callable, Iterable
from typing import Any

from tokenauth._records import Record
from tokenauth.signing.refusals import DocumentError, NotKnown
from tokenauth.signing.xades_algorithms import digest_name
from tokenauth.signing.xades_xml import C14N, CANONICALISATIONS, DS, XPATH2, add, canonical, ds, prefixes_of

__all__ = [
    "BASE64",
    "ENVELOPED",
    "WHOLE",
    "WHOLE_WITH_COMMENTS",
    "XPATH",
    "Resolver",
    "by_id",
    "decoded",
    "excludes_all_signatures",
    "holds",
    "octets",
    "transform",
    "without_signatures",
]

ENVELOPED = f"{DS}enveloped-signature"
BASE64 = f"{DS}base64"
XPATH = "http://www.w3.org/TR/1999/REC-xpath-19991116"
#: The two ways to write "without any signature" that are in use; other expressions are not evaluated. We write the
#: second, XPath Filter 2.0: verifiers evaluate it once, and the first for each node, which takes minutes for some MB.
_WITHOUT_SIGNATURES = "not(ancestor-or-self::{}:Signature)"
_SUBTRACT_SIGNATURES = "/descendant::{}:Signature"
#: References to the whole document. Only the second takes comments along (XMLDSIG-CORE1 section 4.4.3.3).
WHOLE, WHOLE_WITH_COMMENTS = "", "#xpointer(/)"
_MOST_TRANSFORMS = 5

#: The octets of a file by the ``URI`` of a reference, in pieces; raises DocumentError if there is no such file.
Resolver = Callable[[str], Iterable[bytes]]


class _Nodes(Record):
    """A part of a document.

    Args:
        node: an element, or the whole tree.
        comments: they are part of it.
        without: ``""``, or which signatures are left out: ``self`` (the one with the reference) or ``all``.
    """

    node: Any
    comments: bool = False
    without: str = ""


def transform(reference: Any, algorithm: str) -> None:
    """Add a transform to a reference that is being made."""
    transforms = reference.find(ds("Transforms"))
    if transforms is None:
        transforms = add(reference, ds("Transforms"))
    element = add(transforms, ds("Transform"), Algorithm=algorithm)
    if algorithm == XPATH2:
        add(element, f"{{{XPATH2}}}XPath", _SUBTRACT_SIGNATURES.format("ds"), Filter="subtract")


def by_id(root: Any, identifier: str) -> Any:
    """The one element with an Id.

    Raises:
        DocumentError: none has it, or several have: then each reader may take another.
    """
    found = [
        element for element in root.iter("*") if identifier in (element.get("Id"), element.get("ID"), element.get("id"))
    ]
    if len(found) != 1:
        how_many = "no element" if not found else f"{len(found)} elements"
        raise DocumentError(f"the XML signature refers to the Id {identifier!r}, which {how_many} in the document has")
    return found[0]


def octets(reference: Any, resolve: Resolver) -> Iterable[bytes]:
    """What a ``ds:Reference`` digests (W3C XMLDSIG-CORE1 section 4.4.3.2), in pieces.

    Args:
        reference: the element, in its document.
        resolve: gives the files beside the document.

    Raises:
        DocumentError: the reference leads nowhere.
        NotKnown: it uses what is not understood.
    """
    state = _dereferenced(reference, resolve)
    steps = reference.findall(f"{ds('Transforms')}/{ds('Transform')}")
    if len(steps) > _MOST_TRANSFORMS:
        raise DocumentError(f"a reference of the XML signature has more than {_MOST_TRANSFORMS} transforms")
    for step in steps:
        state = _transformed(state, step)
    if isinstance(state, _Nodes):
        return [_canonicalised(state, reference, C14N)]
    return state


def holds(reference: Any, resolve: Resolver) -> bool:
    """Whether what a reference stands for has the digest in it.

    Raises:
        DocumentError: as for :func:`octets`.
    """
    digest = hashlib.new(digest_name(reference.find(ds("DigestMethod")).get("Algorithm", "")))
    for piece in octets(reference, resolve):
        digest.update(piece)
    return digest.digest() == decoded(reference.findtext(ds("DigestValue")))


def decoded(text: str | None) -> bytes:
    """Base64 as XML has it, with white space.

    Raises:
        DocumentError: it is none.
    """
    try:
        return base64.b64decode("".join((text or "").split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise DocumentError(f"the XML signature holds base64 that is none: {error}") from None


def excludes_all_signatures(reference: Any) -> bool:
    """Whether further signatures can be added to the document without breaking this one."""
    steps = reference.iterfind(f"{ds('Transforms')}/{ds('Transform')}")
    return reference.get("URI") not in (WHOLE, WHOLE_WITH_COMMENTS) or any(
        _leaves_out_signatures(step) for step in steps
    )


def _dereferenced(reference: Any, resolve: Resolver) -> _Nodes | Iterable[bytes]:
    uri = reference.get("URI")
    if uri is None:
        raise NotKnown("the XML signature has a reference without a URI")
    if uri in (WHOLE, WHOLE_WITH_COMMENTS):
        return _Nodes(reference.getroottree(), comments=uri == WHOLE_WITH_COMMENTS)
    if uri.startswith("#xpointer("):
        raise NotKnown(f"the XML signature refers to {uri!r}, which is not understood")
    if uri.startswith("#"):
        return _Nodes(by_id(reference.getroottree().getroot(), uri[1:]))
    return resolve(uri)


def _transformed(state: _Nodes | Iterable[bytes], step: Any) -> _Nodes | Iterable[bytes]:
    algorithm = step.get("Algorithm", "")
    if isinstance(state, _Nodes):
        if algorithm in CANONICALISATIONS:
            return [_canonicalised(state, step, algorithm)]
        if algorithm == ENVELOPED and not len(step):
            return state._replace(without=state.without or "self")
        if _leaves_out_signatures(step):
            return state._replace(without="all")
        if algorithm == BASE64 and hasattr(state.node, "itertext"):
            return [decoded("".join(state.node.itertext()))]
    elif algorithm == BASE64:
        return [decoded(b"".join(state).decode("ascii", "replace"))]
    raise NotKnown(f"the XML signature uses the transform {algorithm!r}, which is not accepted there")


def _leaves_out_signatures(step: Any) -> bool:
    algorithm = step.get("Algorithm", "")
    pattern, tag = {
        XPATH: (_WITHOUT_SIGNATURES, ds("XPath")),
        XPATH2: (_SUBTRACT_SIGNATURES, f"{{{XPATH2}}}XPath"),
    }.get(algorithm, ("", ""))
    if not tag or len(step) != 1 or step[0].tag != tag or len(step[0]):
        return False
    expression = "".join((step[0].text or "").split())
    if algorithm == XPATH2 and step[0].get("Filter") != "subtract":
        return False
    return any(expression == pattern.format(prefix) for prefix, uri in step[0].nsmap.items() if prefix and uri == DS)


def _canonicalised(state: _Nodes, near: Any, algorithm: str) -> bytes:
    """Of a part of a document, as a transform or, without one, the reference itself asks."""
    if not state.comments:
        bare = algorithm.removesuffix("WithComments")
        algorithm = bare if bare in CANONICALISATIONS else bare.removesuffix("#")
    node = state.node
    if state.without:
        is_element = hasattr(node, "iterancestors")
        if is_element and node.getparent() is not None:
            raise NotKnown("the XML signature leaves signatures out of a part of the document, which is not accepted")
        own = next(near.iterancestors(ds("Signature"))) if state.without == "self" else None
        rest = without_signatures(near.getroottree(), own)
        node = rest.getroot() if is_element else rest
    return canonical(node, algorithm, prefixes_of(near))


def without_signatures(tree: Any, only: Any = None) -> Any:
    """A copy of a document without its signatures, or without one of them."""
    position = None if only is None else list(tree.iter(ds("Signature"))).index(only)
    tree = copy.deepcopy(tree)
    signatures = list(tree.iter(ds("Signature")))
    for signature in signatures if position is None else [signatures[position]]:
        _remove(signature)
    return tree


def _remove(element: Any) -> None:
    """Remove an element, but not the text behind it."""
    parent, before = element.getparent(), element.getprevious()
    if parent is None:
        raise DocumentError("the XML signature is the whole document, so it can not be enveloped in it")
    if before is not None:
        before.tail = (before.tail or "") + (element.tail or "") or None
    else:
        parent.text = (parent.text or "") + (element.tail or "") or None
    element.tail = None
    parent.remove(element)
