"""Sign documents with a token's key, and verify them: PAdES, CAdES, XAdES, ASiC-E, ASiC-S and JWS.

Needs the extra ``tokenauth[sign]``. The names below are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenauth.signing.asic_reader import Container
    from tokenauth.signing.batch import Batch, Outcome
    from tokenauth.signing.batch_planning import Entry, plan_files
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
    from tokenauth.signing.operations import Task, check, extend, perform, plan, sign
    from tokenauth.signing.refusals import DocumentError
    from tokenauth.signing.two_steps import Prepared, complete, prepare
    from tokenauth.signing.verification import Anchor, Trust, exit_code, load_trust, system_trust, verify

#: Where each name is defined.
_WHERE = {
    "Anchor": "verification",
    "Batch": "batch",
    "Container": "asic_reader",
    "Document": "model",
    "DocumentError": "refusals",
    "Entry": "batch_planning",
    "FORMATS": "model",
    "FileReport": "model",
    "Job": "model",
    "LEVELS": "model",
    "Means": "model",
    "Options": "model",
    "Outcome": "batch",
    "Prepared": "two_steps",
    "SignatureReport": "model",
    "SigningKey": "model",
    "Task": "operations",
    "Trust": "verification",
    "Visible": "model",
    "check": "operations",
    "complete": "two_steps",
    "exit_code": "verification",
    "extend": "operations",
    "find_signer": "choice",
    "load_trust": "verification",
    "perform": "operations",
    "plan": "operations",
    "plan_files": "batch_planning",
    "prepare": "two_steps",
    "sign": "operations",
    "signing_key": "choice",
    "system_trust": "verification",
    "verify": "verification",
}

_NEED_THE_EXTRA = frozenset({"verification"})

__all__ = [
    "FORMATS",
    "LEVELS",
    "Anchor",
    "Batch",
    "Container",
    "Document",
    "DocumentError",
    "Entry",
    "FileReport",
    "Job",
    "Means",
    "Options",
    "Outcome",
    "Prepared",
    "SignatureReport",
    "SigningKey",
    "Task",
    "Trust",
    "Visible",
    "check",
    "complete",
    "exit_code",
    "extend",
    "find_signer",
    "load_trust",
    "perform",
    "plan",
    "plan_files",
    "prepare",
    "sign",
    "signing_key",
    "system_trust",
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
