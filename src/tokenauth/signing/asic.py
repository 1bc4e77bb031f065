"""ASiC containers with XAdES signatures (ETSI EN 319 162-1): ASiC-E (``.asice``) and ASiC-S (``.asics``).

A container is a ZIP file with the signed files as they are, and the signatures in ``META-INF``. Files go through it in
pieces, whatever their size.
"""

from __future__ import annotations

import hashlib
import mimetypes
import re
import time
import unicodedata
import zipfile
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO

from tokenauth.signing import xades
from tokenauth.signing.asic_names import META, MIMETYPE, check_name, folded, uri_of
from tokenauth.signing.asic_reader import ASIC_E, ASIC_S, Container
from tokenauth.signing.refusals import DocumentError
from tokenauth.signing.xades_algorithms import algorithm_for
from tokenauth.signing.xades_build import Item
from tokenauth.signing.xades_xml import ASIC, DS, MANIFEST, XADES, parse, serialised

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tokenauth.signing.model import Document, Job

__all__ = ["extend", "sign"]

_UNKNOWN = "application/octet-stream"
_MANIFEST = META + "manifest.xml"
_ASICS_SIGNATURES = META + "signatures.xml"
_NUMBERED = META + "signatures{}.xml"
#: What deflate makes of the first bytes: above, it is not worth the time; below, readers would suspect a ZIP bomb.
_SAMPLE, _MOST_SHRUNK, _LEAST_SHRUNK = 1 << 16, 0.02, 0.9


def sign(documents: Sequence[Document], job: Job, target: BinaryIO) -> None:
    """Put files into a container and sign them there, or add a signature to a container.

    Args:
        documents: the files; with the option ``append`` the one container.
        job: who signs, and how; its format is ``asice`` or ``asics``.
        target: takes the container; can seek.

    Raises:
        DocumentError: a file can not be put into a container, or the container is not accepted.
        MechanismUnsupported: no XML signatures are made with such a key.
        TokenAuthError: the token does not sign, or the level can not be reached.
        OSError: a document can not be read.
    """
    algorithm_for(job.key.certificate.public_key(), job.key.digest, pss=job.key.pss)  # before anything is read
    if job.options.append:
        _append(_one_container(documents), job, target)
    else:
        _create(documents, job, target)


def extend(document: Document, job: Job, target: BinaryIO) -> None:
    """Raise the level of all signatures in a container. Takes no key.

    Args:
        document: the container.
        job: the level and the means; its key is not used.
        target: takes the container; can seek.

    Raises:
        DocumentError: the container is not accepted, or a signature in it is broken.
        TokenAuthError: the level can not be reached.
        OSError: the container can not be read.
    """
    with document.open() as stream, Container(stream, document.name) as container:
        _refuse_others(container)
        if not container.signatures:
            raise DocumentError(f"{document.name} holds no signature", hint="sign it first")
        raised = {}
        for file in container.signatures:
            tree = parse(container.read(file), f"{document.name}: {file}")
            xades.extend_tree(tree, job, container.resolve, f"{document.name}: {file}")
            raised[file] = serialised(tree)
        with _Writer(target, container.mimetype) as writer:
            for file in container.files:
                if file not in raised:
                    size = container.size(file)
                    writer.put(file, container.pieces(file), compressed=container.is_compressed(file), size=size)
            for file, data in raised.items():
                writer.put(file, [data])


class _Writer:
    """A container that is being written: ``mimetype`` first, the rest in the order in which it is put."""

    def __init__(self, target: BinaryIO, mimetype: str) -> None:
        self._zip = zipfile.ZipFile(target, "w")
        self.put(MIMETYPE, [mimetype.encode()], compressed=False)

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *error: object) -> None:
        self._zip.close()

    def put(self, name: str, pieces: Iterable[bytes], *, compressed: bool = True, size: int = 0) -> None:
        """Add a file.

        Args:
            name: in the container.
            pieces: its contents.
            compressed: whether it is deflated.
            size: about how many bytes it has; from 2 GiB on the ZIP file's larger fields are needed.
        """
        info = zipfile.ZipInfo(name, time.localtime()[:6])
        info.compress_type = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
        info.external_attr = 0o644 << 16
        info.file_size = size
        with self._zip.open(info, "w") as entry:
            for piece in pieces:
                entry.write(piece)


def _create(documents: Sequence[Document], job: Job, target: BinaryIO) -> None:
    is_simple = job.format == "asics"
    if is_simple and len(documents) != 1:
        raise DocumentError(
            f"an ASiC-S container holds one file, not {len(documents)}", hint="make an ASiC-E container: --format asice"
        )
    named = _named(documents)
    with _Writer(target, ASIC_S if is_simple else ASIC_E) as writer:
        items = []
        for name, document in named.items():
            hashed = hashlib.new(job.key.digest)
            pieces = _hashed(document.pieces(), hashed)
            writer.put(name, pieces, compressed=_shrinks(document), size=document.size)
            items.append(Item(uri_of(name), document.mime, hashed.digest()))
        if not is_simple:
            writer.put(_MANIFEST, [_manifest({name: document.mime for name, document in named.items()})])
        renamed = [document._replace(name=name) for name, document in named.items()]
        root = _signatures_root()
        xades.sign_beside(root, items, job, xades.beside(renamed))
        writer.put(_ASICS_SIGNATURES if is_simple else _NUMBERED.format(0), [serialised(root.getroottree())])


