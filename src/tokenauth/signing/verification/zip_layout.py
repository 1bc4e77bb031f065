"""That a ZIP file says the same at all places where it says something twice (PKWARE's APPNOTE, sections 4.3 and 4.4).

Readers differ in which of the two they believe; a container in which they differ was not made by an honest program.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO

from tokenauth._records import Record
from tokenauth.signing.verification.verdicts import Broken, Doubtful

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["check_contents", "check_layout"]

_END = struct.Struct("<4s4H2IH")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_DESCRIPTORS = (struct.Struct("<4s3I"), struct.Struct("<3I"), struct.Struct("<4sI2Q"))
_HAS_DESCRIPTOR = 0x8
_LONGEST_END = 65535 + _END.size
_LARGE = 0xFFFFFFFF
#: MS-DOS's attributes of a file (section 4.4.15): read-only, directory, archive.
_READ_ONLY, _DIRECTORY, _ARCHIVE = 0x01, 0x10, 0x20
#: Versions of the format that programs write (section 4.4.3), and systems (4.4.2): MS-DOS, Unix, NTFS, VFAT.
_VERSIONS = frozenset({0, 10, 20, 23, 25, 30, 31, 45, 46, 63})
_PYTHON = 20
_UNIX = 3
_SYSTEMS = frozenset({0, _UNIX, 10, 14})
_STEP = 1 << 20


class _Entry(Record):
    """A file as the directory at the end has it."""

    made: int
    needed: int
    flags: int
    method: int
    time: int
    date: int
    crc: int
    packed: int
    size: int
    internal: int
    external: int
    name: bytes
    offset: int

    def version(self) -> int:
        """Of the format, that the program follows which made the entry."""
        return self.made & 0xFF

    def system(self) -> int:
        """On which it ran."""
        return self.made >> 8


def check_contents(stream: BinaryIO) -> None:
    """Unpack all files, and check their sizes and checksums and that nothing is left over.

    Args:
        stream: a file that :func:`check_layout` and the container's own limits have passed.

    Raises:
        Broken: one is damaged.
    """
    for entry in _directory(stream)[1]:
        stream.seek(entry.offset)
        name, extra = _LOCAL.unpack(stream.read(_LOCAL.size))[-2:]
        stream.seek(entry.offset + _LOCAL.size + name + extra)
        crc, size = 0, 0
        for piece in _unpacked(stream, entry):
            crc, size = zlib.crc32(piece, crc), size + len(piece)
            if size > entry.size:
                break
        if (crc, size) != (entry.crc, entry.size):
            raise _differs("a file has another content than its checksum says")


def _unpacked(stream: BinaryIO, entry: _Entry) -> Iterator[bytes]:
    left = entry.packed
    inflater = zlib.decompressobj(-zlib.MAX_WBITS) if entry.method else None
    while left:
        packed = stream.read(min(_STEP, left))
        if not packed:
            raise _differs("it ends too early")
        left -= len(packed)
        if inflater is None:
            yield packed
            continue
        packed, last = (packed, b"") if left else (packed[:-1], packed[-1:])
        try:
            yield inflater.decompress(packed, _STEP)
            while inflater.unconsumed_tail:
                yield inflater.decompress(inflater.unconsumed_tail, _STEP)
            if last:
                yield _ended(inflater, last[0])
        except zlib.error as error:
            raise _differs(f"a file can not be unpacked ({error})") from None


def _ended(inflater: Any, last: int) -> bytes:
    """What the last byte of a packed content adds. Its highest bits may stand for nothing; then they are 0."""
    other = inflater.copy()
    end: bytes = inflater.decompress(bytes([last])) + inflater.flush()
    if not inflater.eof or inflater.unused_data:
        raise _differs("a file's packed content has no end, or something behind it")
    with contextlib.suppress(zlib.error):
        without_highest = last & ~(1 << last.bit_length() >> 1)
        if last and other.decompress(bytes([without_highest])) + other.flush() == end and other.eof:
            raise Doubtful("a file's packed content ends in bits that mean nothing")
    return end


def check_layout(stream: BinaryIO) -> None:
    """Check a ZIP file's headers against each other, from the first byte to the last.

    Args:
        stream: the file; can seek.

    Raises:
        Broken: they differ, or there is something between them.
    """
    start, entries = _directory(stream)
    at = 0
    for entry in sorted(entries, key=lambda one: one.offset):
        if entry.offset != at:
            raise _differs("there is something between its files")
        at = _end_of(stream, entry)
    if at != start:
        raise _differs("there is something between its files and its directory")


def _differs(what: str) -> Broken:
    return Broken(f"the container is damaged: {what}")


def _directory(stream: BinaryIO) -> tuple[int, list[_Entry]]:
    size = stream.seek(0, 2)
    stream.seek(max(0, size - _LONGEST_END))
    tail = stream.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > len(tail):
        raise _differs("its directory is not there")
    _, disk, first_disk, here, total, length, start, comment = _END.unpack_from(tail, at)
    end = size - len(tail) + at
    if disk or first_disk or here != total or len(tail) - at != _END.size + comment:
        raise _differs("the end of its directory is wrong")
    if _LARGE in (start, length) or total == 0xFFFF:
        raise Broken("containers of more than 4 GiB or 65534 files are not verified")
    if start + length != end:
        raise _differs("its directory is not where it should be")
    stream.seek(start)
    entries = list(_listed(stream.read(length), total))
    _check_descriptions(entries)
    return start, entries


def _listed(directory: bytes, total: int) -> Iterator[_Entry]:
    at = 0
    for _ in range(total):
        if at + _CENTRAL.size > len(directory):
            raise _differs("its directory ends too early")
        values = _CENTRAL.unpack_from(directory, at)
        mark, made, needed, flags, method, time, date, crc, packed, size = values[:10]
        name, extra, comment, disk, internal, external, offset = values[10:]
        at += _CENTRAL.size
        if mark != b"PK\x01\x02" or disk:
            raise _differs("its directory is wrong")
        own = directory[at : at + name]
        yield _Entry(made, needed, flags, method, time, date, crc, packed, size, internal, external, own, offset)
        at += name + extra + comment
    if at != len(directory):
        raise _differs("its directory has another length")


def _check_descriptions(entries: list[_Entry]) -> None:
    """What a directory says of files beyond their content, and nothing protects: only what honest programs write there.

    One program makes a container, so it says the same of all files; only on Unix each may have its own permissions.
    """
    systems, versions = ({part(one) for one in entries} for part in (_Entry.system, _Entry.version))
    own_permissions = systems == {_UNIX} and versions != {_PYTHON}
    externals = {one.external for one in entries if not one.name.endswith(b"/")}
    alike = len(systems) <= 1 and (len(externals) <= 1 or own_permissions)
    if not alike or not all(_is_plausible(one, len(versions) == 1) for one in entries):
        raise Doubtful("the container's directory describes a file in a way that no known program does")


def _is_plausible(entry: _Entry, same_version: bool) -> bool:
    """Nobody may read, write or run a file whose group may not, nor a group whose file's owner may not."""
    owner, group, others = (entry.external >> shift & 7 for shift in (22, 19, 16))
    flags = entry.external & 0xFFFF & ~(_DIRECTORY | (0 if entry.system() == _UNIX else _ARCHIVE))
    if flags == _READ_ONLY and not owner & 2:
        flags = 0
    is_known = entry.version() in _VERSIONS and entry.system() in _SYSTEMS
    is_version = same_version or entry.version() == entry.needed
    marks_text = (entry.system(), entry.version()) != (_UNIX, _PYTHON)  # as Info-ZIP, minizip and others do
    is_marked_right = entry.internal <= marks_text
    return is_known and is_version and is_marked_right and not flags and not others & ~group and not group & ~owner


