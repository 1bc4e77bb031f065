"""The error for documents, containers and signatures that are not taken."""

from __future__ import annotations

from tokenauth.errors import TokenAuthError

__all__ = ["DocumentError", "NotKnown"]


class DocumentError(TokenAuthError):
    """A document, container or signature that is damaged, hostile, or not fit for what is asked."""


class NotKnown(DocumentError):
    """Something that may be good, and that is not understood here."""
