"""pytest fixtures for tests that need a token; pytest loads this by itself where tokenauth is installed.

A project that wants other keys overrides ``soft_token`` in its own ``conftest.py``; the other two follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from tokenauth.testing import MTLSServer, SoftToken

__all__ = ["mtls_server", "soft_token", "token_context"]


@pytest.fixture
def soft_token() -> Iterator[SoftToken]:
    """A SoftHSM token with one client identity: ``uri``, ``pin``, ``module``, ``ca``."""
    from tokenauth.testing import SoftToken

    with SoftToken() as token:
        yield token


@pytest.fixture
def mtls_server(soft_token: SoftToken) -> Iterator[MTLSServer]:
    """A TLS server that demands a certificate of ``soft_token``'s CA: ``url``, ``cafile``."""
    from tokenauth.testing import MTLSServer

    with MTLSServer(soft_token.ca) as server:
        yield server


@pytest.fixture
def token_context(soft_token: SoftToken, mtls_server: MTLSServer) -> ssl.SSLContext:
    """An ``ssl.SSLContext`` that authenticates with ``soft_token`` and trusts ``mtls_server``."""
    from tokenauth import create_context

    return create_context(soft_token.uri, pin=soft_token.pin, module=soft_token.module, cafile=mtls_server.cafile)
