"""Servers whose key is in a token, and servers that ask for a certificate after the handshake."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading

import pytest

import tokenauth
from tests.conftest import KEYS, log_out
from tests.support import client_context, client_pair, counting
from tests.support.connect import connected
from tests.support.programs import openssl
from tokenauth.testing import Authority, MTLSServer, SoftToken

VERSIONS = {"-tls1_2": ssl.TLSVersion.TLSv1_2, "-tls1_3": ssl.TLSVersion.TLSv1_3}


@contextlib.contextmanager
def serving(context, answer=None):
    """A server for any number of connections, one after the other; yields its port and its failures."""
    failures: list[Exception] = []

    def talk(tls):
        tls.recv(65536)
        tls.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + (tls.getpeercert(binary_form=True) or b"nobody"))
        with contextlib.suppress(OSError):  # a client may leave without a word
            tls.unwrap()

    def serve():
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return  # closed: the test is over
            plain.settimeout(10)
            try:
                with plain, context.wrap_socket(plain, server_side=True) as tls:
                    (answer or talk)(tls)
            except OSError as error:
                failures.append(error)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1], failures
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def ask(context, port):
    with connected(context, port) as tls:
        tls.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while part := tls.recv(65536):
            answer += part
        return answer.partition(b"\r\n\r\n")[2]


@pytest.fixture(scope="module")
def host():
    """A token with a server's identity of each kind of key, from an intermediate CA."""
    authority = Authority("root").intermediate("intermediate")
    with SoftToken("host", key_type=None, authority=authority) as token:
        for kind in KEYS:
            token.add_identity(kind, key_type=kind, purposes=["tls-server"], names=["localhost", "127.0.0.1"])
        yield token


@pytest.fixture(scope="module")
def cafile(host, tmp_path_factory):
    path = tmp_path_factory.mktemp("ca") / "root.pem"
    path.write_bytes(host.ca.root.pem)
    return str(path)


def server_context(host, kind, **options):
    uri = f"{host.uri};object={kind}"
    return tokenauth.create_context(uri, pin=host.pin, module=host.module, server_side=True, **options)


@pytest.mark.parametrize("version", VERSIONS.values())
@pytest.mark.parametrize("kind", KEYS)
def test_pythons_ssl_is_served(host, cafile, kind, version, calls):
    context = server_context(host, kind)
    context.minimum_version = context.maximum_version = version
    with serving(context) as (port, failures):
        assert ask(client_context(cafile), port) == b"nobody"
    assert not failures
    assert calls.signatures == 1


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", KEYS)
def test_openssls_client_is_served(host, cafile, kind, version):
    with serving(server_context(host, kind)) as (port, failures):
        seen = openssl(
            *("s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost", "-CAfile", cafile),
            *("-verify_return_error", "-verify_hostname", "localhost", "-ign_eof", version),
            input=b"GET / HTTP/1.0\r\n\r\n",
        ).decode()
    seen = seen.replace("CN = ", "CN=")  # as OpenSSL 3.0 writes it
    assert "Verify return code: 0 (ok)" in seen
    assert f"CN={kind}" in seen
    assert "CN=intermediate" in seen  # the chain was sent
    assert not failures


def test_what_a_client_says_against_the_server_is_not_turned_into_advice_for_clients(host):
    with serving(server_context(host, "p256")) as (port, failures), pytest.raises(ssl.SSLCertVerificationError):
        ask(ssl.create_default_context(), port)
    [failure] = failures
    assert "UNKNOWN_CA" in str(failure)
    assert "your certificate" not in str(failure)


def test_a_server_authenticates_its_clients_too(host, cafile, tmp_path):
    context = server_context(host, "p256", cafile=cafile)
    context.verify_mode = ssl.CERT_REQUIRED
    pair = client_pair(host.ca, tmp_path, "Ada")
    with serving(context) as (port, failures):
        assert b"Ada" in ask(client_context(cafile, pair), port)
        assert not failures
        with pytest.raises(OSError):  # noqa: PT011 - an alert, or a connection that is closed before it is read
            ask(client_context(cafile), port)
    assert len(failures) == 1


