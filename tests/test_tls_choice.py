"""Which identity a server gets when a URI selects several, and what the error says when none will do."""

from __future__ import annotations

import http.client
import socket
import ssl
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import requests

import tokenauth
from tests.support import counting
from tests.support.connect import fetch, handshake
from tests.support.nginx import Nginx, NginxOptions
from tests.support.openssl_server import s_server
from tokenauth.testing import Authority, MTLSServer, SoftToken

pytestmark = pytest.mark.xdist_group("choice")
NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)


class Two:
    """A token with one identity from each of two CAs."""

    def __init__(self, token: SoftToken, other: Authority) -> None:
        self.token, self.other = token, other
        self.first = token.add_identity("first").uri
        self.second = token.add_identity("second", authority=other).uri

    def context(self, cafile, **options):
        return tokenauth.create_context(
            self.token.uri, pin=self.token.pin, module=self.token.module, cafile=cafile, **options
        )


@pytest.fixture(scope="module")
def two():
    with SoftToken("two", key_type=None, authority=Authority("CA one")) as token:
        yield Two(token, Authority("CA two"))


@pytest.fixture(scope="module", params=["TLSv1.2", "TLSv1.3"])
def tls(request):
    return request.param


@pytest.fixture(scope="module")
def names_both(two, tls, tmp_path_factory):
    options = NginxOptions(tls=tls, client_ca=two.token.ca.pem + two.other.pem)
    with Nginx(two.token.ca, tmp_path_factory.mktemp("both"), options) as nginx:
        yield nginx


@pytest.fixture(scope="module")
def names_nobody(two, tls, tmp_path_factory):
    options = NginxOptions(tls=tls, trusted_ca=two.token.ca.pem + two.other.pem)
    with Nginx(two.token.ca, tmp_path_factory.mktemp("nobody"), options) as nginx:
        yield nginx


def subject(nginx, context):
    return nginx.parse(fetch(context, nginx.port))["ssl_client_s_dn"]


def test_the_names_that_the_server_sends_decide(two, tls, tmp_path):
    for index, (authority, expected) in enumerate([(two.token.ca, "CN=first"), (two.other, "CN=second")]):
        directory = tmp_path / str(index)
        directory.mkdir()
        with Nginx(two.token.ca, directory, NginxOptions(tls=tls, client_ca=authority.pem)) as nginx:
            assert subject(nginx, two.context(nginx.cafile, choose=must_not_be_asked)) == expected


def must_not_be_asked(identities, request):
    raise AssertionError("choose was called")


def test_one_context_gives_each_server_what_it_wants(two, tmp_path):
    context = None
    for index, (authority, expected) in enumerate(
        [(two.token.ca, "CN=first"), (two.other, "CN=second"), (two.token.ca, "CN=first")]
    ):
        directory = tmp_path / str(index)
        directory.mkdir()
        with Nginx(two.token.ca, directory, NginxOptions(client_ca=authority.pem)) as nginx:
            context = context or two.context(nginx.cafile)
            assert subject(nginx, context) == expected


@pytest.mark.parametrize("named", [True, False])
def test_several_that_would_do_are_an_error_that_names_them(two, names_both, names_nobody, named):
    nginx = names_both if named else names_nobody
    calls = counting.since()
    with pytest.raises(tokenauth.HandshakeFailed) as failed:
        handshake(two.context(nginx.cafile), nginx.port)
    cause = failed.value.__cause__
    assert isinstance(cause, tokenauth.AmbiguousIdentity)
    assert set(cause.candidates) == {two.first, two.second}
    assert isinstance(failed.value, ssl.SSLError)
    assert two.first in str(failed.value)
    assert two.second in str(failed.value)
    assert calls.signatures == 0


def test_requests_shows_them(two, names_both):
    with (
        tokenauth.Session(two.token.uri, pin=two.token.pin, verify=names_both.cafile) as session,
        pytest.raises(requests.exceptions.SSLError) as failed,
    ):
        session.get(names_both.url)
    assert two.first in str(failed.value)
    assert two.second in str(failed.value)