def _append(document: Document, job: Job, target: BinaryIO) -> None:
    with document.open() as stream, Container(stream, document.name) as container:
        _refuse_others(container)
        if not container.data_files:
            raise DocumentError(f"{document.name} holds no file that could be signed")
        types = _media_types(container)
        root, place = _place_for_signature(container)
        with _Writer(target, container.mimetype) as writer:
            items = []
            for file in container.files:
                hashed = hashlib.new(job.key.digest)
                if file != place:
                    pieces, size = _hashed(container.pieces(file), hashed), container.size(file)
                    writer.put(file, pieces, compressed=container.is_compressed(file), size=size)
                if file in container.data_files:
                    items.append(Item(uri_of(file), types.get(file) or _guessed(file), hashed.digest()))
            xades.sign_beside(root, items, job, container.resolve)
            writer.put(place, [serialised(root.getroottree())])


def _one_container(documents: Sequence[Document]) -> Document:
    if len(documents) != 1:
        raise DocumentError(
            f"a signature is added to one container, not to {len(documents)} files",
            hint="its files can not be changed any more; put it into a new container with the others",
        )
    return documents[0]


def _refuse_others(container: Container) -> None:
    """See that only XAdES signatures are there: what covers what would be hard to tell in a mixture."""
    if container.cms_signatures or any(re.search(r"asicmanifest|timestamp", file, re.I) for file in container.files):
        raise DocumentError(
            f"{container.name} is signed with CAdES or a time stamp, not with XAdES",
            hint="put it into a new container: --format asice",
        )


def _place_for_signature(container: Container) -> tuple[Any, str]:
    """The element to add a signature to, and the file that it is written to."""
    if container.mimetype == ASIC_E:
        taken = {folded(file) for file in container.files}
        number = next(one for one in range(len(taken) + 1) if folded(_NUMBERED.format(one)) not in taken)
        return _signatures_root(), _NUMBERED.format(number)
    if not container.signatures:
        return _signatures_root(), _ASICS_SIGNATURES
    place = container.signatures[0]
    root = parse(container.read(place), f"{container.name}: {place}").getroot()
    if len(container.signatures) > 1 or root.tag != f"{{{ASIC}}}XAdESSignatures":
        raise DocumentError(f"{container.name} holds its signatures in another way than ASiC-S containers do")
    return root, place


def _signatures_root() -> Any:
    from lxml import etree

    return etree.Element(f"{{{ASIC}}}XAdESSignatures", nsmap={"asic": ASIC, "ds": DS, "xades": XADES})


def _named(documents: Sequence[Document]) -> dict[str, Document]:
    """The documents by the names that they have in a container; Unicode is composed, as most systems write it."""
    named: dict[str, Document] = {}
    taken: set[str] = set()
    for document in documents:
        name = unicodedata.normalize("NFC", document.name)
        check_name(name, "the container")
        if "/" in name or folded(name) in (MIMETYPE, folded(META).removesuffix("/")):
            raise DocumentError(f"a file in a container can not be called {name!r}", hint="rename the file")
        if folded(name) in taken:
            raise DocumentError(
                f"two of the files are called {name!r}, which can not both be in one container", hint="rename one"
            )
        named[name] = document
        taken.add(folded(name))
    if not named:
        raise DocumentError("no file was given for the container")
    return named


def _hashed(pieces: Iterable[bytes], into: Any) -> Iterator[bytes]:
    for piece in pieces:
        into.update(piece)
        yield piece


def _shrinks(document: Document) -> bool:
    """Whether to deflate a file."""
    with document.open() as stream:
        sample = stream.read(_SAMPLE)
    return bool(sample) and _MOST_SHRUNK < len(zlib.compress(sample, 1)) / len(sample) < _LEAST_SHRUNK


def _guessed(name: str) -> str:
    return mimetypes.guess_type(name)[0] or _UNKNOWN


def _manifest(types: dict[str, str]) -> bytes:
    """``META-INF/manifest.xml`` (OpenDocument 1.2 part 3 section 3.2), as ETSI EN 319 162-1 section 4.4.3.1 wants."""
    from lxml import etree

    root = etree.Element(f"{{{MANIFEST}}}manifest", nsmap={"manifest": MANIFEST})
    root.set(f"{{{MANIFEST}}}version", "1.2")
    for path, media_type in {"/": ASIC_E, **types}.items():
        entry = etree.SubElement(root, f"{{{MANIFEST}}}file-entry")
        entry.set(f"{{{MANIFEST}}}full-path", path)
        entry.set(f"{{{MANIFEST}}}media-type", media_type)
    return serialised(root.getroottree())


def _media_types(container: Container) -> dict[str, str]:
    """What the manifest says that the files are, as far as there is one."""
    if _MANIFEST not in container.files:
        return {}
    root = parse(container.read(_MANIFEST), f"{container.name}: {_MANIFEST}").getroot()
    return {
        entry.get(f"{{{MANIFEST}}}full-path", ""): entry.get(f"{{{MANIFEST}}}media-type", "")
        for entry in root.iter(f"{{{MANIFEST}}}file-entry")
    }
