"""The lists in docs/modules.md, made of the tables: ``python -m tests.support.modules_page`` writes them anew."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tokenauth.cards.files import CARDS, MODULES, built_in

if TYPE_CHECKING:
    from tokenauth.cards.rows import Card, Module

PAGE = Path(__file__).parents[2] / "docs" / "modules.md"
_SYSTEMS = {"linux": "Linux", "darwin": "macOS", "win32": "Windows"}
_START, _END = "<!-- made of the tables: {} -->\n", "<!-- end of {} -->\n"


def _module(row: Module) -> str:
    systems = ", ".join(name for field, name in _SYSTEMS.items() if getattr(row, field)) or "wherever you put it"
    unasked = "yes" if row.automatic else ""
    return f"| `{row.id}` | {row.name} | {', '.join(row.countries)} | {systems} | {unasked} |"


def _card(row: Card) -> str:
    modules = ", ".join(f"`{name}`" for name in row.modules) or "none known"
    return f"| `{row.kind}` | {row.name} | {', '.join(row.countries)} | {modules} |"


def lists() -> dict[str, str]:
    """The two lists, by the name that their marks in the page have."""
    modules = ["| id | module | countries | paths known on | loaded unasked |", "|---|---|---|---|---|"]
    cards = ["| kind | card | countries | served by |", "|---|---|---|---|"]
    return {
        "modules": "\n".join([*modules, *map(_module, built_in(MODULES))]) + "\n",
        "cards": "\n".join([*cards, *map(_card, built_in(CARDS))]) + "\n",
    }


def with_lists(text: str) -> str:
    """The page with the lists as they are to be."""
    for name, made in lists().items():
        start, end = _START.format(name), _END.format(name)
        before, _, rest = text.partition(start)
        _, _, after = rest.partition(end)
        text = f"{before}{start}\n{made}\n{end}{after}"
    return text


if __name__ == "__main__":
    PAGE.write_text(with_lists(PAGE.read_text()))