def test_httpx_shows_them(two, names_both):
    with (
        httpx.Client(verify=two.context(names_both.cafile), trust_env=False) as client,
        pytest.raises(httpx.ConnectError) as failed,
    ):
        client.get(names_both.url)
    assert two.first in str(failed.value)
    assert two.second in str(failed.value)


def test_each_candidate_alone_settles_it(two, names_both):
    for uri, expected in [(two.first, "CN=first"), (two.second, "CN=second")]:
        context = tokenauth.create_context(uri, pin=two.token.pin, cafile=names_both.cafile)
        assert subject(names_both, context) == expected


def test_choose_is_asked_once_for_a_server(two, names_both, tls):
    asked = []

    def choose(identities, request):
        asked.append((sorted(identity.uri for identity in identities), request))
        return next(identity for identity in identities if identity.label == "second")

    context = two.context(names_both.cafile, choose=choose)
    assert subject(names_both, context) == "CN=second"
    assert subject(names_both, context) == "CN=second"
    [(uris, request)] = asked
    assert uris == sorted([two.first, two.second])
    assert request.host == "localhost"
    named = {authority.certificate.subject.public_bytes() for authority in (two.token.ca, two.other)}
    assert set(request.authorities) == named
    assert request.version == {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}[tls]
    assert 0x0403 in request.schemes  # ecdsa_secp256r1_sha256


def test_choose_may_send_none(two, tls):
    version = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}[tls]
    with MTLSServer(two.token.ca, client_auth="optional", maximum_version=version) as server:
        calls = counting.since()
        assert b'"client_subject": null' in fetch(two.context(server.cafile, choose=lambda *_: None), server.port)
        assert calls.signatures == calls.logins == 0


def test_what_choose_raises_reaches_the_caller(two, names_both):
    def choose(identities, request):
        raise LookupError("nobody there to ask")

    with pytest.raises(tokenauth.HandshakeFailed, match="LookupError: nobody there to ask") as failed:
        handshake(two.context(names_both.cafile, choose=choose), names_both.port)
    assert isinstance(failed.value.__cause__, LookupError)


def test_an_interrupt_while_choosing_is_an_interrupt(two, names_both):
    def choose(identities, request):
        raise KeyboardInterrupt

    context = two.context(names_both.cafile, choose=choose)
    with (
        socket.create_connection(("127.0.0.1", names_both.port), 10) as plain,
        context.wrap_socket(plain, server_hostname="localhost", do_handshake_on_connect=False) as tls,
        pytest.raises(KeyboardInterrupt),
    ):
        tls.do_handshake()


def test_choose_may_not_bring_an_identity_of_its_own(two, names_nobody, one_key):
    """An identity that was not among those to choose from is none: no certificate is sent, nothing is signed."""
    stranger = tokenauth.identity(one_key.uri, pin=one_key.pin)
    calls = counting.since()
    answer = fetch(two.context(names_nobody.cafile, choose=lambda *_: stranger), names_nobody.port)
    assert b"400" in answer or b"No required SSL certificate" in answer
    assert calls.signatures == 0


UNFIT: dict[str, Any] = {
    "expired": ({"not_before": NOW - 9 * DAY, "not_after": NOW - DAY}, f"expired on {NOW - DAY:%Y-%m-%d}"),
    "early": ({"not_before": NOW + DAY}, f"not valid before {NOW + DAY:%Y-%m-%d}"),
    "server": ({"purposes": ["tls-server"]}, "key usage does not allow TLS client authentication"),
    "document": ({"purposes": ["document"]}, "key usage does not allow TLS client authentication"),
}


@pytest.fixture(scope="module")
def unfit():
    with SoftToken("unfit", key_type=None) as token:
        for name, (settings, _) in UNFIT.items():
            token.add_identity(name, **settings)
        yield token


