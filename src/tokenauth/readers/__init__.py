"""Readers, the cards in them, and the PKCS#11 modules that serve those, as ``--json`` shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenauth.inventory.serving import serving

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenauth.cards.readers import Reading
    from tokenauth.pkcs11.discovery import ModuleCandidate

__all__ = ["reader_record"]


def reader_record(reading: Reading, candidates: Sequence[ModuleCandidate] | None = None) -> dict[str, Any]:
    """A reader and what is in it.

    Args:
        reading: as :func:`tokenauth.cards.readers.read_readers` gives it.
        candidates: as for :func:`tokenauth.inventory.serving.serving`.
    """
    card = reading.card
    served = serving(reading.cards, candidates)
    return {
        "reader": reading.reader,
        "present": reading.present,
        "atr": reading.atr.hex(),
        "card": card and {"kind": card.kind, "name": card.name, "country": _country(card.countries)},
        "exclusive": reading.exclusive,
        "module": served
        and {
            "id": served.module.id,
            "name": served.module.name,
            "path": served.path,
            "install": served.install or None,
        },
        "pin_tries": reading.pin_tries,
    }


def _country(countries: tuple[str, ...]) -> str | None:
    return countries[0] if len(countries) == 1 else None
