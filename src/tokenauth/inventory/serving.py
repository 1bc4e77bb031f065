"""Which PKCS#11 module serves a card, and whether it is installed here: where the tables of cards meet discovery."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from tokenauth._records import Record
from tokenauth.cards import table
from tokenauth.errors import ModuleError, TokenAuthError
from tokenauth.inventory.candidates import find_modules
from tokenauth.pkcs11.discovery import SYSTEMS, ModuleCandidate, library_name
from tokenauth.pkcs11.known_modules import expand

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tokenauth.cards.table import Card, Module
    from tokenauth.uri import SlotInfo

__all__ = ["Serving", "advice_for_cards", "is_reader_of", "kind_of", "serving"]

_CUT = 60  # bytes; CK_SLOT_INFO has room for 64, and a character that would not fit may be left out


class Serving(Record):
    """A module that serves a card.

    Args:
        module: its row in the table.
        path: where it is installed; None if it is not.
        looked_at: it is loaded without being asked for, or was asked for.
        install: how to get it; empty if that is not known.
    """

    module: Module
    path: str | None
    looked_at: bool
    install: str


def serving(
    cards: Sequence[Card],
    candidates: Sequence[ModuleCandidate] | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
) -> Serving | None:
    """The module that serves a card: the best that is looked at, else that is installed, else that there is.

    Args:
        cards: rows of the table, one or another of which the card may be.
        candidates: the modules that are looked at; None: those that are if nobody names one.
        environ: see :func:`tokenauth.pkcs11.discovery.survey`.
    """
    if candidates is None:
        candidates = _candidates(environ)
    modules = dict.fromkeys(module for card in cards for module in table.modules_for(card))
    found = [_serving(module, candidates, environ) for module in modules]
    found.sort(key=lambda one: (not one.looked_at, one.path is None, not one.install))  # else as they were
    return found[0] if found else None


def _candidates(environ: Mapping[str, str]) -> list[ModuleCandidate]:
    try:
        return find_modules(environ=environ).candidates
    except ModuleError:  # TOKENAUTH_MODULE names a file that is not there
        return []


def _serving(module: Module, candidates: Sequence[ModuleCandidate], environ: Mapping[str, str]) -> Serving:
    paths = _paths(module, environ)
    files = {os.path.realpath(path) for path in paths}
    names = {library_name(path) for path in paths}
    for candidate in candidates:
        if os.path.realpath(candidate.path) in files or candidate.name in names:
            return Serving(module, candidate.path, True, "")
    path = next(filter(os.path.isfile, paths), None)
    return Serving(module, path, False, "" if path else table.packages_for(module))


def _paths(module: Module, environ: Mapping[str, str]) -> tuple[str, ...]:
    system = expand(SYSTEMS.get(sys.platform, SYSTEMS["linux"]), environ)
    return table.paths_of(module, libraries=system.libraries or ("",), environ=environ)


def kind_of(candidate: ModuleCandidate, *, environ: Mapping[str, str] = os.environ) -> str:
    """What a module serves: one of :data:`tokenauth.cards.rows.KINDS`; empty if the table does not know it."""
    for module in table.modules(environ):
        if candidate.name in {library_name(path) for path in _paths(module, environ)}:
            return module.kind
    return ""


def is_reader_of(reader: str, slot: SlotInfo) -> bool:
    """Whether a slot is a reader's, as far as their names tell: most modules give a slot its reader's, cut to fit.

    Args:
        reader: the name that PC/SC gives it.
        slot: the slot.
    """
    name = slot.description
    return bool(name) and (reader in name or (len(name.encode()) >= _CUT and reader.startswith(name)))


def advice_for_cards() -> str:
    """How to install the module for a card that is in a reader now; empty if that is not known."""
    from tokenauth.cards.readers import read_readers

    try:
        readings = read_readers(ask=False)
    except TokenAuthError:
        return ""
    for reading in readings:
        served = serving(reading.cards, ())
        if served and reading.card and served.install:
            return f"for the card in {reading.reader} ({reading.card.name}): {served.install}"
    return ""
