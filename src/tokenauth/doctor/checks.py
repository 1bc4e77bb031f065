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
    findings = [*_check_python(), *check_environment(os.environ), _check_isolation()]
    modules = list(_check_modules(module))
    findings += modules
    if any(finding.status == "ok" for finding in modules):
        told = {finding.why for finding in modules}
        findings.extend(_check_tokens(module, told))
    return findings


def _check_isolation() -> Finding:
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
        return Finding(
            "module",
            "error",
            f"{named} does not work",
            _reason(error),
            _REPAIRS.get(candidate.name, _REPAIR),
        )
    info = module.info
    version = ".".join(map(str, info.version))
    return Finding("module", "ok", f"{named}: {info.manufacturer} {info.description} {version}")


def _reason(error: TokenAuthError) -> str:
    return error.message + (f" ({error.ckr})" if error.ckr else "")


def _check_tokens(module: str | None, told: set[str]) -> Iterator[Finding]:
    """Check what the modules show; `told` are the reasons for which modules were found not to load."""
    from tokenauth.inventory.survey import take_inventory
    from tokenauth.uri import TokenURI

    inventory = take_inventory(TokenURI(), module=module)
    for failure in inventory.failures:
        if not isinstance(failure, ModuleError):
            yield Finding("token", "error", str(failure), next="take the card out, insert it again and run this again")
        elif _reason(failure) not in told:
            yield Finding("module", "warning", _reason(failure), "no token shows through it", _REPAIR)
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
