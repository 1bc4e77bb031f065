"""PKCS#11 URIs (RFC 7512): the one name a library, slot, token, key or certificate has.

What RFC 7512 leaves open is decided here:

- Blanks, tabs and line breaks in the text are ignored (RFC 7512 section 3, RFC 3986 appendix C, p11-kit), so that a
  folded URI can be pasted. Inside a ``pin-value`` they are refused: a PIN with a lost blank would cost a login attempt.
- An unrecognised path attribute is kept, and then the URI matches nothing; an unrecognised query attribute is kept and
  ignored (section 2.5). A known attribute in the wrong component is refused (section 2.3: names must not clash).
- Attribute names and ``type`` values are read in any letter case (strings of RFC 5234 grammars), written in lower case.
- A value that cannot be in its PKCS#11 field, by length or range, is refused (section 2.3), as is a relative
  ``module-path`` (section 2.4).
- Fields of fixed size are padded with blanks, by some modules with NULs. Such padding is dropped from a URI's values
  (p11-kit prints ``model=SLB9672%00%00``) and from the fields compared with them. Any other NUL is refused.
- Text is compared in Normalization Form C (sections 2.5 and 5), otherwise exactly.

A ``pin-value`` is shown by ``TokenURI.to_string(reveal_pin=True)`` and by ``TokenURI.pin_value``, and by nothing else.
"""

from __future__ import annotations

import functools
import os.path
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from tokenauth.errors import InvalidURI

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Iterable, Iterator
    from typing import ParamSpec, TypedDict, TypeVar, Unpack

    P = ParamSpec("P")
    R = TypeVar("R")

    class _Attributes(TypedDict, total=False):
        library_manufacturer: str | None
        library_description: str | None
        library_version: tuple[int, int] | None
        slot_manufacturer: str | None
        slot_description: str | None
        slot_id: int | None
        token: str | None
        manufacturer: str | None
        model: str | None
        serial: str | None
        id: bytes | None
        object: str | None
        type: str | None
        pin_source: str | None
        pin_value: str | None
        module_name: str | None
        module_path: str | None
        vendor_path: Iterable[tuple[str, bytes]]
        vendor_query: Iterable[tuple[str, bytes]]


__all__ = ["LibraryInfo", "ObjectInfo", "SlotInfo", "TokenInfo", "TokenURI"]

#: Longer texts are refused unread, in characters.
MAX_LENGTH = 64 * 1024


class _Kind(NamedTuple):
    """What the values of an attribute are like. No function of it raises, so that no error can hold a value."""

    python: type[Any]
    rule: str  # what a value must be; completes "attribute 'x' ..."
    read: Callable[[str], Any]  # from well-formed URI text; None when the rule is broken
    ok: Callable[[Any], bool]
    write: Callable[[Any], str]
    padding: str = ""  # what may follow a value without being part of it


_BLANKS = " \t\n\r\v\f"
_NO_BLANKS = str.maketrans("", "", _BLANKS)
_UNRESERVED = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"


def _encoder(plain: str) -> Callable[[bytes], str]:
    codes = [chr(octet) if chr(octet) in plain else f"%{octet:02X}" for octet in range(256)]
    return lambda octets: "".join([codes[octet] for octet in octets])


# Section 2.3 lets more characters stand for themselves; shells, lists and other parsers do not.
_encode_id = _encoder("")
_encode_path = _encoder(_UNRESERVED)
_encode_query = _encoder(_UNRESERVED + ":/")


def _decode(text: str) -> bytes:
    head, *escaped = text.split("%")
    return head.encode() + b"".join([bytes.fromhex(part[:2]) + part[2:].encode() for part in escaped])


def _decode_text(text: str) -> str | None:
    try:
        return _decode(text).decode()
    except UnicodeDecodeError:
        return None


def _decode_version(text: str) -> tuple[int, int] | None:
    found = re.fullmatch(r"([0-9]{1,9})(?:\.([0-9]{1,9}))?", text)
    return (int(found[1]), int(found[2] or 0)) if found else None


def _decode_number(text: str) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,20}", text) else None


def _is_version(value: tuple[Any, ...]) -> bool:
    return len(value) == 2 and all(isinstance(part, int) and 0 <= part <= 255 for part in value)


def _text(encode: Callable[[bytes], str], *, size: int = 0, padding: str = "") -> _Kind:
    def ok(value: str) -> bool:
        try:
            octets = value.encode()
        except UnicodeEncodeError:
            return False
        return b"\0" not in octets and not 0 < size < len(octets)

    rule = "must be UTF-8 text without NUL" + (f", of at most {size} bytes" if size else "")
    return _Kind(str, rule, _decode_text, ok, lambda value: encode(value.encode()), padding)


