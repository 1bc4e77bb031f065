"""XML as signatures need it: read with care, canonicalised, written as it was read.

What is read here comes from anybody. A document type is refused whatever it holds, because entities and default
attributes let the same bytes mean different things to different readers (and let a few bytes grow to gigabytes).
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urljoin

from tokenauth._records import Record
from tokenauth.signing.refusals import DocumentError, NotKnown

__all__ = [
    "ASIC",
    "C14N",
    "C14N_11",
    "C14N_11_COMMENTS",
    "CANONICALISATIONS",
    "DS",
    "EC14N",
    "MANIFEST",
    "XADES",
    "XADES141",
    "XPATH2",
    "add",
    "canonical",
    "canonical_by",
    "ds",
    "local_name",
    "parse",
    "prefixes_of",
    "serialised",
    "xades",
    "xades141",
]

DS = "http://www.w3.org/2000/09/xmldsig#"
XADES = "http://uri.etsi.org/01903/v1.3.2#"
XADES141 = "http://uri.etsi.org/01903/v1.4.1#"
ASIC = "http://uri.etsi.org/02918/v1.2.1#"
XPATH2 = "http://www.w3.org/2002/06/xmldsig-filter2"  # RFC 3653
MANIFEST = "urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"
#: Expressions of XPath rely on "ds".
_PREFIXES = {DS: "ds", XADES: "xades", XADES141: "xades141", ASIC: "asic", MANIFEST: "manifest", XPATH2: "dsig-xpath"}
_XML = "http://www.w3.org/XML/1998/namespace"

C14N = "http://www.w3.org/TR/2001/REC-xml-c14n-20010315"
C14N_11 = "http://www.w3.org/2006/12/xml-c14n11"
C14N_11_COMMENTS = C14N_11 + "#WithComments"
EC14N = "http://www.w3.org/2001/10/xml-exc-c14n#"


class _Method(Record):
    """A way to canonicalise: which namespaces and which ``xml:`` attributes of the elements above are taken along."""

    exclusive: bool
    version_11: bool
    comments: bool


CANONICALISATIONS = {
    C14N: _Method(False, False, False),
    C14N + "#WithComments": _Method(False, False, True),
    C14N_11: _Method(False, True, False),
    C14N_11_COMMENTS: _Method(False, True, True),
    EC14N: _Method(True, False, False),
    EC14N + "WithComments": _Method(True, False, True),
}

#: Far more than any document that people sign. The tree takes five to ten times as much memory.
MAXIMUM_BYTES = 128 * 1024 * 1024


def ds(name: str) -> str:
    """The qualified name of an element of XML Signature (W3C XMLDSIG-CORE1)."""
    return f"{{{DS}}}{name}"


def xades(name: str) -> str:
    """The qualified name of an element of XAdES 1.3.2 (ETSI EN 319 132-1)."""
    return f"{{{XADES}}}{name}"


def xades141(name: str) -> str:
    """The qualified name of an element that XAdES 1.4.1 added."""
    return f"{{{XADES141}}}{name}"


def local_name(element: Any) -> str:
    """An element's name without its namespace; empty for comments and processing instructions."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def parse(data: bytes, name: str) -> Any:
    """Read XML that may come from anybody.

    Entities stay as they are, nothing is loaded from anywhere, and libxml2's limits hold (256 levels of elements,
    10 million characters in a text).

    Args:
        data: the document.
        name: what errors call it.

    Returns:
        lxml's element tree.

    Raises:
        DocumentError: it is not well-formed, too large, or has a document type.
    """
    from lxml import etree

    if len(data) > MAXIMUM_BYTES:
        raise DocumentError(
            f"{name} is XML of {len(data)} bytes; at most {MAXIMUM_BYTES} are taken",
            hint="sign it as any other file, in a container: --format asice",
        )
    try:
        root = etree.fromstring(data, _parser())
    except (etree.XMLSyntaxError, ValueError) as error:
        raise DocumentError(f"{name} can not be read as XML: {error}") from None
    tree = root.getroottree()
    if tree.docinfo.internalDTD is not None or tree.docinfo.externalDTD is not None:
        raise DocumentError(
            f"{name} has a document type (DOCTYPE), with which the same XML can mean different things to its readers",
            hint="remove the DOCTYPE, or sign it as any other file, in a container: --format asice",
        )
    return tree


