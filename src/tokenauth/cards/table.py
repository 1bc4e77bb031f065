"""The tables of PKCS#11 modules and of cards, and what they answer.

The user's rows go before ours, and take the place of ours with the same ``id`` or ``kind``.
"""
# pathlib is not used because the rest of the look-up of modules does without it, for the start of a short script.
# ruff: noqa: PTH111, PTH118

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from tokenauth._records import Record
from tokenauth.cards.files import CARDS, MODULES, built_in, user_directory, user_rows
from tokenauth.cards.rows import MANAGERS, Card, Module

__all__ = [
    "Card",
    "Module",
    "Table",
    "cards",
    "modules",
    "modules_for",
    "packages_for",
    "paths_of",
    "read_table",
    "recognise",
    "recognise_application",
    "user_directory",
]

_Row = TypeVar("_Row")
#: Package managers by ``sys.platform``, in the order in which they are looked for.
_MANAGERS_OF: dict[str, tuple[str, ...]] = {
    "linux": ("debian", "fedora", "arch"),
    "darwin": ("homebrew",),
    "win32": (),
}


class Table(Record):
    """What :func:`read_table` found.

    Attributes:
        modules: the user's, then ours.
        cards: the user's, then ours.
        problems: one sentence for each thing in the user's files that can not be used.
    """

    modules: tuple[Module, ...]
    cards: tuple[Card, ...]
    problems: tuple[str, ...]


def read_table(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Table:
    """Read our tables and the user's.

    Args:
        environ: ``XDG_CONFIG_HOME``, ``HOME``, ``APPDATA``: where the user's are.
        platform: as ``sys.platform``.
    """
    problems: list[str] = []
    directory = user_directory(environ, platform)
    own_modules: list[Module] = user_rows(MODULES, directory, problems)
    own_cards: list[Card] = user_rows(CARDS, directory, problems)
    known = _merged(own_modules, built_in(MODULES), lambda module: module.id)
    ids = {module.id for module in known}
    for index, card in enumerate(own_cards):
        unknown = ", ".join(name for name in card.modules if name not in ids)
        if unknown:
            path = os.path.join(directory, CARDS.name)
            problems.append(f"{path}: card {card.kind!r}, field 'modules': no module is called {unknown}")
            own_cards[index] = card._replace(modules=tuple(name for name in card.modules if name in ids))
    return Table(known, _merged(own_cards, built_in(CARDS), lambda card: card.kind), tuple(problems))


def _merged(own: list[_Row], ours: tuple[_Row, ...], key: Callable[[_Row], str]) -> tuple[_Row, ...]:
    replaced = {key(row) for row in own}
    return (*own, *(row for row in ours if key(row) not in replaced))


def modules(environ: Mapping[str, str] = os.environ) -> tuple[Module, ...]:
    """All modules that are known; a warning is logged for each problem in the user's files."""
    return _logged(read_table(environ)).modules


def cards(environ: Mapping[str, str] = os.environ) -> tuple[Card, ...]:
    """All kinds of cards that are known; a warning is logged for each problem in the user's files."""
    return _logged(read_table(environ)).cards


def _logged(table: Table) -> Table:
    if table.problems:
        import logging

        for problem in table.problems:
            logging.getLogger("tokenauth").warning("%s", problem)
    return table


def recognise(atr: bytes, known: Iterable[Card] | None = None) -> list[Card]:
    """Say what a card may be, by its answer to reset.

    Args:
        atr: as the reader gives it (ISO 7816-3, section 8).
        known: the kinds to choose from; :func:`cards` if not given.

    Returns:
        The kinds that have this ATR, those whose pattern leaves the least open first. An ATR names a chip, so there may
        be several, and which it is shows only when one of their modules is asked.
    """
    digits = atr.hex().upper()
    found = []
    for card in cards() if known is None else known:
        fitting = [pattern.count(".") for pattern in card.atrs if _fits(pattern, digits)]
        if fitting:
            found.append((min(fitting), card))
    return [card for _, card in sorted(found, key=lambda pair: pair[0])]


def _fits(pattern: str, digits: str) -> bool:
    same_length = len(pattern) == len(digits)
    return same_length and all(want in (".", digit) for want, digit in zip(pattern, digits, strict=True))


def recognise_application(aid: bytes, known: Iterable[Card] | None = None) -> list[Card]:
    """Say what a card may be, by the name of an application on it.

    Args:
        aid: the whole name, as the card gives it (ISO 7816-4).
        known: the kinds to choose from; :func:`cards` if not given.
    """
    return [card for card in (cards() if known is None else known) if aid.startswith(card.aids)]


def modules_for(card: Card, platform: str = sys.platform, known: Iterable[Module] | None = None) -> list[Module]:
    """Give the modules that serve a card and have a path on a system, or nowhere: those are where the user put them.

    Args:
        card: a row of the table.
        platform: as ``sys.platform``.
        known: the modules to choose from; :func:`modules` if not given.

    Returns:
        The modules, best first.
    """
    by_id = {module.id: module for module in (modules() if known is None else known)}
    serving = [by_id[name] for name in card.modules if name in by_id]
    return [module for module in serving if _templates(module, platform) or not _has_paths(module)]


def _templates(module: Module, platform: str) -> tuple[str, ...]:
    return {"darwin": module.darwin, "win32": module.win32}.get(platform, module.linux)


def _has_paths(module: Module) -> bool:
    return bool(module.linux or module.darwin or module.win32)


def paths_of(
    module: Module, platform: str = sys.platform, *, libraries: Sequence[str], environ: Mapping[str, str] = os.environ
) -> tuple[str, ...]:
    """Give the paths where a module may be, best first, without templates.

    Args:
        module: a row of the table.
        platform: as ``sys.platform``; any that is not known is treated as ``linux``.
        libraries: directories of libraries, each of which stands for ``{lib}`` in turn.
        environ: ``HOME``, and on Windows ``ProgramFiles``, ``ProgramFiles(x86)`` and ``SystemRoot``.
    """
    names = {
        "multiarch": getattr(sys.implementation, "_multiarch", ""),
        "programs": environ.get("ProgramFiles", r"C:\Program Files"),
        "programs_x86": environ.get("ProgramFiles(x86)", r"C:\Program Files (x86)"),
        "system32": environ.get("SystemRoot", r"C:\Windows") + r"\System32",
    }
    paths = []
    for template in _templates(module, platform):
        for library in libraries if "{lib}" in template else ("",):
            path = template.format(lib=library, **names)
            if path.startswith("~/"):
                path = (environ.get("HOME") or os.path.expanduser("~")) + path[1:]
            paths.append(path)
    return tuple(dict.fromkeys(paths))


def packages_for(module: Module, platform: str = sys.platform, *, find: Callable[[str], object] | None = None) -> str:
    """Say how to install a module on this system.

    Args:
        module: a row of the table.
        platform: as ``sys.platform``.
        find: tells whether a program is there; ``shutil.which`` if not given.

    Returns:
        A command (``apt-get install opensc-pkcs11``), words about the vendor's program, or nothing if neither is known
        for this system.
    """
    if not _templates(module, platform) and _has_paths(module):
        return ""
    if find is None:
        import shutil

        find = shutil.which
    packages = dict(module.packages)
    for manager in _MANAGERS_OF.get(platform, _MANAGERS_OF["linux"]):
        program, command = MANAGERS[manager]
        if manager in packages and find(program):
            return command.format(packages[manager])
    if not module.program:
        return ""
    vendor = f" ({module.vendor})" if module.vendor else ""
    return f"install {module.program}{vendor}" + (f": {module.url}" if module.url else "")