def _field(size: int) -> _Kind:
    """The kind of a blank-padded field of ``size`` bytes."""
    return _text(_encode_path, size=size, padding=" \0")


_TYPES = ("cert", "data", "private", "public", "secret-key")
_QUERY_TEXT = _text(_encode_query)

# In the order in which they are written: path, from the library down to the object, then query.
_PATH: dict[str, _Kind] = {
    "library-manufacturer": _field(32),
    "library-description": _field(32),
    "library-version": _Kind(
        tuple, "must be M or M.N, each from 0 to 255", _decode_version, _is_version, lambda v: f"{v[0]}.{v[1]}"
    ),
    "slot-manufacturer": _field(32),
    "slot-description": _field(64),
    "slot-id": _Kind(int, "must be a decimal number below 2^64", _decode_number, lambda v: 0 <= v < 1 << 64, str),
    "token": _field(32),
    "manufacturer": _field(32),
    "model": _field(16),
    "serial": _field(16),
    "id": _Kind(bytes, "must be bytes", _decode, lambda _: True, _encode_id),
    "object": _text(_encode_path, padding="\0"),  # CKA_LABEL is not padded; some modules end it with a NUL
    "type": _Kind(str, f"must be one of {', '.join(_TYPES)}", str.lower, lambda v: v in _TYPES, str),
}
_QUERY: dict[str, _Kind] = {
    "pin-source": _QUERY_TEXT,
    "pin-value": _QUERY_TEXT,
    "module-name": _QUERY_TEXT,
    "module-path": _QUERY_TEXT._replace(
        rule="must be an absolute path",
        ok=lambda v: _QUERY_TEXT.ok(v) and os.path.isabs(v),  # noqa: PTH117 -- pathlib is slow to import
    ),
}
_KINDS = _PATH | _QUERY
_FIELDS = {name.replace("-", "_"): name for name in _KINDS}

# Which attribute each member of the info tuples answers to, in the order of their members.
_LIBRARY = ("library-manufacturer", "library-description", "library-version")
_SLOT = ("slot-id", "slot-description", "slot-manufacturer")
_TOKEN = ("token", "manufacturer", "model", "serial")
_OBJECT = ("object", "id", "type")


def _accepted(kind: _Kind, value: Any) -> Any:
    """The value without padding, or None if the rule of its kind is broken."""
    if value is None:
        return None
    value = value.rstrip(kind.padding) if kind.padding else value
    return value if kind.ok(value) else None


class _Component(NamedTuple):
    attributes: dict[str, _Kind]
    separator: str
    value: str  # a pattern, compiled when it is first needed


_COMMON = r"A-Za-z0-9\-._~:\[\]@!$'()*+,="
_B, _X = f"[{_BLANKS}]*+", "[0-9A-Fa-f]"
_PATH_COMPONENT = _Component(_PATH, ";", f"(?:[{_COMMON}&{_BLANKS}]|%{_B}{_X}{_B}{_X})*+")
_QUERY_COMPONENT = _Component(_QUERY, "&", f"(?:[{_COMMON}/?|{_BLANKS}]|%{_B}{_X}{_B}{_X})*+")
_PIN_VALUE = rf"{_B}(?:[{_COMMON}/?|]|%{_X}{_X})*+(?:{_B}\Z)?"
_NAME = re.compile(r"[A-Za-z0-9_\-]+")
_SCHEME = re.compile(r"\s*pkcs11:", re.ASCII | re.IGNORECASE)


class _Piece(NamedTuple):
    """One name=value of a URI, its syntax checked and blanks removed. ``position`` counts characters from 1."""

    name: str
    value: str
    position: int


def _fault(name: str, what: str, hint: str = "") -> InvalidURI:
    return InvalidURI(f"attribute {name[:64]!r} {what}", hint=hint)


def _check_characters(name: str, value: str, allowed: str, start: int) -> None:
    found = re.match(allowed, value)
    end = found.end() if found else 0
    if end == len(value):
        return
    char, position = value[end], start + end
    if char == "%":
        raise _fault(name, f"has a broken percent-escape at position {position}", "write '%25' for a percent sign")
    if name == "pin-value":
        hint = "percent-encode everything in it but letters, digits and '-._~'"
    else:
        hint = f"write {_encode_path(char.encode(errors='surrogatepass'))!r} instead of {char!r}"
    raise _fault(name, f"has a character at position {position} that must be percent-encoded", hint)


