"""Use the private key in a smart card, ID card, YubiKey, TPM or HSM wherever a certificate-and-key file is used.

The names below are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tokenauth.errors import (
    AmbiguousIdentity,
    HandshakeFailed,
    IdentityNotFound,
    InvalidURI,
    LevelNotReached,
    MechanismUnsupported,
    ModuleError,
    PinIncorrect,
    PinLocked,
    PinRefused,
    PinRequired,
    SigningFailed,
    TokenAuthError,
    TokenNotFound,
    TokenRemoved,
    UnsupportedOpenSSL,
)

if TYPE_CHECKING:
    from tokenauth import pin, signing, testing
    from tokenauth._version import __version__
    from tokenauth.clients.http import Session, TokenAdapter
    from tokenauth.inventory.identity import Identity
    from tokenauth.inventory.search import identities, identity
    from tokenauth.pin import PinRequest, prompt
    from tokenauth.tls.context import configure, create_context
    from tokenauth.tls.selection import CertificateRequest
    from tokenauth.uri import TokenURI

__all__ = [
    "AmbiguousIdentity",
    "CertificateRequest",
    "HandshakeFailed",
    "Identity",
    "IdentityNotFound",
    "InvalidURI",
    "LevelNotReached",
    "MechanismUnsupported",
    "ModuleError",
    "PinIncorrect",
    "PinLocked",
    "PinRefused",
    "PinRequest",
    "PinRequired",
    "Session",
    "SigningFailed",
    "TokenAdapter",
    "TokenAuthError",
    "TokenNotFound",
    "TokenRemoved",
    "TokenURI",
    "UnsupportedOpenSSL",
    "__version__",
    "configure",
    "create_context",
    "identities",
    "identity",
    "pin",
    "prompt",
    "signing",
    "testing",
]

_WHERE = {
    "CertificateRequest": "tokenauth.tls.selection",
    "Identity": "tokenauth.inventory.identity",
    "PinRequest": "tokenauth.pin",
    "Session": "tokenauth.clients.http",
    "TokenAdapter": "tokenauth.clients.http",
    "TokenURI": "tokenauth.uri",
    "__version__": "tokenauth._version",
    "configure": "tokenauth.tls.context",
    "create_context": "tokenauth.tls.context",
    "identities": "tokenauth.inventory.search",
    "identity": "tokenauth.inventory.search",
    "prompt": "tokenauth.pin",
}


#: Modules whose names are used from here: ``tokenauth.pin.Env``, ``tokenauth.signing.sign``, and so on.
_PARTS = frozenset({"pin", "signing", "testing"})


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return importlib.import_module(f"tokenauth.{name}")
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
