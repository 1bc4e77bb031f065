"""Tokens and counters that several test files share.

Tokens take long to fill, so those that tests only use are made once for each worker. SoftHSM's logins belong to the
process; tests about PINs therefore make tokens of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support import counting
from tests.support.documents import document_keys
from tests.support.faulty_module import FaultyModule
from tests.support.piv.fixtures import (
    choose_pcscd,
    fresh_piv,
    lone_piv,
    lone_piv_stack,
    make_stack,
    piv,
    piv_stack,
    yubikey,
    yubikey_stack,
)
from tests.support.signers import signers
from tokenauth.errors import ModuleError
from tokenauth.pkcs11.modules import load_module
from tokenauth.provisioning.keys import KEY_TYPES
from tokenauth.provisioning.softhsm import softhsm_module
from tokenauth.testing import Authority, MTLSServer, SoftToken

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [  # fixtures
    "document_keys",
    "fresh_piv",
    "lone_piv",
    "lone_piv_stack",
    "make_stack",
    "piv",
    "piv_stack",
    "signers",
    "yubikey",
    "yubikey_stack",
]

#: The keys that everything must work with.
KEYS = tuple(kind for kind in KEY_TYPES if kind != "rsa4096")


def pytest_sessionstart() -> None:
    choose_pcscd()
    try:
        counting.count_calls(softhsm_module())
    except ModuleError:
        return  # the tests that need it say that it is missing


@pytest.fixture
def calls() -> counting.Calls:
    """How often SoftHSM was called since the test began."""
    return counting.since()


class AllKeys(NamedTuple):
    """A token with one client identity of each kind of key, issued by an intermediate CA.

    Args:
        token: the token.
        uris: key type: the identity's URI.
    """

    token: SoftToken
    uris: dict[str, str]

    @property
    def root(self) -> Authority:
        return self.token.ca.root


@pytest.fixture(scope="session")
def all_keys() -> Iterator[AllKeys]:
    authority = Authority("tests root").intermediate("tests intermediate")
    with SoftToken("all-keys", key_type=None, authority=authority) as token:
        yield AllKeys(token, {kind: token.add_identity(kind, key_type=kind).uri for kind in KEYS})


@pytest.fixture(scope="session")
def one_key() -> Iterator[SoftToken]:
    """A token with one P-256 client identity ``client``."""
    with SoftToken("one-key") as token:
        yield token


@pytest.fixture
def card(token: SoftToken, tmp_path: Path) -> FaultyModule:
    """The test file's own ``token``, behind a module that misbehaves on request."""
    return FaultyModule(token, tmp_path / "card")


@pytest.fixture(scope="session")
def server(one_key) -> Iterator[MTLSServer]:
    """A server that demands a certificate of ``one_key``'s CA."""
    with MTLSServer(one_key.ca) as running:
        yield running


def log_out(token: SoftToken) -> None:
    """As in a new process: SoftHSM knows of no login, and tokenauth has seen nothing yet."""
    load_module(token.module).reload()


@pytest.fixture
def logged_out(one_key: SoftToken) -> SoftToken:
    """``one_key``, without a login."""
    log_out(one_key)
    return one_key


@pytest.fixture
def fresh_token() -> Iterator[SoftToken]:
    """A token of the test's own, without a login."""
    with SoftToken("fresh") as token:
        log_out(token)
        yield token