def _pieces(text: str, component: _Component, start: int) -> Iterator[_Piece]:
    if not text.translate(_NO_BLANKS):
        return
    for part in text.split(component.separator):
        position = start + len(part) - len(part.lstrip(_BLANKS))
        name, equals, value = part.partition("=")
        name = name.translate(_NO_BLANKS)
        if not equals or not _NAME.fullmatch(name):
            raise InvalidURI(f"the attribute at position {position} is not of the form name=value")
        if name.lower() in _KINDS:
            name = name.lower()
            if name not in component.attributes:
                where = "after the '?'" if name in _QUERY else "before the '?'"
                raise _fault(name, f"at position {position} is in the wrong place", f"write it {where}")
        allowed = _PIN_VALUE if name == "pin-value" else component.value
        _check_characters(name, value, allowed, start + len(part) - len(value))
        value = value.translate(_NO_BLANKS)
        if "pin-value=" in value.lower():  # 'token=dev&pin-value=1' is well-formed, and would show the PIN in a label
            raise _fault(name, f"at position {position} swallows a pin-value", "write '?' first, then '&' between them")
        yield _Piece(name, value, position)
        start += len(part) + 1


def _read(pieces: Iterable[_Piece], *, unique: bool) -> tuple[dict[str, Any], list[tuple[str, bytes]]]:
    """The values of the known attributes by name, and the (name, octets) of the others."""
    known: dict[str, Any] = {}
    vendor: list[tuple[str, bytes]] = []
    seen: set[str] = set()
    for name, text, position in pieces:
        kind = _KINDS.get(name)
        if name in seen and (unique or kind):
            raise _fault(name, f"at position {position} is there a second time")
        seen.add(name)
        if kind is None:
            vendor.append((name, _decode(text)))
            continue
        known[name] = _accepted(kind, kind.read(text))
        if known[name] is None:
            raise _fault(name, f"at position {position} {kind.rule}")
    return known, vendor


def _parse(text: str) -> dict[str, Any]:
    """The keyword arguments that make the TokenURI of ``text``."""
    if len(text) > MAX_LENGTH:
        raise InvalidURI(f"the URI is longer than {MAX_LENGTH} characters")
    scheme, colon, rest = text.partition(":")
    if not _SCHEME.fullmatch(scheme.translate(_NO_BLANKS) + colon):
        raise InvalidURI("not a PKCS#11 URI", hint="a PKCS#11 URI starts with 'pkcs11:'")
    path, _, query = rest.partition("?")
    start = len(scheme) + 2
    in_path, vendor_path = _read(_pieces(path, _PATH_COMPONENT, start), unique=True)
    in_query, vendor_query = _read(_pieces(query, _QUERY_COMPONENT, start + len(path) + 1), unique=False)
    known = {name.replace("-", "_"): value for name, value in (in_path | in_query).items()}
    return known | {"vendor_path": vendor_path, "vendor_query": vendor_query}


def _checked(field: str, value: object) -> object:
    name = _FIELDS[field]
    kind = _KINDS[name]
    if value is None:
        return None
    if not isinstance(value, kind.python):
        raise TypeError(f"{field} must be {kind.python.__name__}, not {type(value).__name__}")
    accepted = _accepted(kind, value)
    if accepted is None:
        raise _fault(name, kind.rule)
    return accepted


def _checked_vendor(pairs: Iterable[tuple[str, bytes]], *, unique: bool) -> tuple[tuple[str, bytes], ...]:
    result = tuple(sorted(pairs, key=lambda pair: pair[0]))
    for name, value in result:
        if not isinstance(value, bytes):
            raise TypeError(f"the value of a vendor attribute must be bytes, not {type(value).__name__}")
        if not _NAME.fullmatch(name) or name.lower() in _KINDS:
            raise _fault(name, "does not have the name of a vendor attribute")
    if unique and len(dict(result)) < len(result):
        raise InvalidURI("a vendor attribute of the path is there a second time")
    return result


def _comparable(value: object, padding: str) -> object:
    if not isinstance(value, str):
        return value
    value = value.rstrip(padding) if padding else value
    if value.isascii():
        return value
    import unicodedata  # few names need it

    return unicodedata.normalize("NFC", value)


