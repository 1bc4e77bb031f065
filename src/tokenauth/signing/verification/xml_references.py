"""What the references of an XML signature stand for, computed apart from the code that makes signatures.

A verifier that shared the signer's canonicalisation would share its mistakes. This one also has to do with documents of
other programs: an element is canonicalised as a document of its own, because libxml2 gets a subtree wrong that uses a
default namespace of the elements above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from tokenauth._records import Record
from tokenauth.signing.verification.verdicts import Broken
from tokenauth.signing.xades_references import BASE64, ENVELOPED, XPATH, by_id, decoded
from tokenauth.signing.xades_xml import C14N, C14N_11, DS, EC14N, ds

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tokenauth.signing.xades_references import Resolver

__all__ = ["canonical", "octets"]

_XPATH2 = "http://www.w3.org/2002/06/xmldsig-filter2"
_XML = "{http://www.w3.org/XML/1998/namespace}"
_COMMENTS = "WithComments"
#: What the algorithms without comments are called.
_FORMS = {C14N, C14N_11, EC14N}
_INCLUSIVE_NAMESPACES = f"{{{EC14N}}}InclusiveNamespaces"
_MOST_TRANSFORMS = 5
#: The two ways to write "without any signature"; no other expression is evaluated.
_WITHOUT_SIGNATURES = {
    (XPATH, ds("XPath"), None): "not(ancestor-or-self::{}:Signature)",
    (_XPATH2, f"{{{_XPATH2}}}XPath", "subtract"): "/descendant::{}:Signature",
}


class _Nodes(Record):
    """A part of the document.

    Args:
        element: with all that is in it; None: the whole document.
        without: ``""``, or which signatures are left out: ``own`` or ``all``.
    """

    element: Any
    without: str = ""


def octets(reference: Any, resolve: Resolver) -> Iterable[bytes]:
    """What a ``ds:Reference`` digests (W3C XMLDSIG-CORE1 section 4.4.3.2), in pieces.

    Args:
        reference: the element, in its document.
        resolve: gives the files beside the document.

    Raises:
        Broken: it leads nowhere, or uses a transform that is not accepted.
        DocumentError: a file is not there.
    """
    state = _start(reference, resolve)
    steps = reference.findall(f"{ds('Transforms')}/{ds('Transform')}")
    if len(steps) > _MOST_TRANSFORMS:
        raise Broken(f"a reference has more than {_MOST_TRANSFORMS} transforms")
    for step in steps:
        state = _transformed(state, step, reference)
    return [_form(state, reference, C14N, "")] if isinstance(state, _Nodes) else state


def _start(reference: Any, resolve: Resolver) -> _Nodes | Iterable[bytes]:
    uri = reference.get("URI")
    if uri is None:
        raise Broken("the XML signature has a reference without a URI")
    if uri and not uri.startswith("#"):
        return resolve(uri)
    return _Nodes(by_id(reference.getroottree().getroot(), uri[1:]) if uri else None)


def _transformed(state: _Nodes | Iterable[bytes], step: Any, reference: Any) -> _Nodes | Iterable[bytes]:
    algorithm = step.get("Algorithm", "")
    if not isinstance(state, _Nodes):
        if algorithm == BASE64:
            return [decoded(b"".join(state).decode("ascii", "replace"))]
    elif algorithm.removesuffix(_COMMENTS).removesuffix("#") in {form.removesuffix("#") for form in _FORMS}:
        # A same-document reference never takes comments along (section 4.4.3.3).
        return [_form(state, reference, _bare(algorithm), prefixes_of(step))]
    elif algorithm == ENVELOPED and not len(step):
        return state._replace(without=state.without or "own")
    elif _leaves_out_signatures(step):
        return state._replace(without="all")
    elif algorithm == BASE64 and state.element is not None:
        return [decoded("".join(state.element.itertext()))]
    raise Broken(f"the XML signature uses the transform {algorithm!r}, which is not accepted there")


def prefixes_of(method: Any) -> str:
    """``PrefixList`` of exclusive canonicalisation."""
    listed = method.find(_INCLUSIVE_NAMESPACES)
    return "" if listed is None else str(listed.get("PrefixList", ""))


def _bare(algorithm: str) -> str:
    """The algorithm without comments."""
    name = algorithm.removesuffix(_COMMENTS)
    return name if name in _FORMS else name.removesuffix("#")


def _leaves_out_signatures(step: Any) -> bool:
    if len(step) != 1:
        return False
    expression = _WITHOUT_SIGNATURES.get((step.get("Algorithm", ""), step[0].tag, step[0].get("Filter")))
    written = "".join((step[0].text or "").split())
    prefixes = [prefix for prefix, uri in step[0].nsmap.items() if prefix and uri == DS]
    return expression is not None and len(step[0]) == 0 and written in map(expression.format, prefixes)


def _form(state: _Nodes, reference: Any, algorithm: str, prefixes: str) -> bytes:
    if not state.without:
        return canonical(reference.getroottree() if state.element is None else state.element, algorithm, prefixes)
    if state.element is not None and state.element is not reference.getroottree().getroot():
        raise Broken("the XML signature leaves signatures out of a part of the document, which is not accepted")
    return canonical(_without(reference, state), algorithm, prefixes)


def _without(reference: Any, state: _Nodes) -> Any:
    """A copy of the document without its signatures, or without the one."""
    tree = reference.getroottree()
    own = next(reference.iterancestors(ds("Signature")))
    position = [id(one) for one in list(tree.iter(ds("Signature")))].index(id(own))
    copied = _read(tree)
    signatures = list(copied.iter(ds("Signature")))
    for one in [signatures[position]] if state.without == "own" else signatures:
        _remove(one)
    return copied if state.element is None else copied.getroot()


def _remove(element: Any) -> None:
    """Remove an element, but not the text behind it."""
    parent, before = element.getparent(), element.getprevious()
    if parent is None:
        raise Broken("the XML signature is the whole document, so it can not be enveloped in it")
    tail, element.tail = element.tail or "", None
    if before is not None:
        before.tail = (before.tail or "") + tail or None
    else:
        parent.text = (parent.text or "") + tail or None
    parent.remove(element)


def _read(node: Any) -> Any:
    """A copy of a tree or an element, as a document of its own."""
    from lxml import etree

    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, strip_cdata=False)
    text = etree.tostring(node, with_tail=False, encoding="UTF-8")
    return etree.fromstring(text, parser).getroottree()


def canonical(node: Any, algorithm: str, prefixes: str = "") -> bytes:
    """The canonical form of an element with all that is in it, or of a whole document.

    Args:
        node: the element, or a tree.
        algorithm: C14N 1.0, C14N 1.1 or exclusive C14N, with or without comments.
        prefixes: ``PrefixList`` of exclusive canonicalisation.

    Raises:
        Broken: the algorithm is not accepted.
    """
    from lxml import etree

    bare = _bare(algorithm)
    if bare not in _FORMS:
        raise Broken(f"the canonicalisation {algorithm!r} is not accepted")
    document = node
    if hasattr(node, "iterancestors"):
        document = _read(node)
        if bare != EC14N:
            _inherit(node, document.getroot(), bare)
        document = document.getroot()
    form: bytes = etree.tostring(
        document,
        method="c14n",
        exclusive=bare == EC14N,
        with_comments=algorithm.endswith(_COMMENTS),
        inclusive_ns_prefixes=prefixes.split() or None,
    )
    return form


def _inherit(node: Any, copied: Any, form: str) -> None:
    """The ``xml:`` attributes of the elements above (C14N 1.0 section 2.4; C14N 1.1 section 2.4: not ``xml:id``)."""
    for above in node.iterancestors():
        for name, value in above.attrib.items():
            if not name.startswith(_XML) or name in copied.attrib:
                continue
            if form == C14N or name in (f"{_XML}lang", f"{_XML}space"):
                copied.set(name, value)
    if form == C14N_11:
        bases = [one.get(f"{_XML}base") for one in (*[*node.iterancestors()][::-1], node)]
        if any(base is not None for base in bases[:-1]):
            joined = ""
            for base in bases:
                joined = urljoin(joined, base or "")
            copied.set(f"{_XML}base", joined)
