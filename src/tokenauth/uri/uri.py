"""A PKCS#11 URI as an object that never changes."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from tokenauth.errors import InvalidURI
from tokenauth.uri.attributes import (
    BLANKS,
    FIELDS,
    KINDS,
    PATH,
    QUERY,
    checked,
    checked_vendor,
    encode_path,
    encode_query,
)
from tokenauth.uri.matching import LIBRARY, OBJECT, SLOT, TOKEN, comparable
from tokenauth.uri.syntax import has_scheme, parse

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Iterable
    from typing import ParamSpec, TypedDict, TypeVar, Unpack

    from tokenauth.uri.matching import LibraryInfo, ObjectInfo, SlotInfo, TokenInfo

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


__all__ = ["TokenURI"]


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

    __slots__ = (*FIELDS, "vendor_path", "vendor_query")

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
            "vendor_path": checked_vendor(given.pop("vendor_path", ()), unique=True),
            "vendor_query": checked_vendor(given.pop("vendor_query", ()), unique=False),
        }
        for field in given.keys() - FIELDS.keys():
            raise TypeError(f"a TokenURI has no attribute {field!r}")
        values |= {field: checked(field, given[field]) if field in given else None for field in FIELDS}
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
        return TokenURI(**parse(text))

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
        if has_scheme(text) or "pin-value" in text.lower():
            return TokenURI(**parse(text))
        if not text.strip(BLANKS):
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
            f"{name}={kind.write(value)}" for name, kind in PATH.items() if (value := self._value(name)) is not None
        ]
        path += [f"{name}={encode_path(octets)}" for name, octets in self.vendor_path]
        query = [
            f"{name}={kind.write(value)}"
            for name, kind in QUERY.items()
            if (value := self._value(name)) is not None and (reveal_pin or name != "pin-value")
        ]
        query += [f"{name}={encode_query(octets)}" for name, octets in self.vendor_query]
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
        return self._agrees(LIBRARY, info)

    def matches_slot(self, info: SlotInfo) -> bool:
        """Whether the ``slot-`` attributes match."""
        return self._agrees(SLOT, info)

    def matches_token(self, info: TokenInfo) -> bool:
        """Whether ``token``, ``manufacturer``, ``model`` and ``serial`` match."""
        return self._agrees(TOKEN, info)

    def matches_object(self, info: ObjectInfo) -> bool:
        """Whether ``object``, ``id`` and ``type`` match. An absent label or id is an empty one, as in PKCS#11."""
        return self._agrees(OBJECT, (info.label or "", info.id or b"", info.type))

    def _agrees(self, names: tuple[str, ...], actual: tuple[Any, ...]) -> bool:
        def same(name: str, value: builtins.object) -> bool:
            wanted, padding = self._value(name), KINDS[name].padding
            return wanted is None or comparable(wanted, padding) == comparable(value, padding)

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