def _parser() -> Any:
    from lxml import etree

    return etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        strip_cdata=False,
    )


def serialised(tree: Any) -> bytes:
    """The bytes of a tree, in the encoding that it was read in."""
    from lxml import etree

    info = tree.docinfo
    encoding, standalone = info.encoding or "UTF-8", info.standalone or None
    written: bytes = etree.tostring(tree, xml_declaration=True, encoding=encoding, standalone=standalone)
    return written


def add(parent: Any, tag: str, text: str | None = None, **attributes: str) -> Any:
    """Add a child in its place, so that it takes part in the namespaces that hold there.

    Args:
        parent: the element above.
        tag: the qualified name.
        text: what it holds.
        attributes: its attributes, none of them in a namespace.
    """
    from lxml import etree

    uri = tag[1:].partition("}")[0]
    declared = None if uri in parent.nsmap.values() else {_PREFIXES[uri]: uri}
    child = etree.SubElement(parent, tag, attributes, nsmap=declared)
    child.text = text
    return child


def canonical(node: Any, algorithm: str, prefixes: str = "") -> bytes:
    """The canonical form of an element with all that is in it, or of a whole document.

    An element is canonicalised as a document of its own, which declares the namespaces that hold there: libxml2 gets a
    subtree wrong that uses a default namespace of the elements above it.

    Args:
        node: the element, or a tree.
        algorithm: a key of :data:`CANONICALISATIONS`.
        prefixes: ``PrefixList`` of exclusive canonicalisation.

    Raises:
        DocumentError: the document can not be canonicalised (relative namespaces).
        NotKnown: the algorithm is unknown.
    """
    from lxml import etree

    method = CANONICALISATIONS.get(algorithm)
    if method is None:
        raise NotKnown(f"the XML is canonicalised with {algorithm!r}, which is not known")
    try:
        form: bytes = etree.tostring(
            _alone(node, method) if hasattr(node, "iterancestors") else node,
            method="c14n",
            exclusive=method.exclusive,
            with_comments=method.comments,
            inclusive_ns_prefixes=prefixes.split() or None,
        )
    except (etree.LxmlError, ValueError) as error:
        raise DocumentError(f"the XML can not be canonicalised: {error}") from None
    return form


def canonical_by(node: Any, method: Any) -> bytes:
    """The canonical form that a ``ds:CanonicalizationMethod`` asks for; C14N 1.0 if there is none.

    Args:
        node: an element, or a tree.
        method: the element, which may have a ``PrefixList``; or None.

    Raises:
        DocumentError: as :func:`canonical`.
    """
    return canonical(node, C14N if method is None else method.get("Algorithm", ""), prefixes_of(method))


def prefixes_of(method: Any) -> str:
    """``PrefixList`` of exclusive canonicalisation, which a method or transform may have; empty without one."""
    listed = None if method is None else method.find(f"{{{EC14N}}}InclusiveNamespaces")
    return "" if listed is None else str(listed.get("PrefixList", ""))


def _alone(element: Any, method: _Method) -> Any:
    """A copy of an element, with the ``xml:`` attributes that it inherits (C14N 1.0 and 1.1 section 2.4)."""
    from lxml import etree

    text = etree.tostring(element, with_tail=False, encoding="UTF-8")
    copied = etree.fromstring(text, _parser())
    for name, value in ({} if method.exclusive else _inheritance(element, method.version_11)).items():
        copied.set(name, value)
    return copied


def _inheritance(element: Any, version_11: bool) -> dict[str, str]:
    """The ``xml:`` attributes to write at an element beyond its own."""
    found: dict[str, str] = {}
    for above in element.iterancestors():
        for name, value in above.attrib.items():
            if name.startswith(f"{{{_XML}}}"):
                found.setdefault(name, value)
    lent = {name: value for name, value in found.items() if name not in element.attrib}
    if version_11:
        lent = {name: value for name, value in lent.items() if name.endswith(("}lang", "}space"))}
        if f"{{{_XML}}}base" in found:
            lent[f"{{{_XML}}}base"] = _joined_base(element)
    return lent


def _joined_base(element: Any) -> str:
    """What ``xml:base`` means here (C14N 1.1 section 2.4: "join-URI-References")."""
    base = ""
    for one in (*reversed([*element.iterancestors()]), element):
        base = urljoin(base, one.get(f"{{{_XML}}}base", ""))
    return base
