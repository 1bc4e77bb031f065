"""The checks, from Python to the certificates."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tokenauth.doctor.environment import check_environment
from tokenauth.doctor.findings import Finding
from tokenauth.doctor.identities import check_identity
from tokenauth.errors import ModuleError, TokenAuthError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenauth.inventory.survey import TokenEntry
    from tokenauth.pkcs11.discovery import ModuleCandidate

__all__ = ["examine"]


def examine(module: str | None = None) -> list[Finding]:
    """Check everything. Never logs in.

    Args:
        module: path of the only PKCS#11 module to look at.

    Returns:
        The findings, in the order in which things build on each other.
    """
    findings = [*_check_python(), *check_environment(os.environ)]
    loaded = 0
    for finding in _check_modules(module):
        findings.append(finding)
        loaded += finding.check == "module" and finding.status == "ok"
    if loaded:
        findings.extend(_check_tokens(module))
    return findings


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


def _check_modules(module: str | None) -> Iterator[Finding]:
    from tokenauth.pkcs11.discovery import survey

    try:
        found = survey(module)
    except ModuleError as error:
        yield Finding("module", "error", error.message, next=error.hint)
        return
    for problem in found.problems:
        yield Finding("module", "warning", problem, next="correct or remove that file")
    if not found.candidates:
        yield Finding(
            "module",
            "error",
            "no PKCS#11 module is installed",
            "a module is the library through which programs use a token",
            "install your card's software (for many cards: the package opensc), or softhsm2 to try things",
        )
    yield from map(_check_module, found.candidates)


_REPAIR = "install the module's software again, or name another file with --module or TOKENAUTH_MODULE"
#: By the module's name: what usually is the matter with it.
_REPAIRS = {
    "softhsm2": "let SOFTHSM2_CONF name a configuration that you can read ('tokenauth softtoken init' makes one); the "
    "system's own is often for root only",
}


def _check_module(candidate: ModuleCandidate) -> Finding:
    from tokenauth.pkcs11.modules import load_module

    named = f"{candidate.path} ({candidate.origin})"
    try:
        module = load_module(candidate.path)
    except ModuleError as error:
        reason = error.message + (f" ({error.ckr})" if error.ckr else "")
        return Finding(
            "module",
            "error",
            f"{named} does not work",
            reason,
            _REPAIRS.get(candidate.name, _REPAIR),
        )
    info = module.info
    version = ".".join(map(str, info.version))
    return Finding("module", "ok", f"{named}: {info.manufacturer} {info.description} {version}")


def _check_tokens(module: str | None) -> Iterator[Finding]:
    from tokenauth.inventory.survey import take_inventory
    from tokenauth.uri import TokenURI

    inventory = take_inventory(TokenURI(), module=module)
    for failure in inventory.failures:
        if not isinstance(failure, ModuleError):  # those were told with the modules
            yield Finding("token", "error", str(failure), next="take the card out, insert it again and run this again")
    if not inventory.entries:
        yield Finding(
            "token",
            "warning",
            "no token is there",
            "no module shows an initialised token in any slot",
            "insert the card, or make a token to try things with: tokenauth softtoken init",
        )
    for entry in inventory.entries:
        yield _check_token(entry)
        for identity in entry.identities:
            yield check_identity(identity)


_UNBLOCK = "unblock it with the PUK or the security officer's PIN, with the card's own program"
_RESET = "enter the right PIN once with the card's own program; that resets the counter"
#: PIN state: status, what, why, next.
_PIN_STATES = {
    "low": ("warning", "a wrong PIN was entered", "a few more lock the token", _RESET),
    "final": ("error", "one PIN try is left", "tokenauth does not spend the last try", _RESET),
    "locked": ("error", "its PIN is locked", "no key that needs a login can be used", _UNBLOCK),
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
    return Finding("token", "ok", f"{named}: {len(entry.identities)} identities")
