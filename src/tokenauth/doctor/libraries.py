"""For which processor a library is made, by the first bytes of its file."""

from __future__ import annotations

import platform
import struct
import sys
from pathlib import Path

__all__ = ["architectures", "mismatch"]

_HEADER = 4096  # bytes
#: e_machine of ELF (the gABI and its supplements): words for people.
_ELF = {0x03: "x86", 0x28: "ARM", 0x3E: "x86-64", 0xB7: "ARM64", 0xF3: "RISC-V", 0x15: "POWER", 0x16: "S/390"}
#: Machine of PE/COFF.
_PE = {0x14C: "x86", 0x8664: "x86-64", 0xAA64: "ARM64", 0x1C4: "ARM"}
#: cputype of Mach-O (mach/machine.h).
_MACH = {0x7: "x86", 0x01000007: "x86-64", 0xC: "ARM", 0x0100000C: "ARM64"}
_MACH_MAGIC = {b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe"}
_FAT_MAGIC = b"\xca\xfe\xba\xbe"
_MOST_IN_FAT = 16
#: What :func:`platform.machine` says of a Mac.
_MACS = {"arm64": "ARM64", "x86_64": "x86-64"}


def architectures(header: bytes) -> frozenset[str]:
    """The processors that a library or program is for.

    Args:
        header: the first bytes of the file: ELF, Mach-O or PE.

    Returns:
        In words such as ``x86-64``, for ELF with ``, 32 bits`` where that is not plain; nothing if it is no such file,
        or too short.
    """
    try:
        if header.startswith(b"\x7fELF"):
            return frozenset([_elf(header)])
        if header[:4] in _MACH_MAGIC:
            return frozenset([_named(_MACH, struct.unpack_from("<I", header, 4)[0])])
        if header.startswith(_FAT_MAGIC):
            return _fat(header)
        if header.startswith(b"MZ"):
            return _pe(header)
    except struct.error:  # it ends too early
        pass
    return frozenset()


def _named(names: dict[int, str], number: int) -> str:
    return names.get(number, f"processor {number:#x}")


def _elf(header: bytes) -> str:
    """``e_ident`` tells of 32 or 64 bits and of the order of bytes, ``e_machine`` of the processor."""
    order = ">" if header[5:6] == b"\x02" else "<"
    name = _named(_ELF, struct.unpack_from(order + "H", header, 18)[0])
    bits = {b"\x01": 32, b"\x02": 64}.get(header[4:5], 0)
    if name in {"x86", "ARM"} or (bits == 64 and name in {"x86-64", "ARM64"}):
        return name
    return f"{name}, {bits} bits, {'big' if order == '>' else 'little'} endian"


def _fat(header: bytes) -> frozenset[str]:
    """Several in one file. A Java class begins the same way, with its version where the count is."""
    count = struct.unpack_from(">I", header, 4)[0]
    if count > _MOST_IN_FAT:
        return frozenset()
    return frozenset(_named(_MACH, struct.unpack_from(">I", header, 8 + 20 * number)[0]) for number in range(count))


def _pe(header: bytes) -> frozenset[str]:
    offset = struct.unpack_from("<I", header, 0x3C)[0]
    if header[offset : offset + 4] != b"PE\0\0":
        return frozenset()
    return frozenset([_named(_PE, struct.unpack_from("<H", header, offset + 4)[0])])


def mismatch(path: str) -> str:
    """Why a library can not be loaded into this Python, if its processor is the reason; else empty.

    Args:
        path: the library's file.
    """
    theirs, ours = architectures(_read(path)), _own()
    if not theirs or not ours or theirs & ours:
        return ""
    return f"it is made for {' and '.join(sorted(theirs))}, and this Python for {' and '.join(sorted(ours))}"


def _own() -> frozenset[str]:
    if sys.platform == "darwin":  # a universal Python runs as one of what it is
        return frozenset([_MACS.get(platform.machine(), platform.machine())])
    return architectures(_read(sys.executable))


def _read(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(_HEADER)
    except OSError:
        return b""
