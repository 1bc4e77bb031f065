"""ASiC containers (ETSI EN 319 162-1): XAdES or CAdES signatures beside the files that they are for."""

from __future__ import annotations

import hmac
import io
from typing import TYPE_CHECKING, Any, BinaryIO

from tokenauth.signing.asic_names import META, name_in
from tokenauth.signing.asic_reader import ASIC_S, Container
from tokenauth.signing.refusals import DocumentError
from tokenauth.signing.verification import cades, xades
from tokenauth.signing.verification.algorithms import check_digest_name, digester
from tokenauth.signing.verification.assessment import Signature, failed
from tokenauth.signing.verification.cades import Content
from tokenauth.signing.verification.verdicts import Broken, Doubtful, Finding, reading
from tokenauth.signing.verification.zip_layout import check_contents, check_layout
from tokenauth.signing.xades_algorithms import digest_name
from tokenauth.signing.xades_references import decoded
from tokenauth.signing.xades_xml import ASIC, MANIFEST, ds, local_name, parse

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from tokenauth.signing.model import SignatureReport

__all__ = ["signatures"]

_MANIFEST_XML = META + "manifest.xml"
_MOST = 200


def signatures(stream: BinaryIO, name: str, opened: ExitStack) -> list[Signature | SignatureReport]:
    """The signatures of a container; a report for each that is not good already.

    Args:
        stream: the container; can seek.
        name: what reasons call it.
        opened: keeps the container open for what is computed later: what time stamps are over.

    Raises:
        Broken: the container is damaged, or one that readers see differently.
    """
    with reading("the container"):
        check_layout(stream)
        stream.seek(0)
        container = opened.enter_context(Container(stream, name))
        check_contents(stream)
        return _signatures(container)


def _signatures(container: Container) -> list[Signature | SignatureReport]:
    format = "asics" if container.mimetype == ASIC_S else "asice"
    if format == "asics" and len(container.data_files) != 1:
        raise Broken(f"an ASiC-S container holds one file, not {len(container.data_files)}")
    if len(container.signatures) + len(container.cms_signatures) > _MOST:
        raise Broken(f"the container has more than {_MOST} signatures")
    _check_meta(container)
    found: list[Signature | SignatureReport] = []
    for file in container.signatures:
        found += _guarded(format, lambda file=file: _xades(container, file, format))  # type: ignore[misc]
    for file in container.cms_signatures:
        found += _guarded(format, lambda file=file: _cades(container, file, format))  # type: ignore[misc]
    return found


def _guarded(format: str, verify: Callable[[], list[Signature | SignatureReport]]) -> list[Signature | SignatureReport]:
    """One signature's file that can not be read does not hide the others."""
    try:
        with reading("a signature in the container"):
            return verify()
    except Finding as problem:
        return [failed(format, problem)]


def _check_meta(container: Container) -> None:
    """All that is in META-INF is a signature, or belongs to one (section 4.4.3.2 and annex A)."""
    _check_listing(container)
    known = {*container.signatures, *container.cms_signatures, _MANIFEST_XML}
    for file in container.files:
        if not file.startswith(META) or file in known:
            continue
        base = file.removeprefix(META)
        if base.endswith(".tst"):
            raise Doubtful(
                f"the container holds a time stamp of its files, {file!r}: that is not verified, only signatures are"
            )
        if not (base.startswith("ASiC") and "anifest" in base and base.endswith(".xml")):
            raise Doubtful(f"the container holds {file!r}, which belongs to no signature that is known")
        parse(container.read(file), file)


def _check_listing(container: Container) -> None:
    """``manifest.xml`` (OASIS OpenDocument 1.2 part 3), which some programs show, must list the data files."""
    if _MANIFEST_XML not in container.files:
        return
    root = parse(container.read(_MANIFEST_XML), _MANIFEST_XML).getroot()
    entries = [
        (one.get(f"{{{MANIFEST}}}full-path"), one.get(f"{{{MANIFEST}}}media-type"))
        for one in root.iter(f"{{{MANIFEST}}}file-entry")
    ]
    listed = [path for path, _ in entries if path != "/"]
    if sorted(map(str, listed)) != sorted(container.data_files):
        raise Broken(f"{_MANIFEST_XML} lists other files than the container holds")
    if any(path == "/" and kind != container.mimetype for path, kind in entries):
        raise Broken(f"{_MANIFEST_XML} gives the container another type than it has")