def _end_of(stream: BinaryIO, entry: _Entry) -> int:
    """Check a file's own header, and where it ends."""
    stream.seek(entry.offset)
    head = stream.read(_LOCAL.size)
    if len(head) != _LOCAL.size:
        raise _differs("it ends too early")
    mark, needed, flags, method, time, date, crc, packed, size, name, extra = _LOCAL.unpack(head)
    described = bool(flags & _HAS_DESCRIPTOR)
    same = (needed, flags, method, time, date) == (entry.needed, entry.flags, entry.method, entry.time, entry.date)
    sizes = (crc, packed, size)
    expected = (entry.crc, entry.packed, entry.size)
    large = not described and crc == entry.crc and (packed, size) == (_LARGE, _LARGE)
    if mark != b"PK\x03\x04" or not same or stream.read(name) != entry.name:
        raise _differs("a file's header and its place in the directory differ")
    if sizes != expected and not large and not (described and (sizes == (0, 0, 0) or sizes[0] == 0)):
        raise _differs("a file's header and its place in the directory differ in the size")
    end: int = entry.offset + _LOCAL.size + name + extra + entry.packed
    return end + _descriptor(stream, end, expected) if described else end


def _descriptor(stream: BinaryIO, at: int, expected: tuple[int, int, int]) -> int:
    """The length of the data descriptor behind a file."""
    stream.seek(at)
    there = stream.read(max(one.size for one in _DESCRIPTORS))
    for form in _DESCRIPTORS:
        if len(there) < form.size:
            continue
        values = form.unpack_from(there)
        if values[-3:] == expected and (len(values) == 3 or values[0] == b"PK\x07\x08"):
            return int(form.size)
    raise _differs("what stands behind a file differs from the directory")
