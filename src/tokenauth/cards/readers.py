"""The readers, and what is in them.

To look disturbs nobody: PC/SC itself tells of cards and their answers to reset. A card is spoken to only where that
says too little, never while another program keeps it for itself; and while another program is connected to it, no other
application is selected, which would end that program's login.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from tokenauth._records import Record
from tokenauth.cards import service
from tokenauth.cards.pcsc import SHARING_VIOLATION, Context, PCSCError
from tokenauth.cards.table import Card, cards, recognise, recognise_application

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenauth.cards.pcsc import Connection, State

__all__ = ["Reading", "read_readers"]

_PIV = bytes.fromhex("A000000308000010000100")  # SP 800-73-4 part 1 section 2.2
#: Kinds of the table that have the PIV application, and so a counter that can be asked.
_HAVE_PIV = {"piv", "pivkey", "yubikey"}
_TRIES_LEFT, _BLOCKED = 0x63C0, 0x6983
_PATIENCE = 4.0  # seconds that a card, or a program in a transaction with it, is waited for


class Reading(Record):
    """A reader when it was looked at.

    Args:
        reader: its name, as PC/SC gives it.
        present: a card is in it.
        atr: the card's answer to reset (ISO 7816-3 section 8.2); empty if there is none.
        exclusive: another program keeps the card for itself, so it was not spoken to.
        in_use: another program is connected to the card.
        mute: the card does not answer.
        busy: the card did not answer in time, or another program was in a transaction with it.
        cards: what the card may be, best guess first; none if that is not known.
        pin_tries: how many tries the PIN has left, if the card tells; it does not while somebody is logged in.
    """

    reader: str
    present: bool = False
    atr: bytes = b""
    exclusive: bool = False
    in_use: bool = False
    mute: bool = False
    busy: bool = False
    cards: tuple[Card, ...] = ()
    pin_tries: int | None = None

    @property
    def card(self) -> Card | None:
        """The best guess."""
        return self.cards[0] if self.cards else None


def read_readers(names: Sequence[str] | None = None, *, ask: bool = True) -> list[Reading]:
    """Look at the readers.

    Args:
        names: only these, those of them that are still there; None for all.
        ask: speak to cards where that is needed, and disturbs nobody.

    Raises:
        ReadersUnavailable: pyscard is missing, PC/SC does not run or refuses, or there is no reader at all.
    """
    try:
        with Context() as context:
            states = context.look()
    except PCSCError as error:
        raise error.reason from error
    if not states:
        raise service.no_reader()
    return [_read(state, ask=ask) for state in states if names is None or state.reader in names]


def _read(state: State, *, ask: bool) -> Reading:
    reading = Reading(
        state.reader, state.present, state.atr, state.exclusive, state.in_use, state.mute, cards=_by_atr(state.atr)
    )
    if not ask or not state.present or state.exclusive or not _worth_asking(reading):
        return reading
    answers: list[Reading] = []
    too_late = threading.Event()
    asking = threading.Thread(
        target=lambda: answers.append(_ask(reading, too_late)), name="tokenauth-card", daemon=True
    )
    asking.start()
    asking.join(_PATIENCE)  # PC/SC waits for another program's transaction for ever
    too_late.set()
    return answers[0] if answers else reading._replace(busy=True)


def _by_atr(atr: bytes) -> tuple[Card, ...]:
    return tuple(recognise(atr)) if atr else ()


def _worth_asking(reading: Reading) -> bool:
    if reading.mute:
        return False
    return _has_piv(reading) or not (reading.cards or reading.in_use)


def _has_piv(reading: Reading) -> bool:
    return any(card.kind in _HAVE_PIV for card in reading.cards)


def _ask(reading: Reading, too_late: threading.Event) -> Reading:
    """What the card says of itself.

    Args:
        reading: what is known without asking.
        too_late: nobody waits any more; the card was another program's meanwhile, so it is left alone.
    """
    try:
        with Context() as context, context.connect(reading.reader) as card:
            if too_late.is_set():
                return reading
            if not reading.cards:
                reading = reading._replace(cards=_by_application(card))
            elif not reading.in_use:
                _select(card, _PIV)
            return reading._replace(pin_tries=_piv_tries(card)) if _has_piv(reading) else reading
    except PCSCError as error:
        return reading._replace(exclusive=error.code == SHARING_VIOLATION)
    except Exception:  # noqa: BLE001 - on a thread of its own nobody would see it; what is not known is left out
        return reading


def _by_application(card: Connection) -> tuple[Card, ...]:
    """What a card is by the first application of the table that is on it."""
    known = cards()
    # Those of a country first, since a national card may have a common application as well; PIV last.
    for kind in sorted(known, key=lambda kind: (not kind.countries, kind.kind in _HAVE_PIV)):
        for name in kind.aids:
            if _select(card, name):
                return tuple(recognise_application(name, known))
    return ()


def _select(card: Connection, application: bytes) -> bool:
    """Select an application by its name (ISO 7816-4 section 11.2.2)."""
    status = card.transmit(bytes([0x00, 0xA4, 0x04, 0x00, len(application)]) + application)
    return status == 0x9000 or status >> 8 == 0x61


def _piv_tries(card: Connection) -> int | None:
    """The retry counter of the PIV PIN (SP 800-73-4 part 2 section 3.2.1); None while it is verified."""
    status = card.transmit(bytes.fromhex("00 20 00 80"))
    if status & 0xFFF0 == _TRIES_LEFT:
        return status & 0xF
    return 0 if status == _BLOCKED else None
