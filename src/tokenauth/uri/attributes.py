"""What the attributes of a PKCS#11 URI may hold and how each is written, as a table (RFC 7512 sections 2.3 and 2.4)."""

from __future__ import annotations

import os.path
import re
from typing import TYPE_CHECKING, Any

from tokenauth.errors import InvalidURI

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "BLANKS",
    "FIELDS",
    "KINDS",
    "PATH",
    "QUERY",
    "UNRESERVED",
    "Kind",
    "checked",
    "checked_vendor",
    "decode",
    "encode_path",
    "encode_query",
    "fault",
    "is_name",
]

BLANKS = " \t\n\r\v\f"
_ALPHANUMERIC = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
#: What a value may hold unescaped in every part of every URI (RFC 3986 section 2.3).
UNRESERVED = frozenset(_ALPHANUMERIC + "-._~")
_IN_NAME = frozenset(_ALPHANUMERIC + "-_")
# Section 2.3 lets more characters stand for themselves; shells, lists and other parsers do not.
_PLAIN_IN_PATH = frozenset(map(ord, UNRESERVED))
_PLAIN_IN_QUERY = _PLAIN_IN_PATH | {ord(":"), ord("/")}


class Kind:
    """What the values of an attribute are like. No function of it raises, so that no error can hold a value.

    Args:
        python: the Python type of a value.
        rule: what a value must be; completes "attribute 'x' ...".
        read: makes a value of well-formed URI text; None when the rule is broken.
        ok: whether a value keeps the rule.
        write: makes URI text of a value.
        padding: the characters that may follow a value without being part of it.
    """

    __slots__ = ("ok", "padding", "python", "read", "rule", "write")

    def __init__(
        self,
        python: type[Any],
        rule: str,
        *,
        read: Callable[[str], Any],
        ok: Callable[[Any], bool],
        write: Callable[[Any], str],
        padding: str = "",
    ) -> None:
        self.python = python
        self.rule = rule
        self.read = read
        self.ok = ok
        self.write = write
        self.padding = padding

    def accepted(self, value: Any) -> Any:
        """The value without padding, or None if it is None or breaks the rule."""
        if value is None:
            return None
        value = value.rstrip(self.padding) if self.padding else value
        return value if self.ok(value) else None


def _encode(octets: bytes, plain: frozenset[int]) -> str:
    return "".join([chr(octet) if octet in plain else f"%{octet:02X}" for octet in octets])


def _encode_id(octets: bytes) -> str:
    return _encode(octets, frozenset())


def encode_path(octets: bytes) -> str:
    """Percent-encode a value of the path."""
    return _encode(octets, _PLAIN_IN_PATH)


def encode_query(octets: bytes) -> str:
    """Percent-encode a value of the query."""
    return _encode(octets, _PLAIN_IN_QUERY)


def decode(text: str) -> bytes:
    """The octets of well-formed percent-encoded text."""
    head, *escaped = text.split("%")
    return head.encode() + b"".join([bytes.fromhex(part[:2]) + part[2:].encode() for part in escaped])


def _decode_text(text: str) -> str | None:
    try:
        return decode(text).decode()
    except UnicodeDecodeError:
        return None


def _decode_version(text: str) -> tuple[int, int] | None:
    found = re.fullmatch(r"([0-9]{1,9})(?:\.([0-9]{1,9}))?", text)
    return (int(found[1]), int(found[2] or 0)) if found else None


def _decode_number(text: str) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,20}", text) else None


def _is_version(value: tuple[Any, ...]) -> bool:
    return len(value) == 2 and all(isinstance(part, int) and 0 <= part <= 255 for part in value)


def _is_text(value: str, size: int = 0) -> bool:
    try:
        octets = value.encode()
    except UnicodeEncodeError:
        return False
    return b"\0" not in octets and not 0 < size < len(octets)


def _field(size: int) -> Kind:
    """The kind of a padded field of ``size`` bytes."""
    return Kind(
        str,
        f"must be UTF-8 text without NUL, of at most {size} bytes",
        read=_decode_text,
        ok=lambda value: _is_text(value, size),
        write=lambda value: encode_path(value.encode()),
        padding=" \0",
    )


