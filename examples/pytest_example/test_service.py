"""Test a client of a service that demands certificates, with no card: run `pytest` here."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import requests

import tokenauth
from tokenauth.testing import MTLSServer, SoftToken


class Client:
    """What is tested; yours is in a module of its own."""

    def __init__(self, url: str, session: requests.Session) -> None:
        self.url = url
        self.session = session

    def who_am_i(self) -> str:
        answer = self.session.get(self.url, timeout=10)
        answer.raise_for_status()
        return str(answer.json()["client_subject"])


@pytest.fixture
def session(soft_token: SoftToken, mtls_server: MTLSServer) -> Iterator[tokenauth.Session]:
    with tokenauth.Session(soft_token.uri, pin=soft_token.pin, verify=mtls_server.cafile) as session:
        yield session


def test_the_service_knows_me(session: tokenauth.Session, mtls_server: MTLSServer) -> None:
    assert Client(mtls_server.url, session).who_am_i() == "CN=client"


def test_a_connection_is_used_again(session: tokenauth.Session, mtls_server: MTLSServer) -> None:
    client = Client(mtls_server.url, session)
    assert client.who_am_i() == client.who_am_i()
    assert (mtls_server.requests, mtls_server.handshakes) == (2, 1)


def test_an_expired_certificate_is_told(soft_token: SoftToken, mtls_server: MTLSServer) -> None:
    now = datetime.now(UTC)
    old = soft_token.add_identity("old", not_before=now - timedelta(days=2), not_after=now - timedelta(days=1))
    with (
        tokenauth.Session(old.uri, pin=soft_token.pin, verify=mtls_server.cafile) as session,
        pytest.raises(requests.exceptions.SSLError, match=r"no identity suits localhost.*expired"),
    ):
        Client(mtls_server.url, session).who_am_i()


def test_without_a_certificate_the_door_stays_shut(mtls_server: MTLSServer) -> None:
    with requests.Session() as session:
        session.verify = mtls_server.cafile
        session.trust_env = False  # REQUESTS_CA_BUNDLE would count for more than `verify`
        with pytest.raises(requests.exceptions.RequestException):
            Client(mtls_server.url, session).who_am_i()
