"""Nothing is asked before it is needed, and one login and one signature are enough."""

from __future__ import annotations

import socket
import ssl

import pytest
import requests

import tokenauth
from tests.support import counting
from tests.support.connect import fetch, handshake
from tests.support.nginx import Nginx, NginxOptions
from tokenauth.testing import Authority, MTLSServer

pytestmark = pytest.mark.xdist_group("one_key")
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class Asked:
    """A PIN source that keeps what it was asked."""

    def __init__(self, pin: str) -> None:
        self.pin = pin
        self.requests: list[tokenauth.PinRequest] = []

    def __call__(self, request: tokenauth.PinRequest) -> str:
        self.requests.append(request)
        return self.pin


@pytest.fixture
def asked(logged_out) -> Asked:
    return Asked(logged_out.pin)


def context_for(token, asked, cafile, version=None, **more):
    context = tokenauth.create_context(token.uri, pin=asked, module=token.module, cafile=cafile, **more)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


def test_making_contexts_and_sessions_does_not_touch_the_token(logged_out, asked, server):
    calls = counting.since()
    context_for(logged_out, asked, server.cafile)
    tokenauth.Session(logged_out.uri, pin=asked, module=logged_out.module).close()
    assert calls.any == 0
    assert not asked.requests


@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_that_asks_for_no_certificate_costs_nothing(logged_out, asked, version):
    with MTLSServer(logged_out.ca, client_auth="none") as server:
        calls = counting.since()
        context = context_for(logged_out, asked, server.cafile, version)
        assert b'"client_subject": null' in fetch(context, server.port)
        with tokenauth.Session(logged_out.uri, pin=asked, module=logged_out.module, verify=server.cafile) as session:
            assert session.get(server.url).json()["client_subject"] is None
    assert (calls.logins, calls["C_SignInit"]) == (0, 0)
    assert not asked.requests


@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_that_nobody_trusts_costs_nothing(logged_out, asked, version, tmp_path):
    stranger = Authority("a stranger")
    with MTLSServer(stranger) as server:
        trusted = tmp_path / "trusted.pem"
        trusted.write_bytes(logged_out.ca.pem)
        calls = counting.since()
        context = context_for(logged_out, asked, str(trusted), version)
        with pytest.raises(ssl.SSLCertVerificationError) as failed:
            handshake(context, server.port)
        assert not isinstance(failed.value, tokenauth.TokenAuthError)
    assert (calls.logins, calls["C_SignInit"]) == (0, 0)
    assert not asked.requests


@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_of_another_name_costs_nothing(logged_out, asked, server, version):
    calls = counting.since()
    context = context_for(logged_out, asked, server.cafile, version)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(context, server.port, "other.example")
    assert (calls.logins, calls["C_SignInit"]) == (0, 0)
    assert not asked.requests


def test_requests_says_so_too(logged_out, asked, tmp_path):
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(logged_out.ca.pem)
    with (
        MTLSServer(Authority("a stranger")) as server,
        tokenauth.Session(logged_out.uri, pin=asked, module=logged_out.module, verify=str(trusted)) as session,
    ):
        calls = counting.since()
        with pytest.raises(requests.exceptions.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
            session.get(server.url)
    assert (calls.logins, calls["C_SignInit"]) == (0, 0)
    assert not asked.requests


@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_that_asks_costs_one_login_and_one_signature(logged_out, asked, server, version):
    calls = counting.since()
    context = context_for(logged_out, asked, server.cafile, version, reuse_sessions=False)
    assert b"CN=client" in fetch(context, server.port)
    assert (calls.logins, calls["C_SignInit"], calls.signatures) == (1, 1, 1)
    assert b"CN=client" in fetch(context, server.port)
    assert (calls.logins, calls["C_SignInit"], calls.signatures) == (1, 2, 2)
    [request] = asked.requests
    assert request.token == logged_out.label
    assert request.serial == logged_out.serial
    assert request.reason == "to authenticate to localhost"
    assert request.tries == "ok"
    assert request.per_signature is False


def test_contexts_on_one_token_share_the_login(logged_out, asked, server):
    calls = counting.since()
    for _ in range(3):
        fetch(context_for(logged_out, asked, server.cafile), server.port)
    assert (calls.logins, calls.signatures, len(asked.requests)) == (1, 3, 1)


def test_resumed_connections_need_no_signature(logged_out, asked, tmp_path):
    """Sessions are the caller's to keep here, as with any ssl.SSLContext."""
    with Nginx(logged_out.ca, tmp_path, NginxOptions(tls="TLSv1.2", session_tickets=True)) as nginx:
        context = context_for(logged_out, asked, nginx.cafile)
        calls, session = counting.since(), None
        for _ in range(3):
            with (
                socket.create_connection(("127.0.0.1", nginx.port), 10) as plain,
                context.wrap_socket(plain, server_hostname="localhost", session=session) as tls,
            ):
                session = tls.session
        assert calls.signatures == 1
