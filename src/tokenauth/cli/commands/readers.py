"""``tokenauth readers``: readers, the cards in them, and what serves those."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from tokenauth.cli import output
from tokenauth.cli.options import json_option, verbose_option
from tokenauth.errors import ReadersUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenauth.cards.events import Event
    from tokenauth.cards.readers import Reading

__all__ = ["command"]

_WORDS = {
    "inserted": "{reader}: inserted: {card}",
    "removed": "{reader}: the card was removed",
    "reader-added": "{reader}: a reader",
    "reader-removed": "{reader}: the reader was removed",
    "service-lost": "the PC/SC service stopped; waiting for it",
    "service-back": "the PC/SC service is there again",
}
_BETWEEN_LOOKS = 1.0  # seconds; on Windows Ctrl-C does not end a wait without a time


@click.command("readers", short_help="List readers and the cards in them.")
@json_option
@click.option("--watch", "keep_watching", is_flag=True, help="Then tell what comes and goes, until Ctrl-C.")
@verbose_option
def command(as_json: bool, keep_watching: bool) -> None:
    """List readers, the cards in them, and the PKCS#11 module that serves each card.

    Nothing is logged in to, and no card is reset or kept from other programs.
    """
    if keep_watching:
        _watch(as_json)
    else:
        _list(as_json)


def _list(as_json: bool) -> None:
    from tokenauth.cards.readers import read_readers
    from tokenauth.readers import reader_record

    try:
        readings = read_readers()
    except ReadersUnavailable:
        if as_json:
            output.write_json([])
        raise
    if as_json:
        output.write_json([reader_record(reading) for reading in readings])
        return
    from tokenauth.cli.pages import reader_lines

    for reading in readings:
        for line in reader_lines(reader_record(reading), _surroundings(reading)):
            output.write(line)


def _surroundings(reading: Reading) -> Iterator[tuple[str, str]]:
    if reading.mute:
        yield "PROBLEM", "the card does not answer: is it the right way round, and clean?"
    elif reading.exclusive:
        yield "PROBLEM", "another program keeps the card for itself; 'tokenauth doctor' looks which"
    elif reading.busy:
        yield "note", "another program is using the card, so it was not asked"
    elif reading.in_use and not reading.cards:
        yield "note", "another program is connected to the card, so it was not asked what it is"
    elif len(reading.cards) > 1:
        yield "or", "; ".join(card.name for card in reading.cards[1:])


def _watch(as_json: bool) -> None:
    from queue import Empty, SimpleQueue

    from tokenauth.cards.events import watch

    events: SimpleQueue[Event] = SimpleQueue()
    with watch(events.put, initial=True):
        while True:
            try:
                event = events.get(timeout=_BETWEEN_LOOKS)
            except Empty:
                continue
            now, record = datetime.now().astimezone(), _record(event)
            if as_json:
                output.write_json({"time": now.isoformat(timespec="seconds"), **record}, indent=None)
            else:
                output.write(f"{now:%H:%M:%S}  {output.printable(_line(event, record))}")


def _record(event: Event) -> dict[str, Any]:
    """What happened, and how the reader is now."""
    from tokenauth.cards.readers import Reading, read_readers
    from tokenauth.readers import reader_record

    reading = Reading(event.reader, event.present, event.atr)
    if event.present:
        with suppress(ReadersUnavailable):  # if so, the next event tells
            reading = next(iter(read_readers([event.reader])), reading)
    return {"event": event.kind, **reader_record(reading)}


def _line(event: Event, record: dict[str, Any]) -> str:
    from tokenauth.cli.pages import card_name

    return _WORDS[event.kind].format(reader=event.reader, card=card_name(record["card"]))
