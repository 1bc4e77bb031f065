"""Sign documents with a token's key, and verify them: PAdES, CAdES, XAdES, ASiC-E, ASiC-S and JWS.

Needs the extra ``tokenauth[sign]``. The names below are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenauth.signing.choice import find_signer, signing_key
    from tokenauth.signing.model import (
        FORMATS,
        LEVELS,
        Document,
        FileReport,
        Job,
        Means,
        Options,
        SignatureReport,
        SigningKey,
        Visible,
    )
    from tokenauth.signing.operations import extend, sign
    from tokenauth.signing.two_steps import Prepared, complete, prepare
    from tokenauth.signing.verification import verify

_WHERE = {
    "FORMATS": "model",
    "LEVELS": "model",
    "Document": "model",
    "FileReport": "model",
    "Job": "model",
    "Means": "model",
    "Options": "model",
    "Prepared": "two_steps",
    "SignatureReport": "model",
    "SigningKey": "model",
    "Visible": "model",
    "complete": "two_steps",
    "extend": "operations",
    "find_signer": "choice",
    "prepare": "two_steps",
    "sign": "operations",
    "signing_key": "choice",
    "verify": "verification",
}

_NEED_THE_EXTRA = frozenset({"verification"})

__all__ = [
    "FORMATS",
    "LEVELS",
    "Document",
    "FileReport",
    "Job",
    "Means",
    "Options",
    "Prepared",
    "SignatureReport",
    "SigningKey",
    "Visible",
    "complete",
    "extend",
    "find_signer",
    "prepare",
    "sign",
    "signing_key",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tokenauth.signing.formats import load_part

    part = f"tokenauth.signing.{_WHERE[name]}"
    value = getattr(load_part(_WHERE[name]) if _WHERE[name] in _NEED_THE_EXTRA else importlib.import_module(part), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
