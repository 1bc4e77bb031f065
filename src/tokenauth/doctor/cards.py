"""Readers and the cards in them, and whether what serves a card shows it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tokenauth._records import Record
from tokenauth.cards import service
from tokenauth.cards.readers import read_readers
from tokenauth.doctor.findings import RESET, UNBLOCK, Finding, Status
from tokenauth.errors import ReadersUnavailable
from tokenauth.inventory.serving import is_reader_of, kind_of, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenauth.cards.readers import Reading
    from tokenauth.inventory.serving import Serving
    from tokenauth.inventory.survey import TokenEntry
    from tokenauth.pkcs11.discovery import ModuleCandidate

__all__ = ["Seen", "Surroundings", "check_cards", "look_at_readers", "without_readers"]

_SCDAEMON = "scdaemon"
_END_SCDAEMON = (
    "let it go: gpgconf --kill scdaemon; to share cards with it for good, put pcsc-shared and disable-ccid into "
    "~/.gnupg/scdaemon.conf"
)
_AGAIN = "take the card out, insert it and run this again"
_FEW_TRIES = 2


class Seen(Record):
    """What was in the readers before any module connected to a card.

    Args:
        readings: the readers.
        error: why they could not be looked at, or None.
    """

    readings: tuple[Reading, ...]
    error: ReadersUnavailable | None


class Surroundings(Record):
    """What else is known of this machine.

    Args:
        candidates: the modules that are looked at.
        working: the paths of those that load.
        entries: the tokens that show.
    """

    candidates: tuple[ModuleCandidate, ...]
    working: frozenset[str]
    entries: tuple[TokenEntry, ...]

    @property
    def severity(self) -> Status:
        """How bad it is that no card can be seen: not at all for who has none and wants none."""
        kinds = {kind_of(candidate) for candidate in self.candidates}
        if "cards" in kinds:
            return "warning" if self.entries else "error"
        return "warning" if not self.entries and (not kinds or "" in kinds) else "ok"

    def token_in(self, reading: Reading) -> TokenEntry | None:
        """The token that shows in a reader, as far as that can be told."""
        return next((entry for entry in self.entries if is_reader_of(reading.reader, entry.token.slot)), None)

    def shown_by(self, reading: Reading) -> str:
        """The module that shows a token in a reader; empty if none does."""
        entry = self.token_in(reading)
        return entry.module.path if entry else ""

    def tokens_of(self, path: str) -> int:
        """How many tokens a module shows."""
        return sum(os.path.realpath(entry.module.path) == os.path.realpath(path) for entry in self.entries)


def look_at_readers() -> Seen:
    """Look at the readers; to be done before the modules are loaded, which connect to cards."""
    try:
        return Seen(tuple(read_readers()), None)
    except ReadersUnavailable as error:
        return Seen((), error)


def without_readers(seen: Seen, around: Surroundings) -> frozenset[str]:
    """The paths of modules for cards, if there are no readers for them; else none."""
    if seen.error is None or seen.error.reason == "pyscard":
        return frozenset()
    return frozenset(candidate.path for candidate in around.candidates if kind_of(candidate) == "cards")


def check_cards(seen: Seen, around: Surroundings) -> Iterator[Finding]:
    """What is wrong with readers and cards.

    Args:
        seen: what was in the readers.
        around: what else is known.
    """
    if seen.error is not None:
        yield _unavailable(seen.error, around)
        return
    present = [reading for reading in seen.readings if reading.present]
    names = ", ".join(reading.reader for reading in seen.readings)
    if not present:
        status: Status = "warning" if around.severity == "error" else "ok"
        yield Finding("reader", status, f"no card is in any reader ({names})", "", "insert the card")
        return
    yield Finding("reader", "ok", names)
    for reading in present:
        yield _check_card(reading, around)
        if finding := _check_tries(reading, around):
            yield finding


def _unavailable(error: ReadersUnavailable, around: Surroundings) -> Finding:
    if error.reason == "pyscard":
        why = "only 'tokenauth readers' and what is said here of readers and cards need it"
        return Finding("reader", "ok", error.message, why, error.hint)
    holder = next((pid for pid, name in service.programs() if name == _SCDAEMON), None)
    if error.reason == "reader" and holder is not None:
        why = f"GnuPG's scdaemon (process {holder}) runs, which may have taken the reader for itself"
        return Finding("reader", around.severity, error.message, why, f"{_END_SCDAEMON}; or {error.hint}")
    return Finding("reader", around.severity, error.message, "no card can be seen without", error.hint)


def _check_card(reading: Reading, around: Surroundings) -> Finding:
    """The first thing that is wrong with a card, or that nothing is."""
    return _at_hand(reading, around) or _unknown(reading, around) or _served(reading, around)


def _at_hand(reading: Reading, around: Surroundings) -> Finding | None:
    if reading.mute:
        return Finding(
            "card",
            "error",
            f"the card in {reading.reader} does not answer",
            "the reader can not power it up",
            "see that it is the right way round and its contacts are clean; try another reader",
        )
    if reading.exclusive:
        status: Status = "warning" if around.shown_by(reading) else "error"
        return Finding("card", status, f"another program keeps the card in {reading.reader} for itself", *_holder())
    return None


def _holder() -> tuple[str, str]:
    """Who may keep a card for itself, and what to do."""
    others = service.users_of_pcsc()
    listed = ", ".join(f"{name} (process {pid})" for pid, name in others)
    if any(name == _SCDAEMON for _, name in others):
        return f"programs that use PC/SC: {listed}; GnuPG's scdaemon keeps cards for itself", _END_SCDAEMON
    if others:
        return f"programs that use PC/SC: {listed}", "close the program that uses the card"
    return "which one does not show to this user", "close the program that uses the card, or run this as its user"


def _unknown(reading: Reading, around: Surroundings) -> Finding | None:
    if reading.cards:
        return None
    what = f"the card in {reading.reader} is of no kind that is known (ATR {reading.atr.hex(' ').upper()})"
    if module := around.shown_by(reading):
        return Finding("card", "ok", what, f"{module} shows its token, so it can be used")
    if reading.busy or reading.in_use:
        why = "another program is using it, so it was not asked what it is"
        return Finding("card", "ok", f"a card is in {reading.reader}", why, "close that program and run this again")
    return Finding(
        "card",
        "warning",
        what,
        "so no module can be named for it",
        "name the PKCS#11 module of its software with --module; docs/modules.md says how to add a card",
    )


def _served(reading: Reading, around: Surroundings) -> Finding:
    served = serving(reading.cards, around.candidates)
    named = f"{reading.cards[0].name} in {reading.reader}"
    if module := around.shown_by(reading):
        return Finding("card", "ok", f"{named}: {module} shows its token")
    if served is None:
        why, action = "no PKCS#11 module for it is known", "ask who issued the card which one it is"
        return Finding("card", "warning", f"{named}: nothing serves it", why, action)
    if served.path is None:
        action = served.install or f"ask who issued the card for {served.module.name}"
        why = f"it is served by {served.module.name}"
        return Finding("card", "error", f"{named}: no PKCS#11 module for it is installed", why, action)
    if not served.looked_at:
        why = f"{served.path} serves it, and is loaded only when it is asked for"
        return Finding(
            "card", "warning", f"{named}: its module is not looked at", why, f"name it: --module {served.path}"
        )
    return _shown(named, reading, served, around)


def _shown(named: str, reading: Reading, served: Serving, around: Surroundings) -> Finding:
    """Whether the module that is looked at shows a token for the card."""
    path = served.path or ""
    if path not in around.working:
        why = f"{path}, which serves it, does not work"
        return Finding("card", "error", f"{named}: it can not be used", why, "see what is said of that module")
    if around.tokens_of(path):
        return Finding("card", "ok", f"{named}: served by {served.module.name}")
    quirks = [*reading.cards[0].quirks, *served.module.quirks]
    action = f"open the card once with its own program ({served.module.program}), or " if served.module.program else ""
    return Finding(
        "card",
        "error",
        f"{named}: {served.module.name} shows no token",
        "; ".join([f"{path} works but sees nothing in the reader", *quirks]),
        action + _AGAIN,
    )


def _check_tries(reading: Reading, around: Surroundings) -> Finding | None:
    tries, entry = reading.pin_tries, around.token_in(reading)
    if tries is None or tries > _FEW_TRIES:
        return None
    if entry and entry.token.pin_state != "ok":
        return None  # it is told of the token
    what = f"the PIN of the card in {reading.reader}"
    if tries == 0:
        return Finding("card", "error", f"{what} is locked", "no key that needs a login can be used", UNBLOCK)
    if tries == 1:
        return Finding("card", "error", f"{what} has one try left", "tokenauth does not spend the last try", RESET)
    return Finding("card", "warning", f"{what} has {tries} tries left", "a wrong PIN was entered, most likely", RESET)
