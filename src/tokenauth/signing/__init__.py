"""Sign documents with a token's key, and verify them: PAdES, CAdES, XAdES, ASiC-E, ASiC-S and JWS.

Needs the extra ``tokenauth[sign]``. The names below are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_WHERE = {
    "FORMATS": "model",
    "LEVELS": "model",
    "Document": "model",
    "FileReport": "model",
    "Job": "model",
    "Means": "model",
    "Options": "model",
    "SignatureReport": "model",
    "SigningKey": "model",
    "Visible": "model",
}

__all__ = [
    "FORMATS",
    "LEVELS",
    "Document",
    "FileReport",
    "Job",
    "Means",
    "Options",
    "SignatureReport",
    "SigningKey",
    "Visible",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"tokenauth.signing.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
