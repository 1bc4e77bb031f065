"""What a PDF's signature covers, and what was done to the file later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

from tokenauth.signing.verification.verdicts import Broken, Doubtful

if TYPE_CHECKING:
    from tokenauth.signing.verification.verdicts import Finding

__all__ = ["coverage", "hidden_signature"]

_CHANGES = {
    "NONE": "nothing that shows was changed",
    "LTA_UPDATES": "validation data were added",
    "FORM_FILLING": "form fields were filled in or signed",
}
#: What pyHanko's comparison of revisions raises where a file surprises it, by references to nothing for example.
_PUZZLED = (LookupError, TypeError, ValueError, AttributeError, RecursionError)


def coverage(embedded: Any, reader: Any, stream: BinaryIO) -> tuple[str, ...]:
    """What the signature covers, and that what came later is permitted."""
    from pyhanko.sign.diff_analysis import SuspiciousModification
    from pyhanko.sign.validation.status import SignatureCoverageLevel

    try:
        embedded.compute_integrity_info()
    except _PUZZLED as error:
        raise Doubtful(f"what was changed in the PDF after it was signed can not be told ({_short(error)})") from None
    if embedded.coverage == SignatureCoverageLevel.ENTIRE_FILE:
        return ("the whole file",)
    if embedded.coverage != SignatureCoverageLevel.ENTIRE_REVISION:
        raise Broken("the PDF signature covers only a part of the revision that it was made for")
    changes = embedded.diff_result
    if isinstance(changes, SuspiciousModification) and str(changes).startswith("VRI "):
        raise Doubtful(
            "the PDF's validation data were written anew after it was signed, in a way that is not understood"
        )
    if isinstance(changes, SuspiciousModification):
        raise Broken(f"the PDF was changed after it was signed, in a way that is not permitted: {_plain(changes)}")
    if not embedded.summarise_integrity_info()["docmdp_ok"]:
        raise Broken("the PDF was changed after it was signed, in a way that the signature does not permit")
    return _words(embedded, int(reader.xrefs.total_revisions), changes.modification_level.name, stream)


def _words(embedded: Any, total: int, level: str, stream: BinaryIO) -> tuple[str, ...]:
    covered = sum([int(number) for number in embedded.byte_range][2:])
    if embedded.signed_revision + 1 == total:
        return (_last_revision(stream, covered),)
    kind = _CHANGES.get(level, "annotations were added")
    return (
        f"revision {embedded.signed_revision + 1} of {total}: the first {covered} of {_size(stream)} bytes",
        f"not the later revisions, in which {kind}, as is permitted",
    )


def _last_revision(stream: BinaryIO, covered: int) -> str:
    """Behind the last revision there may be white space (ISO 32000-2 section 7.2.3), but no more."""
    stream.seek(covered)
    while piece := stream.read(1 << 20):
        if piece.strip(b"\0\t\n\f\r "):
            raise Doubtful("there is something behind the end of the PDF that the signature does not cover")
    return f"the whole file but the white space behind its end: the first {covered} of {_size(stream)} bytes"


def hidden_signature(ends: list[int], total: int, stream: BinaryIO) -> Finding | None:
    """A later signature or time stamp that the PDF's damaged tables do not lead to any more.

    Args:
        ends: of what the sound signatures and time stamps cover.
        total: how many there are, the others included.
        stream: the file.
    """
    if not ends:
        return None
    stream.seek(min(ends))
    there, known = stream.read().count(b"/ByteRange"), total - ends.count(min(ends))
    return Doubtful("the PDF holds a later signature or time stamp that can not be read") if there > known else None


def _size(stream: BinaryIO) -> int:
    return stream.seek(0, 2)


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:100] or type(error).__name__


def _plain(changes: Any) -> str:
    return (str(changes).splitlines() or ["unknown"])[0].rstrip(".")[:300]
