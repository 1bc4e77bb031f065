"""BER-TLV as cards use it (ISO/IEC 7816-4 section 5.2.2): definite lengths, tags of one to three bytes.

A tag is the number that its bytes are: 0x53, 0x7F49, 0x5FC105.
"""

from __future__ import annotations

__all__ = ["TLVError", "encode", "find", "parse"]


class TLVError(ValueError):
    """Bytes that are not BER-TLV."""


def encode(tag: int, *values: bytes) -> bytes:
    """A data object whose value is all the values, one after the other."""
    value = b"".join(values)
    size = len(value)
    if size < 0x80:
        length = bytes([size])
    else:
        digits = size.to_bytes((size.bit_length() + 7) // 8, "big")
        length = bytes([0x80 | len(digits)]) + digits
    return tag.to_bytes(max(1, (tag.bit_length() + 7) // 8), "big") + length + value


def parse(data: bytes) -> list[tuple[int, bytes]]:
    """The data objects in `data`, with nothing between or after them.

    Raises:
        TLVError: it is something else.
    """
    objects = []
    offset = 0
    while offset < len(data):
        tag, offset = _tag(data, offset)
        size, offset = _length(data, offset)
        if offset + size > len(data):
            raise TLVError(f"the object {tag:X} ends behind the data")
        objects.append((tag, data[offset : offset + size]))
        offset += size
    return objects


def find(data: bytes, tag: int) -> bytes:
    """The value of the first object with that tag.

    Raises:
        TLVError: there is none, or `data` is not BER-TLV.
    """
    for found, value in parse(data):
        if found == tag:
            return value
    raise TLVError(f"there is no object {tag:X}")


def _tag(data: bytes, offset: int) -> tuple[int, int]:
    end = offset + 1
    if data[offset] & 0x1F == 0x1F:  # more bytes follow, all but the last with their high bit set
        while end < len(data) and data[end] & 0x80:
            end += 1
        end += 1
    if end > len(data) or end - offset > 3:
        raise TLVError("a tag does not end")
    return int.from_bytes(data[offset:end], "big"), end


def _length(data: bytes, offset: int) -> tuple[int, int]:
    if offset >= len(data):
        raise TLVError("a length is missing")
    first = data[offset]
    offset += 1
    if first < 0x80:
        return first, offset
    digits = first & 0x7F
    if not 1 <= digits <= 3 or offset + digits > len(data):
        raise TLVError("a length is indefinite, too long or cut off")
    return int.from_bytes(data[offset : offset + digits], "big"), offset + digits
