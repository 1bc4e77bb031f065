"""Environment variables that change what tokenauth does."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tokenauth.doctor.findings import Finding
from tokenauth.errors import ModuleError, PinRequired

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["check_environment"]


def _names_path(name: str, value: str) -> Finding:
    if Path(value).exists():
        return Finding("environment", "ok", f"{name}={value}")
    return Finding(
        "environment", "error", f"{name}={value}", "there is no such file or directory", f"correct it, or: unset {name}"
    )


def _names_modules(name: str, value: str) -> Finding:
    # Each entry is checked with the modules.
    return Finding("environment", "ok", f"{name}={value}", "only these modules are looked at" if value else "")


def _names_pin(name: str, value: str) -> Finding:
    from tokenauth.pin import parse_pin_source

    try:
        parse_pin_source(value)
    except PinRequired as error:
        # The value is not shown: somebody may have put the PIN there.
        return Finding("environment", "error", f"{name} is set to something else", error.message, f"unset {name}")
    kind, _, where = value.partition(":")
    if kind == "file" and not os.access(where, os.R_OK):
        return Finding(
            "environment", "error", f"{name}={value}", "that file can not be read", f"correct it, or: unset {name}"
        )
    if kind == "env" and where not in os.environ:
        return Finding(
            "environment", "error", f"{name}={value}", f"{where} is not set", f"correct it, or: unset {name}"
        )
    if missing := _missing_for(kind):
        return Finding("environment", "error", f"{name}={value}", *missing)
    return Finding("environment", "ok", f"{name}={value}")


def _missing_for(kind: str) -> tuple[str, str] | None:
    """Why a way to ask for the PIN can not be used, and what to do."""
    if kind == "keyring" and importlib.util.find_spec("keyring") is None:
        return "the package 'keyring' is missing", "pip install keyring"
    if kind == "pinentry":
        from tokenauth.pin.pinentry import PROGRAM_VARIABLE, find_program

        name, path = find_program(None)
        if path is None:
            return f"there is no program {name!r}", f"install a pinentry, or name one with {PROGRAM_VARIABLE}"
    return None


def _names_program(name: str, value: str) -> Finding:
    if shutil.which(value):
        return Finding("environment", "ok", f"{name}={value}")
    return Finding(
        "environment", "error", f"{name}={value}", "there is no such program", f"correct it, or: unset {name}"
    )


def _is_set(name: str, value: str) -> Finding:
    return Finding("environment", "ok", f"{name}={value}")


def _is_time_limit(name: str, value: str) -> Finding:
    from tokenauth.pkcs11.isolation import time_limit

    try:
        time_limit({name: value})
    except ModuleError as error:
        return Finding("environment", "error", error.message, "no module is loaded in a process of its own", error.hint)
    return Finding("environment", "ok", f"{name}={value}")


_VARIABLES: dict[str, Callable[[str, str], Finding]] = {
    "TOKENAUTH_MODULE": _names_modules,
    "TOKENAUTH_PIN_SOURCE": _names_pin,
    "PINENTRY_PROGRAM": _names_program,
    "SOFTHSM2_CONF": _names_path,
    "REQUESTS_CA_BUNDLE": _names_path,
    "SSL_CERT_FILE": _names_path,
    "SSL_CERT_DIR": _names_path,
    "OPENSSL_CONF": _names_path,
    "P11_KIT_NO_USER_CONFIG": _is_set,
    "TOKENAUTH_ISOLATE_TIMEOUT": _is_time_limit,
}


def check_environment(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Check the variables that are in effect.

    Args:
        environ: usually ``os.environ``.
    """
    for name, check in _VARIABLES.items():
        if value := environ.get(name):
            yield check(name, value)