def _xades(container: Container, file: str, format: str) -> list[Signature | SignatureReport]:
    data = container.read(file)
    root = parse(data, file).getroot()
    if local_name(root) not in ("XAdESSignatures", "Signature", "document-signatures"):
        raise Broken(f"{file} holds something else than signatures ({local_name(root)})")
    found = xades.signatures(
        data,
        _by_name(container),
        file,
        format=format,
        files=tuple(container.data_files),
        name_of=name_in,
    )
    if not found:
        raise Broken(f"{file} holds no signature")
    return found


def _by_name(container: Container) -> Any:
    """Files for references: only data files, so that a signature can not rest on other signatures."""

    def resolve(uri: str) -> Any:
        if name_in(uri) not in container.data_files:
            raise DocumentError(f"the signature refers to {uri!r}, which is no data file of the container")
        return container.resolve(uri)

    return resolve


def _cades(container: Container, file: str, format: str) -> list[Signature | SignatureReport]:
    data = container.read(file)
    if format == "asics":
        (only,) = container.data_files
        return cades.signatures(data, _content(container, only), (only,), format)
    manifest = _manifest_of(container, file)
    covered, problems = _manifest(container, manifest)
    missing = sorted(set(container.data_files) - set(covered))
    if missing:
        problems.append(Doubtful(f"files of the container are not covered: {', '.join(missing)}"))
    text = container.read(manifest)
    found = cades.signatures(data, Content(lambda: io.BytesIO(text)), tuple(covered), format)
    return [one._replace(problems=(*one.problems, *problems)) if isinstance(one, Signature) else one for one in found]


def _content(container: Container, file: str) -> Content:
    return Content(lambda: _Pieces(container, file))  # type: ignore[arg-type,return-value]


class _Pieces(io.RawIOBase):
    """A file of a container as a stream."""

    def __init__(self, container: Container, file: str) -> None:
        self._pieces = container.pieces(file)
        self._left = b""

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes."""
        if not self._left:
            self._left = next(self._pieces, b"")
        part, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def _manifest_of(container: Container, file: str) -> str:
    """The manifest that a CAdES signature is over: the one that names it (EN 319 162-1 section 4.4.3.2 item 4)."""
    found = []
    for candidate in container.files:
        base = candidate.removeprefix(META)
        if not candidate.startswith(META) or not base.startswith("ASiCManifest") or not base.endswith(".xml"):
            continue
        named = [
            one.get("URI", "") for one in parse(container.read(candidate), candidate).iter(f"{{{ASIC}}}SigReference")
        ]
        if len(named) == 1 and name_in(named[0]) == file:
            found.append(candidate)
    if len(found) != 1:
        raise Broken(f"the signature {file} is named by {len(found)} manifests, not by one")
    return found[0]


def _manifest(container: Container, manifest: str) -> tuple[list[str], list[Finding]]:
    """Check the digests in a manifest.

    Raises:
        Broken: one is wrong.
    """
    covered: list[str] = []
    problems: list[Finding] = []
    root = parse(container.read(manifest), manifest).getroot()
    for reference in root.findall(f"{{{ASIC}}}DataObjectReference"):
        file = name_in(reference.get("URI", ""))
        if file in covered or file not in container.data_files:
            raise Broken(f"the manifest {manifest} names {file!r} twice, or it is no data file of the container")
        name = digest_name(reference.find(ds("DigestMethod")).get("Algorithm", ""))
        digest = digester(name)
        for piece in container.pieces(file):
            digest.update(piece)
        if not hmac.compare_digest(digest.digest(), decoded(reference.findtext(ds("DigestValue")))):
            raise Broken(f"the file {file} was changed after it was signed: its digest is another")
        check_digest_name(name, "the manifest")
        covered.append(file)
    if not covered:
        raise Broken(f"the manifest {manifest} names no file")
    return covered, problems