def test_the_error_says_of_each_why_it_will_not_do(unfit):
    with MTLSServer(unfit.ca) as server:
        calls = counting.since()
        context = tokenauth.create_context(unfit.uri, pin=unfit.pin, cafile=server.cafile)
        with pytest.raises(tokenauth.HandshakeFailed) as failed:
            handshake(context, server.port)
    assert isinstance(failed.value.__cause__, tokenauth.IdentityNotFound)
    text = str(failed.value)
    for identity in tokenauth.identities(unfit.uri):
        _, _, behind = text.partition(f"{identity.uri}: ")
        assert UNFIT[identity.label][1] in behind.partition("; ")[0]
    assert calls.logins == calls.signatures == 0


def test_those_that_will_not_do_are_passed_over(unfit):
    with SoftToken("one-fit", key_type=None, authority=unfit.ca) as token, MTLSServer(unfit.ca) as server:
        for name, (settings, _) in UNFIT.items():
            token.add_identity(name, **settings)
        token.add_identity("good")
        context = tokenauth.create_context(token.uri, pin=token.pin, cafile=server.cafile)
        assert b'"client_subject": "CN=good"' in fetch(context, server.port)


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_key_that_the_server_takes_no_signature_of_is_passed_over(all_keys, tmp_path, version):
    token = all_keys.token
    only_rsa = ["-Verify", "2", "-client_sigalgs", "rsa_pss_rsae_sha256", version]
    with s_server(all_keys.root, tmp_path, *only_rsa) as port:
        kept: list[str] = []

        def choose(identities, request):
            kept.extend(identity.label for identity in identities)
            return identities[0]

        context = tokenauth.create_context(
            token.uri, pin=token.pin, cafile=str(tmp_path / "s_server-ca.pem"), choose=choose
        )
        fetch(context, port)
        assert sorted(kept) == ["rsa2048", "rsa3072"]
        context = tokenauth.create_context(
            all_keys.uris["ed25519"], pin=token.pin, cafile=str(tmp_path / "s_server-ca.pem")
        )
        with pytest.raises(tokenauth.HandshakeFailed, match="takes no signature of its ED25519 key"):
            handshake(context, port)


def test_in_tls_1_3_a_curve_goes_with_one_hash(all_keys, tmp_path):
    token = all_keys.token
    with s_server(
        all_keys.root, tmp_path, "-Verify", "2", "-client_sigalgs", "ecdsa_secp384r1_sha384", "-tls1_3"
    ) as port:
        context = tokenauth.create_context(token.uri, pin=token.pin, cafile=str(tmp_path / "s_server-ca.pem"))
        fetch(context, port)  # of six keys one will do, so nothing is ambiguous


def test_an_identity_is_used_whatever_the_server_says(two, tls, tmp_path):
    first = tokenauth.identity(two.first, pin=two.token.pin)
    with Nginx(two.token.ca, tmp_path, NginxOptions(tls=tls, client_ca=two.other.pem)) as nginx:
        calls = counting.since()
        answer = fetch(tokenauth.create_context(first, cafile=nginx.cafile), nginx.port)
        assert b"SSL certificate error" in answer
        assert calls.signatures == 1


def test_the_servers_refusal_is_explained(two):
    with MTLSServer(two.other) as server:
        first = tokenauth.identity(two.first, pin=two.token.pin)
        context = tokenauth.create_context(first, cafile=server.cafile)
        with pytest.raises(tokenauth.HandshakeFailed, match=r"does not trust the issuer.*CN=first"):
            fetch(context, server.port)


def test_a_urllib_connection_explains_too(two):
    with MTLSServer(two.other) as server:
        context = tokenauth.create_context(two.first, pin=two.token.pin, cafile=server.cafile)
        connection = http.client.HTTPSConnection("localhost", server.port, context=context, timeout=10)
        try:
            connection.request("GET", "/")
            with pytest.raises(tokenauth.HandshakeFailed, match="does not trust the issuer"):
                connection.getresponse()
        finally:
            connection.close()
