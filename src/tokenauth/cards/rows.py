"""The rows of modules.toml and cards.toml: what they may say, and what is made of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tokenauth._records import Record

__all__ = [
    "CARD_FIELDS",
    "KINDS",
    "MANAGERS",
    "MODULE_FIELDS",
    "PLACEHOLDERS",
    "Card",
    "Field",
    "Module",
    "RowError",
    "read_row",
]

#: What a module serves; a proxy has no keys of its own.
KINDS = ("cards", "hsm", "cloud", "tpm", "software", "proxy")
#: What may stand in braces in a path.
PLACEHOLDERS = ("lib", "multiarch", "programs", "programs_x86", "system32")
#: Package managers by the name that ``packages`` gives them: their program, and the command that installs.
MANAGERS = {
    "debian": ("apt-get", "apt-get install {}"),
    "fedora": ("dnf", "dnf install {}"),
    "arch": ("pacman", "pacman -S {}"),
    "homebrew": ("brew", "brew install {}"),
}

_MAX_TEXT = 500  # characters
_MAX_ATR = 33  # bytes: the initial character and 32 more (ISO 7816-3, section 8.2.1)
_AID_LENGTHS = range(5, 17)  # bytes: five of the registered provider, up to 11 of the application (ISO 7816-4)


class RowError(ValueError):
    """A row can not be used; the message names the field and says what it should be."""


class Module(Record):
    """A PKCS#11 module, wherever it may be installed.

    Attributes:
        id: its name in these tables.
        name: what people call it.
        kind: one of :data:`KINDS`.
        vendor: who makes it; empty if that is not known.
        countries: ISO 3166-1 codes of the countries whose cards it is for; none for a module of no country.
        automatic: it may be loaded without being asked for.
        linux: templates of the file's path, best first; so too ``darwin`` and ``win32``.
        packages: pairs of a package manager (a key of :data:`MANAGERS`) and the package that brings the module.
        program: the vendor's program that brings the module.
        url: where to get ``program``.
        quirks: sentences about what it does differently.
        sources: where all that is known from.
    """

    id: str
    name: str
    kind: str = "cards"
    vendor: str = ""
    countries: tuple[str, ...] = ()
    automatic: bool = False
    linux: tuple[str, ...] = ()
    darwin: tuple[str, ...] = ()
    win32: tuple[str, ...] = ()
    packages: tuple[tuple[str, str], ...] = ()
    program: str = ""
    url: str = ""
    quirks: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


class Card(Record):
    """A kind of card.

    Attributes:
        kind: its name in these tables.
        name: what people call it.
        countries: ISO 3166-1 codes of the countries that issue it.
        atrs: patterns of its answer to reset, as hex digits, ``.`` for any one digit.
        aids: the first bytes of the names of its applications (ISO 7816-4).
        modules: ids of the modules that serve it, best first.
        quirks: sentences about what it does differently.
        samples: answers to reset of real cards, for tests.
        sources: where all that is known from.
    """

    kind: str
    name: str
    countries: tuple[str, ...] = ()
    atrs: tuple[str, ...] = ()
    aids: tuple[bytes, ...] = ()
    modules: tuple[str, ...] = ()
    quirks: tuple[str, ...] = ()
    samples: tuple[bytes, ...] = ()
    sources: tuple[str, ...] = ()


class Field(Record):
    """A field of a row.

    Attributes:
        read: makes the value of what TOML gave, or raises :class:`RowError`, saying what it should be.
        required: a row can not do without.
    """

    read: Callable[[Any], Any]
    required: bool = False


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > _MAX_TEXT:
        raise RowError(f"is to be a text of one line, at most {_MAX_TEXT} characters")
    return value


def _matching(pattern: str, meaning: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value, re.ASCII):
            raise RowError(f"is to be {meaning}")
        return value

    return read


def _list(read: Callable[[object], Any]) -> Callable[[object], tuple[Any, ...]]:
    def read_list(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise RowError("is to be a list")
        return tuple(read(item) for item in value)

    return read_list


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise RowError("is to be true or false")
    return value


def _template(value: object) -> str:
    """A path in which names of :data:`PLACEHOLDERS` may stand in braces."""
    template = _text(value)
    bare = re.sub("{(?:" + "|".join(PLACEHOLDERS) + ")}", "", template)
    if "{" in bare or "}" in bare:
        raise RowError(f"may have in braces only {', '.join(PLACEHOLDERS)}: {template!r}")
    if not re.match(r"/|~/|\{|[A-Za-z]:\\", template):
        raise RowError(f"is to be a whole path, from the root: {template!r}")
    return template


def _packages(value: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict) or not set(value) <= set(MANAGERS):
        raise RowError(f"is to name packages by {', '.join(MANAGERS)}")
    package = _matching(r"[A-Za-z0-9][A-Za-z0-9.+_-]*", "the name of a package")
    return tuple((manager, package(name)) for manager, name in value.items())


def _digits(value: object) -> str:
    return re.sub(r"[\s:]", "", value).upper() if isinstance(value, str) else ""


def _hex(lengths: range, meaning: str) -> Callable[[object], bytes]:
    def read(value: object) -> bytes:
        digits = _digits(value)
        if not re.fullmatch("(?:[0-9A-F]{2})+", digits) or len(digits) // 2 not in lengths:
            raise RowError(f"is to be {meaning}, in hex, of {lengths[0]} to {lengths[-1]} bytes: {value!r}")
        return bytes.fromhex(digits)

    return read


def _atr_pattern(value: object) -> str:
    digits = _digits(value)
    if not re.fullmatch(r"(?:[0-9A-F.]{2})+", digits) or len(digits) > 2 * _MAX_ATR or not digits.strip("."):
        raise RowError(f"is to be an ATR in hex, at most {_MAX_ATR} bytes, '.' for any digit: {value!r}")
    return digits


_IDENTIFIER = _matching("[a-z0-9][a-z0-9-]*", "a name of small letters, digits and '-'")
_COUNTRIES = Field(_list(_matching("[A-Z]{2}", "an ISO 3166-1 code of two letters")))
_TEXTS = Field(_list(_text))
_PATHS = Field(_list(_template))

#: By the name in the file. ``paths`` is a table there: ``paths.linux`` is the field ``linux`` of a :class:`Module`.
MODULE_FIELDS = {
    "id": Field(_IDENTIFIER, required=True),
    "name": Field(_text, required=True),
    "kind": Field(_matching("|".join(KINDS), f"one of {', '.join(KINDS)}")),
    "vendor": Field(_text),
    "countries": _COUNTRIES,
    "automatic": Field(_flag),
    "paths.linux": _PATHS,
    "paths.darwin": _PATHS,
    "paths.win32": _PATHS,
    "packages": Field(_packages),
    "program": Field(_text),
    "url": Field(_matching(r"https://[!-~]+", "an https address")),
    "quirks": _TEXTS,
    "sources": _TEXTS,
}
CARD_FIELDS = {
    "kind": Field(_IDENTIFIER, required=True),
    "name": Field(_text, required=True),
    "countries": _COUNTRIES,
    "atrs": Field(_list(_atr_pattern)),
    "aids": Field(_list(_hex(_AID_LENGTHS, "the name of an application"))),
    "modules": Field(_list(_IDENTIFIER)),
    "quirks": _TEXTS,
    "samples": Field(_list(_hex(range(2, _MAX_ATR + 1), "an ATR"))),
    "sources": _TEXTS,
}


def read_row(row: object, fields: dict[str, Field]) -> dict[str, Any]:
    """Check one row.

    Args:
        row: what TOML gave.
        fields: :data:`MODULE_FIELDS` or :data:`CARD_FIELDS`.

    Returns:
        The values by the names that :class:`Module` or :class:`Card` gives them.

    Raises:
        RowError: the row can not be used.
    """
    if not isinstance(row, dict):
        raise RowError("is not a table")
    given = {name: value for name, value in row.items() if name != "paths"}
    paths = row.get("paths", {})
    if not isinstance(paths, dict):
        raise RowError("field 'paths' is to be a table of systems")
    given |= {f"paths.{system}": value for system, value in paths.items()}
    for name in given:
        if name not in fields:
            raise RowError(f"field {name!r} is not known; there are {', '.join(fields)}")
    values = {}
    for name, field in fields.items():
        if name in given:
            try:
                values[name.removeprefix("paths.")] = field.read(given[name])
            except RowError as error:
                raise RowError(f"field {name!r} {error}") from None
        elif field.required:
            raise RowError(f"field {name!r} is missing")
    return values
