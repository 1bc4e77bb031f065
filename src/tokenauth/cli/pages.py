"""Records as pages for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenauth.cli.output import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["card_name", "identity_lines", "reader_lines", "token_lines"]

_PIN_STATES = {
    "ok": "",
    "low": "a wrong PIN was entered",
    "final": "one PIN try left",
    "locked": "PIN locked",
}
_PURPOSES = {"tls-client": "TLS client", "tls-server": "TLS server", "document": "documents"}


def token_lines(token: dict[str, Any]) -> Iterator[str]:
    """A token and its identities.

    Args:
        token: as :func:`tokenauth.cli.records.token_record` makes it.
    """
    traits = (
        " ".join(filter(None, (token["manufacturer"], token["model"]))),
        f"serial {token['serial']}" if token["serial"] else "",
        f"slot {token['slot']}",
        "login required" if token["login_required"] else "no login",
        "PIN pad" if token["pin_pad"] else "",
        _PIN_STATES[token["pin_state"]],
    )
    yield printable(f"{token['label'] or '(no label)'}: " + ", ".join(filter(None, traits)))
    if not token["identities"]:
        yield "  no identity shows" + ("; some tokens show them only after a login" if token["login_required"] else "")
    for identity in token["identities"]:
        yield from _block(identity["uri"], _rows(identity))


def identity_lines(identity: dict[str, Any], more: Iterable[tuple[str, str]]) -> Iterator[str]:
    """One identity with all details.

    Args:
        identity: as :func:`tokenauth.cli.records.identity_record` makes it.
        more: further (name, value).
    """
    details = [
        ("label", identity["label"]),
        ("id", identity["id"]),
        ("serial", identity["serial"] or ""),
        ("valid from", _day(identity["not_before"])),
    ]
    yield from _block(identity["uri"], [*_rows(identity), *details, *more], indent="")


def reader_lines(reader: dict[str, Any], more: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A reader and what is in it.

    Args:
        reader: as :func:`tokenauth.readers.reader_record` makes it.
        more: further (name, value).
    """
    if not reader["present"]:
        yield printable(f"{reader['reader']}: no card")
        return
    tries = reader["pin_tries"]
    rows = [
        ("card", card_name(reader["card"])),
        ("ATR", bytes.fromhex(reader["atr"]).hex(" ").upper()),
        ("served by", _module(reader["module"])),
        ("PIN tries", "" if tries is None else f"{tries} left" if tries else "none left: the PIN is locked"),
    ]
    yield from _block(f"{reader['reader']}: a card", [*rows, *more], indent="")


def card_name(card: dict[str, Any] | None) -> str:
    """What people call a card."""
    if card is None:
        return "not known"
    return f"{card['name']}, {card['country']}" if card["country"] else str(card["name"])


def _module(module: dict[str, Any] | None) -> str:
    if module is None:
        return ""
    where = module["path"] or f"not installed: {module['install'] or 'ask who issued the card'}"
    return f"{module['name']} ({where})"


def _rows(identity: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("subject", identity["subject"] or ""),
        ("issuer", identity["issuer"] or ""),
        ("valid until", _day(identity["not_after"])),
        ("key", _key(identity["key"])),
        ("good for", ", ".join(_PURPOSES[purpose] for purpose in identity["purposes"])),
        *(("PROBLEM", problem) for problem in identity["problems"]),
    ]


def _block(title: str, rows: Iterable[tuple[str, str]], indent: str = "  ") -> Iterator[str]:
    yield indent + printable(title)
    for name, value in rows:
        if value:
            yield f"{indent}  {name:<12}{printable(value)}"


def _day(time: str | None) -> str:
    return (time or "")[:10]


def _key(key: dict[str, Any] | None) -> str:
    if key is None:
        return ""
    return {"rsa": f"RSA, {key['bits']} bits", "ec": f"EC, {key['curve']}", "ed25519": "Ed25519"}[key["type"]]