def _text(
    write: Callable[[bytes], str],
    *,
    rule: str = "must be UTF-8 text without NUL",
    ok: Callable[[str], bool] = _is_text,
    padding: str = "",
) -> Kind:
    return Kind(str, rule, read=_decode_text, ok=ok, write=lambda value: write(value.encode()), padding=padding)


_FIELD_16, _FIELD_32, _FIELD_64 = _field(16), _field(32), _field(64)
_QUERY_TEXT = _text(encode_query)
_TYPES = ("cert", "data", "private", "public", "secret-key")

# In the order in which they are written: path, from the library down to the object, then query.
PATH = {
    "library-manufacturer": _FIELD_32,
    "library-description": _FIELD_32,
    "library-version": Kind(
        tuple,
        "must be M or M.N, each from 0 to 255",
        read=_decode_version,
        ok=_is_version,
        write=lambda value: f"{value[0]}.{value[1]}",
    ),
    "slot-manufacturer": _FIELD_32,
    "slot-description": _FIELD_64,
    "slot-id": Kind(
        int,
        "must be a decimal number below 2^64",
        read=_decode_number,
        ok=lambda value: 0 <= value < 1 << 64,
        write=str,
    ),
    "token": _FIELD_32,
    "manufacturer": _FIELD_32,
    "model": _FIELD_16,
    "serial": _FIELD_16,
    "id": Kind(bytes, "must be bytes", read=decode, ok=lambda _: True, write=_encode_id),
    "object": _text(encode_path, padding="\0"),  # CKA_LABEL is not padded; some modules end it with a NUL
    "type": Kind(str, f"must be one of {', '.join(_TYPES)}", read=str.lower, ok=_TYPES.__contains__, write=str),
}
QUERY = {
    "pin-source": _QUERY_TEXT,
    "pin-value": _QUERY_TEXT,
    "module-name": _QUERY_TEXT,
    "module-path": _text(
        encode_query,
        rule="must be an absolute path",
        ok=lambda value: _is_text(value) and os.path.isabs(value),  # noqa: PTH117 -- pathlib is slow to import
    ),
}
KINDS = PATH | QUERY
#: The attributes' names by what Python calls them.
FIELDS = {name.replace("-", "_"): name for name in KINDS}


def is_name(text: str) -> bool:
    """Whether an attribute could have this name."""
    return bool(text) and _IN_NAME.issuperset(text)


def fault(name: str, what: str, hint: str = "") -> InvalidURI:
    """The error that says what is wrong with the attribute ``name``."""
    return InvalidURI(f"attribute {name[:64]!r} {what}", hint=hint)


def checked(field: str, value: object) -> object:
    """A value that a program gave for the attribute that Python calls ``field``, without padding.

    Raises:
        InvalidURI: the value breaks the attribute's rule.
        TypeError: the value has another Python type than the attribute.
    """
    name = FIELDS[field]
    kind = KINDS[name]
    if value is None:
        return None
    if not isinstance(value, kind.python):
        raise TypeError(f"{field} must be {kind.python.__name__}, not {type(value).__name__}")
    accepted = kind.accepted(value)
    if accepted is None:
        raise fault(name, kind.rule)
    return accepted


def checked_vendor(pairs: Iterable[tuple[str, bytes]], *, unique: bool) -> tuple[tuple[str, bytes], ...]:
    """The (name, octets) pairs of attributes that RFC 7512 does not know, sorted by name.

    Raises:
        InvalidURI: a name is no name or that of a known attribute, or there twice where it must be ``unique``.
        TypeError: a value is not bytes.
    """
    result = tuple(sorted(pairs, key=lambda pair: pair[0]))
    for name, value in result:
        if not isinstance(value, bytes):
            raise TypeError(f"the value of a vendor attribute must be bytes, not {type(value).__name__}")
        if not is_name(name) or name.lower() in KINDS:
            raise fault(name, "does not have the name of a vendor attribute")
    if unique and len(dict(result)) < len(result):
        raise InvalidURI("a vendor attribute of the path is there a second time")
    return result
