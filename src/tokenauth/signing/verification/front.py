"""``verify``: what kind of file it is, by its contents, and the report on its signatures."""

from __future__ import annotations

import datetime
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tokenauth._records import Record
from tokenauth.signing.asic_names import name_in
from tokenauth.signing.formats import is_container
from tokenauth.signing.model import INDETERMINATE, INVALID, VALID, Document, FileReport, SignatureReport
from tokenauth.signing.refusals import DocumentError
from tokenauth.signing.verification.assessment import Signature, assess, failed
from tokenauth.signing.verification.verdicts import Doubtful, Finding, reading, worst

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tokenauth.signing.verification.cades import Content
    from tokenauth.signing.verification.trust import Trust

    _Found = list[Signature | SignatureReport]

__all__ = ["exit_code", "verify"]

_EXIT_CODES = {VALID: 0, INVALID: 10, INDETERMINATE: 11}
_HEAD = 1024
#: Of what is read as a whole: all but PDFs, containers and the files beside detached signatures.
_MAXIMUM_BYTES = 512 * 1024 * 1024


class _Request(Record):
    """What is verified.

    Args:
        document: the file.
        beside: files that detached signatures in it may be for; None: those in its directory.
        password: of an encrypted PDF.
        opened: closes, once the report is made, what is read from until then.
    """

    document: Document
    beside: tuple[Document, ...] | None
    password: str | None
    opened: ExitStack

    def __repr__(self) -> str:
        return f"<_Request {self.document.name}>"  # never the password

    def read(self) -> bytes:
        """The whole file.

        Raises:
            Doubtful: it is too large for that.
        """
        with self.document.open() as stream:
            data = stream.read(_MAXIMUM_BYTES + 1)
        if len(data) > _MAXIMUM_BYTES:
            raise Doubtful(f"{self.document.name} is too large: at most {_MAXIMUM_BYTES} bytes are read as a whole")
        return data

    def neighbour(self, name: str) -> Document | None:
        """A file that a detached signature is for: one that was given, or that lies right beside it."""
        if self.beside is not None:
            return next((one for one in self.beside if one.name == name), None)
        directory = self.document.path.parent if self.document.path is not None else None
        if directory is None or "/" in name or not (directory / name).is_file():
            return None
        return Document(name, directory / name)

    def detached_from(self) -> Document | None:
        """What a detached signature is for: the one file that was given, or that named as it without the suffix."""
        if self.beside is not None and len(self.beside) == 1:
            return self.beside[0]
        stem = Path(self.document.name).stem
        return self.neighbour(stem) if stem != self.document.name else None


def verify(
    source: str | Path | bytes,
    *,
    trust: Trust | None = None,
    at: datetime.datetime | None = None,
    beside: Sequence[Document] | None = None,
    name: str = "",
    password: str | None = None,
) -> FileReport:
    """Verify all signatures of a file: PAdES, CAdES, XAdES, ASiC-E, ASiC-S or JWS, recognised by its contents.

    Args:
        source: the file's path, or its content.
        trust: whom to trust, from :func:`load_trust`; None: the system's certificates.
        at: the time at which it is verified, with a zone; None: now.
        beside: the files that detached signatures are for; None: they are looked for beside the file, ``x.p7s`` being
            the signature of ``x``.
        name: what the report calls a content without a path.
        password: of an encrypted PDF.

    Returns:
        The report. A file that can not be read as what it is, is invalid; one without a signature is indeterminate,
        also one of a kind that holds none. Of these, the report's ``reason`` says why.

    Raises:
        DocumentError: the file can not be opened.
        ValueError: ``at`` has no zone.
    """
    from tokenauth.signing.verification.trust import Trust, system_trust

    moment = at or datetime.datetime.now(datetime.UTC)
    if moment.utcoffset() is None:
        raise ValueError("the time at which to verify has no zone")
    trust = Trust(system_trust()) if trust is None else trust
    shown = (name or "document") if isinstance(source, bytes) else str(source)
    try:
        document = _document(source, name)
        with ExitStack() as opened:
            request = _Request(document, None if beside is None else tuple(beside), password, opened)
            return _report(request, trust, moment, shown)
    except OSError as error:
        raise DocumentError(f"{shown} can not be read: {error.strerror or error}") from None


