"""Verification of signed documents: ``verify`` is all that callers need, with :func:`load_trust` for what to trust."""

from tokenauth.signing.verification.front import exit_code, verify
from tokenauth.signing.verification.trust import Anchor, Trust, load_trust, system_trust

__all__ = ["Anchor", "Trust", "exit_code", "load_trust", "system_trust", "verify"]
