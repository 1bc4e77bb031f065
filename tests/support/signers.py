"""Keys whose certificates are for documents and nothing else, which is what readers of PDF and CMS expect."""

from __future__ import annotations

import pytest

from tests.support.documents import XML_KINDS, DocumentKeys
from tokenauth.signing.choice import signing_key

__all__ = ["signers"]


@pytest.fixture(scope="session")
def signers(document_keys: DocumentKeys) -> DocumentKeys:
    """The token of ``document_keys``, with other keys."""
    kinds = (*XML_KINDS, "ed25519")
    made = {
        kind: document_keys.token.add_identity(f"only {kind}", key_type=kind, purposes=("document",)) for kind in kinds
    }
    return document_keys._replace(keys={kind: signing_key(one) for kind, one in made.items()})
