"""XAdES baseline signatures (ETSI EN 319 132-1): in the XML document, around a file, or beside files."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, BinaryIO

from tokenauth.signing import xades_levels
from tokenauth.signing.asic_names import uri_of
from tokenauth.signing.refusals import DocumentError
from tokenauth.signing.xades_algorithms import algorithm_for
from tokenauth.signing.xades_build import Item, element, encoded, identifier_for, sign_element
from tokenauth.signing.xades_references import (
    BASE64,
    ENVELOPED,
    WHOLE,
    WHOLE_WITH_COMMENTS,
    Resolver,
    excludes_all_signatures,
    without_signatures,
)
from tokenauth.signing.xades_xml import C14N_11, C14N_11_COMMENTS, DS, XPATH2, add, canonical, ds, parse, serialised

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tokenauth.signing.model import Document, Job

__all__ = ["beside", "extend", "sign", "sign_beside"]

#: Readers that keep to libxml2's limits take no text of more than 10 million characters, so no more base64.
_MOST_ENVELOPED = 7_000_000


def sign(documents: Sequence[Document], job: Job, target: BinaryIO) -> None:
    """Sign as XAdES, in the packaging that the job's options say.

    Args:
        documents: one XML document (``enveloped``), or any files (``enveloping``, ``detached``).
        job: who signs, and how.
        target: takes the XML.

    Raises:
        DocumentError: a document is not fit for it.
        MechanismUnsupported: no XML signatures are made with such a key.
        TokenAuthError: the token does not sign, or the level can not be reached.
        OSError: a document can not be read.
    """
    packagings: dict[str, Callable[[Sequence[Document], Job], Any]] = {
        "enveloped": _enveloped,
        "enveloping": _enveloping,
        "detached": _detached,
    }
    if job.options.packaging not in packagings:
        raise ValueError(f"packaging is one of {', '.join(packagings)}, not {job.options.packaging!r}")
    algorithm_for(job.key.certificate.public_key(), job.key.digest, pss=job.key.pss)  # before anything is read
    target.write(serialised(packagings[job.options.packaging](documents, job)))


def extend(document: Document, job: Job, target: BinaryIO, files: Sequence[Document] = ()) -> None:
    """Raise the level of all signatures in an XML document. Takes no key.

    Args:
        document: with the signatures.
        job: the level and the means; its key is not used.
        target: takes the XML.
        files: those that detached signatures are for.

    Raises:
        DocumentError: there is no signature, or one that is broken.
        TokenAuthError: the level can not be reached.
        OSError: a document can not be read.
    """
    tree = parse(document.read(), document.name)
    extend_tree(tree, job, beside(files), document.name)
    target.write(serialised(tree))


def extend_tree(tree: Any, job: Job, resolve: Resolver, name: str) -> None:
    """Raise the level of all signatures in a tree, but not of those within signatures (counter signatures)."""
    signatures = [one for one in tree.iter(ds("Signature")) if next(one.iterancestors(ds("Signature")), None) is None]
    if not signatures:
        raise DocumentError(f"{name} holds no XML signature", hint="sign it first")
    for signature in signatures:
        xades_levels.extend(signature, job, resolve)


def beside(files: Sequence[Document]) -> Resolver:
    """Gives the files that references name, out of these."""
    by_uri = {uri_of(file.name): file for file in files}

    def resolve(uri: str) -> Iterator[bytes]:
        if uri not in by_uri:
            raise DocumentError(
                f"the signature is for the file {uri!r}, which is not there", hint="give that file together with it"
            )
        yield from by_uri[uri].pieces()

    return resolve


def _enveloped(documents: Sequence[Document], job: Job) -> Any:
    document = _only(documents, "enveloped in it")
    tree = parse(document.read(), document.name)
    root = tree.getroot()
    _check_room(root, document.name)
    nested = any(one.getparent() is not root for one in root.iter(ds("Signature")))
    content = tree if nested else without_signatures(tree)
    uri, form = (WHOLE_WITH_COMMENTS, C14N_11_COMMENTS) if _has_comments(content) else (WHOLE, C14N_11)
    transforms = (ENVELOPED, form) if nested else (ENVELOPED, XPATH2, form)
    digest = hashlib.new(job.key.digest, canonical(content, form)).digest()
    item = Item(uri, "text/xml" if document.mime == "application/octet-stream" else document.mime, digest, transforms)
    signature = element(root, identifier_for(job, root), [item], job)
    sign_element(signature, job.key)
    xades_levels.reach(signature, job, beside(()))
    return tree


def _has_comments(tree: Any) -> bool:
    """Then the signature has to cover them, or they could be changed; the usual reference leaves them out."""
    from lxml import etree

    beside = (*tree.getroot().itersiblings(preceding=True), *tree.getroot().itersiblings())
    return any(one.tag is etree.Comment for one in (*beside, *tree.iter(etree.Comment)))


def _check_room(root: Any, name: str) -> None:
    """See that a signature can be added without breaking those that are there."""
    if root.tag == ds("Signature"):
        raise DocumentError(
            f"{name} is itself an XML signature, so no other can be enveloped in it",
            hint="sign it as any other file, in a container: --format asice",
        )
    references = root.iterfind(f".//{ds('Signature')}/{ds('SignedInfo')}/{ds('Reference')}")
    if not all(excludes_all_signatures(reference) for reference in references):
        raise DocumentError(
            f"{name} has a signature that covers the whole document, which a second one in it would break",
            hint="sign it as it is, in a container: --format asice",
        )


def _enveloping(documents: Sequence[Document], job: Job) -> Any:
    identifier = identifier_for(job)
    for document in documents:
        if document.size > _MOST_ENVELOPED:
            raise DocumentError(
                f"{document.name} has {document.size} bytes; at most {_MOST_ENVELOPED} fit into an XML signature",
                hint="sign it as a container: --format asice",
            )
    contents = [document.read() for document in documents]
    items = [
        Item(
            f"#{identifier}-Data{number}",
            document.mime,
            hashlib.new(job.key.digest, content).digest(),
            (BASE64,),
            f"{DS}Object",
        )
        for number, (document, content) in enumerate(zip(documents, contents, strict=True))
    ]
    signature = element(None, identifier, items, job)
    for item, content in zip(items, contents, strict=True):
        add(
            signature, ds("Object"), encoded(content), Id=item.uri[1:], MimeType=item.media_type, Encoding=f"{DS}base64"
        )
    sign_element(signature, job.key)
    xades_levels.reach(signature, job, beside(()))
    return signature.getroottree()


def _detached(documents: Sequence[Document], job: Job) -> Any:
    items = [Item(uri_of(one.name), one.mime, one.hash(job.key.digest)) for one in documents]
    return sign_beside(None, items, job, beside(documents)).getroottree()


def sign_beside(parent: Any, items: Sequence[Item], job: Job, resolve: Resolver) -> Any:
    """Make a signature of files that are not in its document.

    Args:
        parent: the element to add it to; None makes it a document of its own.
        items: the files.
        job: who signs, and how.
        resolve: gives the files again, for archive time stamps.
    """
    signature = element(parent, identifier_for(job, parent), items, job)
    sign_element(signature, job.key)
    xades_levels.reach(signature, job, resolve)
    return signature


def _only(documents: Sequence[Document], how: str) -> Document:
    if len(documents) != 1:
        raise DocumentError(
            f"a signature is {how} for one XML document, not for {len(documents)} files",
            hint="sign them as a container (--format asice), or detached",
        )
    return documents[0]
