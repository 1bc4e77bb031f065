"""What a check finds."""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["Finding", "Status"]

Status = Literal["ok", "warning", "error"]


class Finding(NamedTuple):
    """One thing that was checked.

    Args:
        check: what was checked: ``python``, ``openssl``, ``environment``, ``clock``, ``table``, ``isolation``,
            ``module``, ``reader``, ``card``, ``token``, ``certificate``.
        status: ``ok``; ``warning``: it works, or may be meant so; ``error``: it keeps something from working.
        what: what was found.
        why: why that matters; empty if it is plain.
        next: the next thing to do: a command where there is one; empty if nothing needs doing.
    """

    check: str
    status: Status
    what: str
    why: str = ""
    next: str = ""
