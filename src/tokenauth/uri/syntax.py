"""From the text of a PKCS#11 URI to the values of its attributes (RFC 7512 section 2.3, as an ABNF grammar)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tokenauth.errors import InvalidURI
from tokenauth.uri.attributes import BLANKS, KINDS, PATH, QUERY, UNRESERVED, Kind, decode, encode_path, fault, is_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TypeAlias

    #: One name=value of a URI, its syntax checked and blanks removed, and its position: characters counted from 1.
    _Piece: TypeAlias = tuple[str, str, int]

__all__ = ["MAX_LENGTH", "has_scheme", "parse"]

#: Longer texts are refused unread, in characters.
MAX_LENGTH = 64 * 1024

_NO_BLANKS = str.maketrans("", "", BLANKS)

# Patterns of values; most texts need none of them, so each is compiled when it is first used.
_COMMON = r"A-Za-z0-9\-._~:\[\]@!$'()*+,="
_B, _X = f"[{BLANKS}]*+", "[0-9A-Fa-f]"
_PATH_VALUE = f"(?:[{_COMMON}&{BLANKS}]|%{_B}{_X}{_B}{_X})*+"
_QUERY_VALUE = f"(?:[{_COMMON}/?|{BLANKS}]|%{_B}{_X}{_B}{_X})*+"
_PIN_VALUE = rf"{_B}(?:[{_COMMON}/?|]|%{_X}{_X})*+(?:{_B}\Z)?"


class _Component:
    """The path or the query of a URI: its attributes, what stands between them and the pattern of their values."""

    __slots__ = ("attributes", "separator", "value")

    def __init__(self, attributes: dict[str, Kind], separator: str, value: str) -> None:
        self.attributes = attributes
        self.separator = separator
        self.value = value


_PATH_COMPONENT = _Component(PATH, ";", _PATH_VALUE)
_QUERY_COMPONENT = _Component(QUERY, "&", _QUERY_VALUE)


def has_scheme(text: str) -> bool:
    """Whether the text begins, after any blanks, with ``pkcs11:`` in any letter case."""
    start = text.lstrip(BLANKS)[:7]
    return start.isascii() and start.lower() == "pkcs11:"


def parse(text: str) -> dict[str, Any]:
    """The keyword arguments that make the TokenURI of ``text``.

    Raises:
        InvalidURI: RFC 7512 does not allow the text.
    """
    if len(text) > MAX_LENGTH:
        raise InvalidURI(f"the URI is longer than {MAX_LENGTH} characters")
    scheme, colon, rest = text.partition(":")
    if not has_scheme(scheme.translate(_NO_BLANKS) + colon):
        raise InvalidURI("not a PKCS#11 URI", hint="a PKCS#11 URI starts with 'pkcs11:'")
    path, _, query = rest.partition("?")
    start = len(scheme) + 2
    in_path, vendor_path = _read(_pieces(path, _PATH_COMPONENT, start), unique=True)
    in_query, vendor_query = _read(_pieces(query, _QUERY_COMPONENT, start + len(path) + 1), unique=False)
    known = {name.replace("-", "_"): value for name, value in (in_path | in_query).items()}
    return known | {"vendor_path": vendor_path, "vendor_query": vendor_query}


def _read(pieces: Iterable[_Piece], *, unique: bool) -> tuple[dict[str, Any], list[tuple[str, bytes]]]:
    """The values of the known attributes by name, and the (name, octets) of the others."""
    known: dict[str, Any] = {}
    vendor: list[tuple[str, bytes]] = []
    seen: set[str] = set()
    for name, text, position in pieces:
        kind = KINDS.get(name)
        if name in seen and (unique or kind):
            raise fault(name, f"at position {position} is there a second time")
        seen.add(name)
        if kind is None:
            vendor.append((name, decode(text)))
            continue
        known[name] = kind.accepted(kind.read(text))
        if known[name] is None:
            raise fault(name, f"at position {position} {kind.rule}")
    return known, vendor


def _pieces(text: str, component: _Component, start: int) -> Iterator[_Piece]:
    if not text.translate(_NO_BLANKS):
        return
    for part in text.split(component.separator):
        position = start + len(part) - len(part.lstrip(BLANKS))
        name, equals, value = part.partition("=")
        name = name.translate(_NO_BLANKS)
        if not equals or not is_name(name):
            raise InvalidURI(f"the attribute at position {position} is not of the form name=value")
        if name.lower() in KINDS:
            name = name.lower()
            if name not in component.attributes:
                where = "after the '?'" if name in QUERY else "before the '?'"
                raise fault(name, f"at position {position} is in the wrong place", f"write it {where}")
        allowed = _PIN_VALUE if name == "pin-value" else component.value
        _check_characters(name, value, allowed, start + len(part) - len(value))
        value = value.translate(_NO_BLANKS)
        if "pin-value=" in value.lower():  # 'token=dev&pin-value=1' is well-formed, and would show the PIN in a label
            raise fault(name, f"at position {position} swallows a pin-value", "write '?' first, then '&' between them")
        yield name, value, position
        start += len(part) + 1


def _check_characters(name: str, value: str, allowed: str, start: int) -> None:
    if UNRESERVED.issuperset(value):
        return
    found = re.match(allowed, value)
    end = found.end() if found else 0
    if end == len(value):
        return
    char, position = value[end], start + end
    if char == "%":
        raise fault(name, f"has a broken percent-escape at position {position}", "write '%25' for a percent sign")
    if name == "pin-value":
        hint = "percent-encode everything in it but letters, digits and '-._~'"
    else:
        hint = f"write {encode_path(char.encode(errors='surrogatepass'))!r} instead of {char!r}"
    raise fault(name, f"has a character at position {position} that must be percent-encoded", hint)
