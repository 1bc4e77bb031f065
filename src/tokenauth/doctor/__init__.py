"""What keeps tokens from working on this machine, and what to do about it. Nothing here logs in."""

from __future__ import annotations

from tokenauth.doctor.checks import examine
from tokenauth.doctor.findings import Finding

__all__ = ["Finding", "examine"]
