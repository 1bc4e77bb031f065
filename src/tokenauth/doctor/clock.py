"""Whether this machine's clock can be right."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tokenauth._version import MADE_AFTER
from tokenauth.doctor.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["check_clock"]


def check_clock() -> Iterator[Finding]:
    """Tell of a clock that is behind this very program; one that is ahead can not be told."""
    now = datetime.now(UTC)
    if now < datetime.fromisoformat(MADE_AFTER).replace(tzinfo=UTC):
        yield Finding(
            "clock",
            "error",
            f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC, long before this version was made",
            "certificates will seem not valid yet, your own and those of servers",
            "set it right: timedatectl set-ntp true",
        )