def _forgetful(function: Callable[P, R]) -> Callable[P, R]:
    """Let errors leave ``function`` without the frames below: their variables hold the text, and with it a PIN."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (InvalidURI, TypeError) as error:
            del args, kwargs
            raise error.with_traceback(None) from None

    return wrapper


class LibraryInfo(NamedTuple):
    """What ``C_GetInfo`` says of a module; ``version`` is (major, minor)."""

    manufacturer: str
    description: str
    version: tuple[int, int]


class SlotInfo(NamedTuple):
    """A slot's number and what ``C_GetSlotInfo`` says of it."""

    id: int
    description: str
    manufacturer: str


class TokenInfo(NamedTuple):
    """What ``C_GetTokenInfo`` says of a token."""

    label: str
    manufacturer: str
    model: str
    serial: str


class ObjectInfo(NamedTuple):
    """``CKA_LABEL``, ``CKA_ID`` and ``CKA_CLASS`` (as a URI's ``type``) of an object; None for an absent attribute."""

    label: str | None
    id: bytes | None
    type: str


class TokenURI:
    """A PKCS#11 URI: which libraries, slots, tokens and objects are meant, and how to reach them. It never changes.

    Each attribute of RFC 7512 section 2.3 is a keyword argument and an attribute here, with ``_`` for ``-``; None means
    that the URI does not have it. Two URIs are equal when they have equal attributes, ``pin_value`` included.

    Args:
        **attributes: ``library_version`` is a (major, minor) pair of numbers below 256, ``slot_id`` a number, ``id``
            (``CKA_ID``) bytes, ``type`` one of cert, data, private, public, secret-key. ``vendor_path`` and
            ``vendor_query`` are (name, octets) pairs of attributes that RFC 7512 does not know; with any
            ``vendor_path`` the URI matches nothing. All others are text; padding at the end of fixed-size fields is
            dropped.

    Raises:
        InvalidURI: a value that the attribute cannot have, or both ``pin_source`` and ``pin_value``.
        TypeError: an unknown attribute, or a value of the wrong Python type.
    """

    __slots__ = (*_FIELDS, "vendor_path", "vendor_query")

    library_manufacturer: str | None
    library_description: str | None
    library_version: tuple[int, int] | None
    slot_manufacturer: str | None
    slot_description: str | None
    slot_id: int | None
    token: str | None
    manufacturer: str | None
    model: str | None
    serial: str | None
    id: bytes | None
    object: str | None
    type: str | None
    pin_source: str | None
    pin_value: str | None
    module_name: str | None
    module_path: str | None
    vendor_path: tuple[tuple[str, bytes], ...]
    vendor_query: tuple[tuple[str, bytes], ...]

    @_forgetful
    def __init__(self, **attributes: Unpack[_Attributes]) -> None:
        given: dict[str, Any] = {**attributes}
        values: dict[str, object] = {
            "vendor_path": _checked_vendor(given.pop("vendor_path", ()), unique=True),
            "vendor_query": _checked_vendor(given.pop("vendor_query", ()), unique=False),
        }
        for field in given.keys() - _FIELDS.keys():
            raise TypeError(f"a TokenURI has no attribute {field!r}")
        values |= {field: _checked(field, given.get(field)) for field in _FIELDS}
        if values["pin_source"] is not None and values["pin_value"] is not None:
            raise InvalidURI("the URI has both a pin-source and a pin-value", hint="leave one of them out")
        for field, value in values.items():
            object.__setattr__(self, field, value)

    @classmethod
    @_forgetful
    def parse(cls, text: str) -> TokenURI:
        """Read a URI.

        Args:
            text: the URI, of at most 65536 characters; ``pkcs11:`` alone matches everything.

        Returns:
            The URI, equal for every spelling of the same attributes.

        Raises:
            InvalidURI: RFC 7512 does not allow the text. The message names the attribute and the position in the text,
                counted from 1, and never shows the value of a ``pin-value``.
        """
        return TokenURI(**_parse(text))

    @classmethod
    @_forgetful
    def from_user(cls, text: str) -> TokenURI:
        """Read what a person gave to name a token or key: a URI, or a bare word that is a token's label.

        Args:
            text: parsed if it starts with ``pkcs11:`` (in any letter case), otherwise taken literally.

        Returns:
            The URI, or one that has only ``token``.

        Raises:
            InvalidURI: as :meth:`parse`; or the word is blank, or cannot be a label.
        """
        # A misspelt scheme must not turn a PIN into a label, which is shown.
        if _SCHEME.match(text) or "pin-value" in text.lower():
            return TokenURI(**_parse(text))
        if not text.strip(_BLANKS):
            raise InvalidURI("an empty name", hint="give a token's label or a 'pkcs11:' URI; 'pkcs11:' is everything")
        return TokenURI(token=text)

    @_forgetful
    def replace(self, **changes: Unpack[_Attributes]) -> TokenURI:
        """The URI with other values for the given attributes; None removes one.

        Raises:
            InvalidURI, TypeError: as for the constructor.
        """
        merged: Any = {field: getattr(self, field) for field in self.__slots__} | changes
        return TokenURI(**merged)

    def without_pin(self) -> TokenURI:
        """The URI without ``pin_source`` and ``pin_value``: for logs and listings."""
        return self.replace(pin_source=None, pin_value=None)

    def to_string(self, *, reveal_pin: bool = False) -> str:
        """The canonical text: attributes in a fixed order, percent-encoded but for RFC 3986's unreserved characters.

        Args:
            reveal_pin: whether a ``pin-value`` is part of the text. Without it the attribute is left out.

        Returns:
            The text; ``parse`` makes an equal URI of it if nothing was left out.
        """
        path = [
            f"{name}={kind.write(value)}" for name, kind in _PATH.items() if (value := self._value(name)) is not None
        ]
        path += [f"{name}={_encode_path(octets)}" for name, octets in self.vendor_path]
        query = [
            f"{name}={kind.write(value)}"
            for name, kind in _QUERY.items()
            if (value := self._value(name)) is not None and (reveal_pin or name != "pin-value")
        ]
        query += [f"{name}={_encode_query(octets)}" for name, octets in self.vendor_query]
        return "pkcs11:" + ";".join(path) + ("?" if query else "") + "&".join(query)

    def _value(self, name: str) -> Any:
        return getattr(self, name.replace("-", "_"))

    def matches(
        self,
        *,
        library: LibraryInfo | None = None,
        slot: SlotInfo | None = None,
        token: TokenInfo | None = None,
        obj: ObjectInfo | None = None,
    ) -> bool:
        """Whether everything that is given matches (RFC 7512 section 2.5).

        Attributes of a group that is not given are not looked at: a URI with ``object`` matches a token alone.
        """
        return (
            not self.vendor_path
            and (library is None or self.matches_library(library))
            and (slot is None or self.matches_slot(slot))
            and (token is None or self.matches_token(token))
            and (obj is None or self.matches_object(obj))
        )

    def matches_library(self, info: LibraryInfo) -> bool:
        """Whether the ``library-`` attributes match."""
        return self._agrees(_LIBRARY, info)

    def matches_slot(self, info: SlotInfo) -> bool:
        """Whether the ``slot-`` attributes match."""
        return self._agrees(_SLOT, info)

    def matches_token(self, info: TokenInfo) -> bool:
        """Whether ``token``, ``manufacturer``, ``model`` and ``serial`` match."""
        return self._agrees(_TOKEN, info)

    def matches_object(self, info: ObjectInfo) -> bool:
        """Whether ``object``, ``id`` and ``type`` match. An absent label or id is an empty one, as in PKCS#11."""
        return self._agrees(_OBJECT, (info.label or "", info.id or b"", info.type))

    def _agrees(self, names: tuple[str, ...], actual: tuple[Any, ...]) -> bool:
        def same(name: str, value: builtins.object) -> bool:
            wanted, padding = self._value(name), _KINDS[name].padding
            return wanted is None or _comparable(wanted, padding) == _comparable(value, padding)

        return not self.vendor_path and all(map(same, names, actual))

    def __str__(self) -> str:
        return self.to_string()

    def __repr__(self) -> str:
        values = {field: getattr(self, field) for field in self.__slots__}
        shown = (
            f"{field}=<hidden>" if field == "pin_value" else f"{field}={value!r}"
            for field, value in values.items()
            if value not in (None, ())
        )
        return f"TokenURI({', '.join(shown)})"

    def _key(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field) for field in self.__slots__)

    def __eq__(self, other: builtins.object) -> bool:
        return self._key() == other._key() if isinstance(other, TokenURI) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __setattr__(self, name: str, value: builtins.object) -> None:
        raise AttributeError(f"a TokenURI does not change: make another with replace({name}=...)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a TokenURI does not change: make another with replace({name}=None)")

    def __copy__(self) -> TokenURI:
        return self

    def __deepcopy__(self, memo: builtins.object) -> TokenURI:
        return self

    def __reduce__(self) -> tuple[Callable[[str], TokenURI], tuple[str]]:
        if self.pin_value is not None:
            raise TypeError("a TokenURI with a pin-value is not pickled; pickle its without_pin()")
        return TokenURI.parse, (str(self),)
