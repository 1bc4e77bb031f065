"""What a check finds."""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["RESET", "UNBLOCK", "Finding", "Status"]

Status = Literal["ok", "warning", "error"]
#: What to do when the PIN is locked, and when it is about to be.
UNBLOCK = "unblock it with the PUK or the security officer's PIN, with the card's own program"
RESET = "enter the right PIN once with the card's own program; that resets the counter"


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
