"""The checks, from Python to the certificates."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tokenauth.doctor.cards import Surroundings, check_cards, look_at_readers, without_readers
from tokenauth.doctor.clock import check_clock
from tokenauth.doctor.environment import check_environment
from tokenauth.doctor.findings import RESET, UNBLOCK, Finding
from tokenauth.doctor.identities import check_identity
from tokenauth.doctor.modules import REPAIR, check_isolation, check_modules, check_table, reason_of
from tokenauth.errors import ModuleError, TokenAuthError
from tokenauth.inventory.candidates import find_modules
from tokenauth.inventory.survey import Inventory, take_inventory
from tokenauth.uri import TokenURI

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenauth.inventory.survey import TokenEntry

__all__ = ["examine"]


def examine(module: str | None = None) -> list[Finding]:
    """Check everything. Never logs in.

    Args:
        module: path of the only PKCS#11 module to look at.

    Returns:
        The findings, in the order in which things build on each other.
    """
    seen = look_at_readers()  # first: a module that is loaded connects to the cards
    findings = [*_check_python(), *check_environment(os.environ), *check_clock(), *check_table(), check_isolation()]
    try:
        found = find_modules(module)
    except ModuleError as error:
        return [*findings, Finding("module", "error", error.message, next=error.hint)]
    told, working = check_modules(found.candidates, found.problems)
    inventory = take_inventory(TokenURI(), module=module) if working else Inventory((), (), 0)
    around = Surroundings(tuple(found.candidates), working, inventory.entries)
    failures = _check_failures(inventory, {finding.why for finding in told}, without_readers(seen, around))
    tokens = _check_tokens(inventory.entries) if working else ()
    return [*findings, *told, *check_cards(seen, around), *failures, *tokens]


def _check_python() -> Iterator[Finding]:
    import platform
    import ssl

    from tokenauth.tls.openssl.provider import register

    yield Finding("python", "ok", f"{platform.python_implementation()} {platform.python_version()}")
    try:
        register()
    except TokenAuthError as error:
        yield Finding(
            "openssl", "error", ssl.OPENSSL_VERSION, f"TLS can not use a token's key: {error.message}", error.hint
        )
    else:
        yield Finding("openssl", "ok", f"{ssl.OPENSSL_VERSION} takes keys that live in tokens")


def _check_failures(inventory: Inventory, told: set[str], without_readers: frozenset[str]) -> Iterator[Finding]:
    """What kept modules and slots from showing a token.

    Args:
        inventory: what the modules show.
        told: the reasons for which modules were found not to load.
        without_readers: the paths of modules that need readers and have none.
    """
    for failure in inventory.failures:
        reason = reason_of(failure)
        if not isinstance(failure, ModuleError):
            yield Finding("token", "error", str(failure), next="take the card out, insert it again and run this again")
        elif not any(reason in why for why in told):
            helpless = any(path in reason for path in without_readers)
            action = "set right what is said of the readers" if helpless else REPAIR
            yield Finding("module", "warning", reason, "no token shows through it", action)


def _check_tokens(entries: tuple[TokenEntry, ...]) -> Iterator[Finding]:
    if not entries:
        yield Finding(
            "token",
            "warning",
            "no token is there",
            "no module shows an initialised token in any slot",
            "insert the card, or make a token to try things with: tokenauth softtoken init",
        )
    for entry in entries:
        yield _check_token(entry)
        for identity in entry.identities:
            yield check_identity(identity, entry.identities)


_ATTESTS = "and {} more certificate(s) that say where its keys come from (YubiKey attestation); they are no identities"
#: PIN state: status, what, why, next.
_PIN_STATES = {
    "low": ("warning", "a wrong PIN was entered", "a few more lock the token", RESET),
    "final": ("error", "one PIN try is left", "tokenauth does not spend the last try", RESET),
    "locked": ("error", "its PIN is locked", "no key that needs a login can be used", UNBLOCK),
}


def _check_token(entry: TokenEntry) -> Finding:
    token = entry.token
    named = f"{token.label!r}, {token.info.manufacturer} {token.info.model}, serial {token.info.serial}"
    state = _PIN_STATES.get(token.pin_state)
    if state:
        status, what, why, action = state
        return Finding("token", "warning" if status == "warning" else "error", f"{named}: {what}", why, action)
    if not entry.identities:
        return Finding(
            "token",
            "warning",
            f"{named}: no certificate shows on it",
            "without a certificate there is no identity to authenticate with",
            "put a certificate on it with the card's own program",
        )
    why = _ATTESTS.format(entry.attestations) if entry.attestations else ""
    return Finding("token", "ok", f"{named}: {len(entry.identities)} identities", why)