def _document(source: str | Path | bytes, name: str) -> Document:
    """What is verified; a pipe can be read only once, so it is read here.

    Raises:
        OSError: it can not be read.
    """
    if isinstance(source, bytes):
        return Document(name or "document", data=source)
    path = Path(source)
    if path.is_file():
        return Document(name or path.name, path)
    with path.open("rb") as stream:
        return Document(name or path.name, data=stream.read(_MAXIMUM_BYTES + 1))


def exit_code(reports: Sequence[FileReport]) -> int:
    """What the command line exits with: 0 if all files are valid, 10 if one is invalid, else 11."""
    return _EXIT_CODES[worst(report.status for report in reports)]


def _report(request: _Request, trust: Trust, moment: datetime.datetime, shown: str) -> FileReport:
    with request.document.open() as stream:
        head = stream.read(_HEAD)
    try:
        format, find = _kind(head, request)
        with reading(request.document.name):
            found = find(request)
    except Finding as problem:
        return FileReport(shown, problem.status, (), problem.reason)
    if not found:
        return FileReport(shown, INDETERMINATE, (), "the file holds no signature")
    reports = tuple(_assessed(one, trust, moment, format) for one in found)
    return FileReport(shown, worst(report.status for report in reports), reports)


def _assessed(
    one: Signature | SignatureReport, trust: Trust, moment: datetime.datetime, format: str
) -> SignatureReport:
    if isinstance(one, SignatureReport):
        return one
    try:
        with reading("what belongs to the signature"):
            return assess(one, trust, moment)
    except Finding as problem:
        return failed(format, problem, covers=one.covers)


def _kind(head: bytes, request: _Request) -> tuple[str, Callable[[_Request], _Found]]:
    """The format, and what finds its signatures.

    Raises:
        Doubtful: it is none of them.
    """
    from tokenauth.signing.verification.cades import is_cms
    from tokenauth.signing.verification.jws import is_jws
    from tokenauth.signing.verification.pades import is_pdf
    from tokenauth.signing.verification.xades import is_xml

    if is_container(head):
        return "asice", _asic
    if is_cms(head):
        return "cades", _cades
    if is_xml(head):
        return "xades", _xades
    if is_jws(head):
        return "jws", _jws
    if is_pdf(head):
        return "pades", _pades
    signature = _signature_beside(request)
    hint = f"; its signature is verified with the file {signature}" if signature else ""
    raise Doubtful(f"it is no PDF, CMS, XML, ASiC or JWS file, so there is no signature in it{hint}")


def _signature_beside(request: _Request) -> str:
    path = request.document.path
    beside = path.with_name(path.name + ".p7s") if path is not None else None
    return str(beside) if beside is not None and beside.is_file() else ""


def _asic(request: _Request) -> _Found:
    from tokenauth.signing.verification import asic

    stream = request.opened.enter_context(request.document.open())
    return asic.signatures(stream, request.document.name, request.opened)


def _pades(request: _Request) -> _Found:
    from tokenauth.signing.verification import pades

    stream = request.opened.enter_context(request.document.open())
    return pades.signatures(stream, request.password)


def _cades(request: _Request) -> _Found:
    from tokenauth.signing.verification import cades

    beside = request.detached_from()
    content: Content | None = cades.Content(beside.open) if beside is not None else None
    covers = (beside.name,) if beside is not None else ("the content inside the signature",)
    return cades.signatures(cades.as_der(request.read()), content, covers)


def _jws(request: _Request) -> _Found:
    from tokenauth.signing.verification import jws

    beside = request.detached_from()
    return jws.signatures(request.read(), lambda: beside.read() if beside is not None else None)


def _xades(request: _Request) -> _Found:
    from tokenauth.signing.verification import xades

    def resolve(uri: str) -> Iterator[bytes]:
        document = request.neighbour(name_in(uri))
        if document is None:
            raise Doubtful(f"the signature is for the file {uri!r}, which is not beside it")
        return document.pieces()

    return xades.signatures(request.read(), resolve, request.document.name)
