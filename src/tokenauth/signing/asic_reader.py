"""ASiC containers (ETSI EN 319 162-1) as they are read: they come from anybody.

A container is a ZIP file, and ZIP readers differ in what they make of a strange one. All that is strange is refused
before anything of it is unpacked, so that what was verified is what others see.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import zipfile
import zlib
from typing import IO, TYPE_CHECKING

from tokenauth.signing.asic_names import META, MIMETYPE, check_name, folded, name_in
from tokenauth.signing.refusals import DocumentError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

__all__ = ["ASIC_E", "ASIC_S", "Container"]

ASIC_E = "application/vnd.etsi.asic-e+zip"
ASIC_S = "application/vnd.etsi.asic-s+zip"
#: ETSI EN 319 162-1 sections 4.3.3.2 and 4.4.3.2: what a signature's file is called.
_XML_SIGNATURE = re.compile(r"META-INF/[^/]*signatures[^/]*\.xml", re.IGNORECASE)
_CMS_SIGNATURE = re.compile(r"META-INF/[^/]*signature[^/]*\.p7s", re.IGNORECASE)

MAXIMUM_ENTRIES = 10_000
#: A signature file with certificates, OCSP answers and CRLs; a manifest.
MAXIMUM_META_BYTES = 64 * 1024 * 1024
#: What is unpacked may be so much, or so many times the container itself.
MAXIMUM_UNPACKED_BYTES = 64 * 1024 * 1024
MAXIMUM_RATIO = 100

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_UTF8_NAME, _UNUSUAL_FLAGS = 0x800, 0x1 | 0x20 | 0x40 | 0x2000  # encrypted, patched, strongly encrypted, masked
_STEP = 1 << 20


class Container:
    """An ASiC container that was checked from end to end, short of its files' contents.

    Args:
        source: its path, or a file that can seek.
        name: what errors call it; empty: its path.

    Attributes:
        mimetype: :data:`ASIC_E` or :data:`ASIC_S`.
        data_files: the names of the files that signatures are for.
        signatures: the names of the files with XAdES signatures.
        cms_signatures: the names of the files with CAdES signatures.

    Raises:
        DocumentError: it is no container, or one that is not accepted.
    """

    def __init__(self, source: str | Path | IO[bytes], name: str = "") -> None:
        self.name = name or (str(source) if isinstance(source, str | os.PathLike) else "the container")
        try:
            self._zip = zipfile.ZipFile(source)
        except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, OverflowError) as error:
            raise self._refused(f"is no ZIP file: {error}") from None
        except EOFError:
            raise self._refused("is no ZIP file: it ends too early") from None
        try:
            self._entries = self._checked()
            self.mimetype = self._mimetype()
        except BaseException:
            self.close()
            raise
        files = [entry for entry in self._entries if entry != MIMETYPE]
        self.data_files = [file for file in files if not file.startswith(META)]
        self.signatures = [file for file in files if _XML_SIGNATURE.fullmatch(file)]
        self.cms_signatures = [file for file in files if _CMS_SIGNATURE.fullmatch(file)]

    def __enter__(self) -> Container:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        self._zip.close()

    @property
    def files(self) -> list[str]:
        """The names of all files but ``mimetype``, in order."""
        return [entry for entry in self._entries if entry != MIMETYPE]

    def size(self, file: str) -> int:
        """Bytes of a file, unpacked."""
        return self._entry(file).file_size

    def is_compressed(self, file: str) -> bool:
        """Whether a file is stored compressed."""
        return self._entry(file).compress_type != zipfile.ZIP_STORED

    def pieces(self, file: str) -> Iterator[bytes]:
        """A file's contents, of which never more than a MiB is in memory.

        Raises:
            DocumentError: there is no such file, or it is damaged.
        """
        entry = self._entry(file)
        left = entry.file_size
        try:
            with self._zip.open(entry) as opened:
                while piece := opened.read(_STEP):
                    left -= len(piece)
                    yield piece
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
            raise self._refused(f"holds a damaged file, {file!r}: {error}") from None
        if left:
            raise self._refused(f"holds a damaged file, {file!r}: it ends too early")

    def read(self, file: str) -> bytes:
        """The contents of a signature file or manifest.

        Raises:
            DocumentError: there is no such file, it is damaged or too large.
        """
        if self.size(file) > MAXIMUM_META_BYTES:
            raise self._refused(f"holds {file!r} of {self.size(file)} bytes, which is too large")
        return b"".join(self.pieces(file))

    def resolve(self, uri: str) -> Iterator[bytes]:
        """The contents of the file that a signature's reference names; see :class:`xades_references.Resolver`."""
        return self.pieces(name_in(uri))

    def extract(self, directory: Path) -> list[Path]:
        """Unpack the data files below a directory: all of them or none.

        Args:
            directory: is made if it is not there.

        Returns:
            The paths of the files.

        Raises:
            DocumentError: a file is damaged.
            FileExistsError: a file of that name is there; it is left as it is.
        """
        made: list[Path] = []
        try:
            for file in self.data_files:
                made.append(self._extract(file, directory))
        except BaseException:
            for path in made:
                path.unlink(missing_ok=True)
            raise
        return made

    def _extract(self, file: str, directory: Path) -> Path:
        if os.name == "nt" and ":" in file:  # a stream of another file
            raise DocumentError(f"a file can not be called {file!r} on Windows", hint="unpack it on another system")
        path = directory / file
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as written:
            try:
                for piece in self.pieces(file):
                    written.write(piece)
            except BaseException:
                path.unlink()
                raise
        return path

    def _entry(self, file: str) -> zipfile.ZipInfo:
        entry = self._entries.get(file)
        if entry is None:
            raise DocumentError(f"{self.name} does not hold the file {file!r}")
        return entry

    def _refused(self, why: str) -> DocumentError:
        return DocumentError(f"{self.name} {why}", hint="get the container again from whoever made it")

    def _checked(self) -> dict[str, zipfile.ZipInfo]:
        """All files by name; directories are left out."""
        listed = self._zip.infolist()
        if len(listed) > MAXIMUM_ENTRIES:
            raise self._refused(f"holds {len(listed)} files; at most {MAXIMUM_ENTRIES} are accepted")
        found: dict[str, zipfile.ZipInfo] = {}
        for entry in listed:
            name = _decoded_name(entry)
            check_name(name, self.name)
            self._check_entry(entry, name)
            if name in found:
                raise self._refused(f"holds two files with the name {name!r}")
            found[name] = entry
        self._check_together(found)
        return {name: entry for name, entry in found.items() if not name.endswith("/")}

    def _check_entry(self, entry: zipfile.ZipInfo, name: str) -> None:
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if entry.flag_bits & _UNUSUAL_FLAGS:
            raise self._refused(f"holds the encrypted file {name!r}")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise self._refused(f"holds {name!r}, compressed in a way that ASiC does not know")
        expected = stat.S_IFDIR if name.endswith("/") else stat.S_IFREG
        if kind not in (0, expected):  # programs on Windows leave it out
            raise self._refused(f"holds {name!r}, which is no ordinary file")
        if name.endswith("/") and entry.file_size:
            raise self._refused(f"holds the directory {name!r} with contents")
        if entry.compress_type == zipfile.ZIP_STORED and entry.compress_size != entry.file_size:
            raise self._refused(f"holds {name!r} with two different sizes")

    def _check_together(self, found: dict[str, zipfile.ZipInfo]) -> None:
        """That no two files are one, by name or by place, and that they do not grow beyond measure."""
        names = {folded(name.removesuffix("/")) for name in found}
        if len(names) != len(found):
            raise self._refused("holds two files whose names are the same on some systems")
        files = {folded(name) for name in found if not name.endswith("/")}
        if any(above in files for name in names for above in _above(name)):
            raise self._refused("holds a file that is a directory as well")
        meta = folded(META)
        if any((folded(name) + "/").startswith(meta) and not name.startswith(META) for name in found):
            raise self._refused(f"writes {META} in another way")
        self._check_places(sorted(found.values(), key=lambda entry: entry.header_offset))
        packed, unpacked = sum(e.compress_size for e in found.values()), sum(e.file_size for e in found.values())
        if unpacked > max(MAXIMUM_UNPACKED_BYTES, MAXIMUM_RATIO * packed):
            raise self._refused(f"of {packed} bytes would grow to {unpacked} bytes, as only a ZIP bomb does")

    def _check_places(self, entries: list[zipfile.ZipInfo]) -> None:
        """The files lie one behind the other, the first at the very start."""
        end = 0
        for number, entry in enumerate(entries):
            if entry.header_offset < end or (number == 0 and entry.header_offset):
                raise self._refused("holds files that overlap, or something in front of them")
            end = entry.header_offset + _LOCAL_HEADER.size + len(entry.orig_filename) + entry.compress_size
        if end > self._zip.start_dir:
            raise self._refused("holds files that overlap")

    def _mimetype(self) -> str:
        """ETSI EN 319 162-1 appendix A.1: the first file, not compressed, so that its contents stand at byte 38."""
        first = self._zip.infolist()[:1]
        if not first or first[0].orig_filename != MIMETYPE or first[0].header_offset:
            raise self._refused(f"does not begin with the file {MIMETYPE!r}, as ASiC containers do")
        if first[0].compress_type != zipfile.ZIP_STORED:
            raise self._refused(f"holds {MIMETYPE!r} compressed")
        if first[0].file_size > _STEP:
            raise self._refused(f"holds {MIMETYPE!r} of {first[0].file_size} bytes")
        kind = b"".join(self.pieces(MIMETYPE)).decode("ascii", "replace")
        if kind not in (ASIC_E, ASIC_S):
            raise self._refused(f"is no ASiC container: its type is {kind[:100]!r}")
        return kind


def _decoded_name(entry: zipfile.ZipInfo) -> str:
    """An entry's name. Some programs write UTF-8 and do not say so; zipfile then takes it for code page 437."""
    name = entry.orig_filename
    if entry.flag_bits & _UTF8_NAME:
        return name
    try:
        return name.encode("cp437").decode("utf-8")
    except ValueError:
        return name


def _above(name: str) -> list[str]:
    """The directories that a file is in."""
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]
