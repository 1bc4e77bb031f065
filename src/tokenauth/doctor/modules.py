"""Which PKCS#11 modules there are, and whether they load."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenauth.doctor.findings import Finding
from tokenauth.doctor.libraries import mismatch
from tokenauth.errors import ModuleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tokenauth.errors import TokenAuthError
    from tokenauth.pkcs11.discovery import ModuleCandidate

__all__ = ["REPAIR", "check_isolation", "check_modules", "check_table", "reason_of"]

REPAIR = "install the module's software again, or name another file with --module or TOKENAUTH_MODULE"
#: By the module's name: what usually is the matter with it.
_REPAIRS = {
    "softhsm2": "let SOFTHSM2_CONF name a configuration that you can read ('tokenauth softtoken init' makes one); the "
    "system's own is often for root only",
    "opencryptoki": "start its slot daemon: systemctl start pkcsslotd; and be in the group pkcs11, as 'id' shows",
    "tpm2_pkcs11": "see that there is a TPM (ls /dev/tpmrm0), and be in the group tss, as 'id' shows; "
    "or start tpm2-abrmd",
}
_OTHER_PROCESSOR = (
    "install the module for the same processor (many makers have one package for each), or run tokenauth with a Python "
    "of the module's kind"
)
_NONE = Finding(
    "module",
    "error",
    "no PKCS#11 module is installed",
    "a module is the library through which programs use a token",
    "install your card's software (for many cards: the package opensc), or softhsm2 to try things",
)


def check_table() -> Iterator[Finding]:
    """What is wrong in the user's own tables of modules and cards."""
    from tokenauth.cards.table import read_table

    for problem in read_table().problems:
        yield Finding(
            "table", "warning", problem, "that row does not count", "correct it; docs/modules.md has all fields"
        )


def check_isolation() -> Finding:
    """Whether modules run in processes of their own, and whether they could."""
    from tokenauth.pkcs11.isolation import SWITCH, find_tools, switched_on

    try:
        on = switched_on()
    except ModuleError as error:
        return Finding("isolation", "error", error.message, "no module is loaded", error.hint)
    try:
        tools = find_tools()
    except ModuleError as error:
        if on:
            return Finding("isolation", "error", error.message, f"{SWITCH} is set", error.hint)
        return Finding("isolation", "ok", "off, and not possible here", error.message)
    with_what = f"{tools.program} and {tools.client}"
    if on:
        return Finding("isolation", "ok", f"on: each module runs in a process of its own, by {with_what}")
    return Finding("isolation", "ok", f"off; {SWITCH}=1 runs each module in a process of its own, by {with_what}")


def check_modules(
    candidates: Sequence[ModuleCandidate], problems: Sequence[str]
) -> tuple[list[Finding], frozenset[str]]:
    """Load the modules that are looked at.

    Args:
        candidates: the modules.
        problems: what was wrong where they were looked for.

    Returns:
        The findings, and the paths of the modules that work.
    """
    findings = [Finding("module", "warning", problem, next="correct or remove that file") for problem in problems]
    if not candidates:
        findings.append(_NONE)
    checked = {candidate.path: _check_module(candidate) for candidate in candidates}
    return [*findings, *checked.values()], frozenset(path for path, one in checked.items() if one.status == "ok")


def _check_module(candidate: ModuleCandidate) -> Finding:
    from tokenauth.pkcs11.modules import load_module

    named = f"{candidate.path} ({candidate.origin})"
    try:
        module = load_module(candidate.path)
    except ModuleError as error:
        what = f"{named} does not work"
        if other := mismatch(candidate.path):
            return Finding("module", "error", what, f"{other}: {reason_of(error)}", _OTHER_PROCESSOR)
        return Finding("module", "error", what, reason_of(error), _REPAIRS.get(candidate.name, REPAIR))
    info = module.info
    version = ".".join(map(str, info.version))
    return Finding("module", "ok", f"{named}: {info.manufacturer} {info.description} {version}")


def reason_of(error: TokenAuthError) -> str:
    """What an error says, without what to do."""
    return error.message + (f" ({error.ckr})" if error.ckr else "")