def test_one_token_at_both_ends(host, cafile, all_keys, calls):
    context = server_context(host, "p256")
    context.load_verify_locations(cadata=all_keys.root.pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    client = tokenauth.create_context(
        all_keys.uris["rsa2048"], pin=all_keys.token.pin, module=all_keys.token.module, cafile=cafile
    )
    with serving(context) as (port, failures):
        assert b"rsa2048" in ask(client, port)
    assert not failures
    assert calls.signatures == 2


def test_a_servers_login_is_at_its_start(host):
    log_out(host)
    calls = counting.since()
    asked = []

    def pin(request):
        asked.append(request.reason)
        return host.pin

    tokenauth.create_context(f"{host.uri};object=p256", pin=pin, module=host.module, server_side=True)
    assert asked == ["to start the server"]
    assert (calls.logins, calls.signatures) == (1, 0)


def test_a_wrong_pin_stops_the_server_at_once():
    with SoftToken("fresh", key_type=None) as token:
        token.add_identity("server", purposes=["tls-server"], names=["localhost"])
        log_out(token)
        calls = counting.since()
        with pytest.raises(tokenauth.PinIncorrect, match="the PIN is wrong"):
            tokenauth.create_context(token.uri, pin="0000", module=token.module, server_side=True)
        assert calls.logins == 1


def test_a_server_without_a_pin_does_not_start():
    with SoftToken("fresh", key_type=None) as token:
        token.add_identity("server", purposes=["tls-server"], names=["localhost"])
        log_out(token)
        with pytest.raises(tokenauth.PinRequired):
            tokenauth.create_context(token.uri, module=token.module, server_side=True)


def test_several_servers_identities_are_ambiguous(host):
    with pytest.raises(tokenauth.AmbiguousIdentity) as failed:
        tokenauth.create_context(host.uri, pin=host.pin, module=host.module, server_side=True)
    assert len(failed.value.candidates) == len(KEYS)


def test_a_clients_identity_is_no_servers(one_key):
    with pytest.raises(tokenauth.IdentityNotFound, match="does not allow TLS server authentication"):
        tokenauth.create_context(one_key.uri, pin=one_key.pin, module=one_key.module, server_side=True)


def test_a_token_that_left_tells_the_server(cafile):
    """The server's own handshake says why, and its client only that it failed."""
    with SoftToken("leaving", key_type=None) as token:
        token.add_identity("localhost", purposes=("tls-server",), names=("localhost",))
        context = tokenauth.create_context(token.uri, pin=token.pin, server_side=True)
    # What a client sees is an alert or a closed connection.
    with serving(context) as (port, failures), pytest.raises(OSError):  # noqa: PT011
        ask(client_context(cafile), port)
    [failure] = failures
    assert isinstance(failure, tokenauth.HandshakeFailed)
    assert isinstance(failure.__cause__, tokenauth.TokenRemoved)


def test_a_token_that_was_logged_out_is_logged_in_to_again(host, cafile):
    context = server_context(host, "p256")
    log_out(host)
    calls = counting.since()
    with serving(context) as (port, failures):
        ask(client_context(cafile), port)
    assert not failures
    assert calls.logins == 1


@contextlib.contextmanager
def asking_afterwards(authority, tmp_path):
    """A TLS 1.3 server that asks for a certificate only when it has read a request (RFC 8446 section 4.6.2)."""
    certificate, key = authority.issue_server(["localhost"])
    pair = tmp_path / "server.pem"
    pair.write_bytes(key + certificate)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=authority.root.pem.decode())
    context.load_cert_chain(pair)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.post_handshake_auth = True
    context.verify_mode = ssl.CERT_REQUIRED

    def talk(tls):
        first = tls.recv(65536)
        assert tls.getpeercert() in (None, {})
        tls.verify_client_post_handshake()
        tls.sendall(b"first: " + first)
        second = tls.recv(65536)  # reads the client's certificate as well
        tls.sendall(second + (tls.getpeercert(binary_form=True) or b"nobody"))

    (tmp_path / "ca.pem").write_bytes(authority.root.pem)
    with serving(context, talk) as (port, failures):
        yield port, str(tmp_path / "ca.pem"), failures


def test_asked_after_the_handshake(one_key, tmp_path):
    log_out(one_key)
    with asking_afterwards(one_key.ca, tmp_path) as (port, cafile, failures):
        context = tokenauth.create_context(one_key.uri, pin=one_key.pin, module=one_key.module, cafile=cafile)
        context.post_handshake_auth = True
        calls = counting.since()
        with connected(context, port) as tls:
            assert (calls.logins, calls["C_SignInit"]) == (0, 0)
            assert not tls.identity
            tls.sendall(b"one")
            assert tls.recv(65536) == b"first: one"
            assert (calls.logins, calls.signatures) == (1, 1)
            assert tls.identity is not None
            tls.sendall(b"two")
            answer = tls.recv(65536)
    assert answer.startswith(b"two")
    assert b"client" in answer
    assert not failures


def test_each_connection_knows_its_own_identity_when_it_is_refused(one_key, all_keys, tmp_path):
    """Both connections of this thread are open when the server refuses the first."""
    with MTLSServer(Authority("a stranger")) as strict, MTLSServer(all_keys.root) as other:
        refused = tokenauth.create_context(one_key.uri, pin=one_key.pin, module=one_key.module, cafile=strict.cafile)
        accepted = tokenauth.create_context(
            all_keys.uris["p256"], pin=all_keys.token.pin, module=one_key.module, cafile=other.cafile
        )
        with (
            connected(refused, strict.port) as first,
            connected(accepted, other.port),
            pytest.raises(tokenauth.HandshakeFailed, match="it was CN=client"),
        ):
            first.recv(1)


def test_a_token_error_after_the_handshake_is_no_bare_ssl_error(fresh_token, tmp_path):
    with asking_afterwards(fresh_token.ca, tmp_path) as (port, cafile, _):
        context = tokenauth.create_context(fresh_token.uri, pin="0000", module=fresh_token.module, cafile=cafile)
        context.post_handshake_auth = True
        with connected(context, port) as tls:
            tls.sendall(b"one")
            with pytest.raises(tokenauth.HandshakeFailed, match="the PIN is wrong") as failed:
                tls.recv(65536)
    assert isinstance(failed.value.__cause__, tokenauth.PinIncorrect)
