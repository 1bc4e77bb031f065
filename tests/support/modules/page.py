"""The tables in docs/tokens.md, made of what was tried: ``python -m tests.support.modules.page`` writes them anew."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.nginx import Nginx

if TYPE_CHECKING:
    from tests.support.modules.trials import Made

__all__ = ["PAGE", "Tried", "row_of", "tables", "try_all"]

PAGE = Path(__file__).parents[3] / "docs" / "tokens.md"
_START, _END = "<!-- made of trials: {} -->\n", "<!-- end of {} -->\n"
_VERSIONS = ("TLSv1_2", "TLSv1_3")
_HASHES = ("sha256", "sha384", "sha512")
#: What PKCS #11 calls them; numbers are those of pkcs11t.h.
_MECHANISMS = {
    0x01: "CKM_RSA_PKCS",
    0x0D: "CKM_RSA_PKCS_PSS",
    0x03: "CKM_RSA_X_509",
    0x40: "CKM_SHA256_RSA_PKCS",
    0x41: "CKM_SHA384_RSA_PKCS",
    0x42: "CKM_SHA512_RSA_PKCS",
    0x43: "CKM_SHA256_RSA_PKCS_PSS",
    0x44: "CKM_SHA384_RSA_PKCS_PSS",
    0x45: "CKM_SHA512_RSA_PKCS_PSS",
    0x1041: "CKM_ECDSA",
    0x1044: "CKM_ECDSA_SHA256",
    0x1045: "CKM_ECDSA_SHA384",
    0x1046: "CKM_ECDSA_SHA512",
    0x1057: "CKM_EDDSA",
}
_COLUMNS = {
    "PKCS #1 v1.5": ("rsa2048", "PKCS1"),
    "PSS": ("rsa2048", "PSS"),
    "ECDSA": ("p256", "ECDSA"),
}

#: Column: cell.
Tried = dict[str, str]


def _yes(good: bool) -> str:
    return "yes" if good else "no"


def row_of(made: Made, directory: Path) -> tuple[Tried, set[str]]:
    """What a module does, by columns, and the mechanisms that it lists for signatures.

    Args:
        made: the token.
        directory: an empty one.
    """
    seen = made.trial("show", pin="")
    signed = made.trial("sign", directory)["made"]
    row = {
        "module": f"`{made.name}`",
        "version": "{} {}".format(seen["library"], seen["version"]),
        "lists without a PIN": _yes(len(seen["identities"]) == len(made.keys) and not seen["asked"]),
    }
    for column, (key, scheme) in _COLUMNS.items():
        outcomes = [signed[f"{key} {scheme} {digest}"] for digest in _HASHES] if key in made.keys else []
        row[column] = _yes(set(outcomes) == {"ok"}) if outcomes else "no such keys"
    (directory / "nginx").mkdir()
    with Nginx(made.authority, directory / "nginx") as server:
        arguments = (str(server.port), server.cafile)
        for version in _VERSIONS:
            answers = made.trial("tls", *arguments, version)
            good = set(answers) == set(made.keys) and all("SUCCESS" in answer for answer in answers.values())
            row[version.replace("v", " ").replace("_", ".")] = _yes(good)
        row["after a fork"] = _yes(made.trial("fork", *arguments) == ["ok"] * 3)
    return row, {_MECHANISMS[number] for number in seen["mechanisms"] if number in _MECHANISMS}


def try_all() -> list[tuple[Tried, set[str]]]:
    """The rows of all modules; each has to be on this machine."""
    from tests.support.modules.providers import PROVIDERS

    rows = []
    for provider in PROVIDERS.values():
        with tempfile.TemporaryDirectory(prefix="tokenauth-") as place:
            token, trials = Path(place, "token"), Path(place, "trials")
            token.mkdir()
            trials.mkdir()
            with provider(token) as made:
                rows.append(row_of(made, trials))
    return rows


def _table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)) + "\n"


def tables(rows: list[tuple[Tried, set[str]]]) -> dict[str, str]:
    """The two tables, by the names that their marks in the page have."""
    modules = [row["module"] for row, _ in rows]
    listed = [
        [f"`{name}`", *("yes" if name in mechanisms else "" for _, mechanisms in rows)] for name in _MECHANISMS.values()
    ]
    return {
        "modules": _table(list(rows[0][0]), [list(row.values()) for row, _ in rows]),
        "mechanisms": _table(["listed for signatures", *modules], listed),
    }


def read(text: str, name: str) -> list[dict[str, str]]:
    """The rows of one of the page's tables."""
    made = text.partition(_START.format(name))[2].partition(_END.format(name))[0]
    header, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in made.strip().splitlines()]
    return [dict(zip(header, row, strict=True)) for row in rows]


def with_tables(text: str, made: dict[str, Any]) -> str:
    """The page with the tables as they are to be."""
    for name, table in made.items():
        start, end = _START.format(name), _END.format(name)
        before, _, rest = text.partition(start)
        after = rest.partition(end)[2]
        text = f"{before}{start}\n{table}\n{end}{after}"
    return text


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(), tables(try_all())))
