"""A server that refuses, or answers, while the client is still sending."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading

import pytest
import requests

import tokenauth
from tokenauth.testing import Authority

pytestmark = pytest.mark.xdist_group("one_key")
LARGE = b"x" * 10_000_000  # more than the buffers on the way hold
ANSWER = b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class HastyServer:
    """Verifies clients, answers those that it accepts without listening, and closes while they are sending.

    Args:
        authority: issues its certificate.
        trusted: the one that clients' certificates must come from.
        directory: for its files.
    """

    def __init__(self, authority, trusted, directory):
        chain, key = authority.issue_server(["localhost"])
        (directory / "chain.pem").write_bytes(chain)
        (directory / "key.pem").write_bytes(key)
        (directory / "ca.pem").write_bytes(authority.pem)
        self.cafile = str(directory / "ca.pem")
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=trusted.pem.decode())
        self._context.load_cert_chain(directory / "chain.pem", directory / "key.pem")
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.num_tickets = 0  # OpenSSL reads none any more once a write has failed, nor what follows
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.url = f"https://localhost:{self.port}/"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(10)

    def _serve(self):
        while True:
            try:
                plain, _ = self._listening.accept()
            except OSError:
                return
            with plain, contextlib.suppress(OSError), self._context.wrap_socket(plain, server_side=True) as tls:
                tls.sendall(ANSWER)


@pytest.fixture
def strict(one_key, tmp_path):
    with HastyServer(one_key.ca, Authority("a stranger"), tmp_path) as server:
        yield server


@pytest.fixture
def friendly(one_key, tmp_path):
    with HastyServer(one_key.ca, one_key.ca, tmp_path) as server:
        yield server


def context_for(one_key, server):
    return tokenauth.create_context(one_key.uri, pin=one_key.pin, module=one_key.module, cafile=server.cafile)


@pytest.mark.parametrize("_", range(5))
def test_the_reason_is_told_though_sending_failed_first(one_key, strict, _):
    with (
        socket.create_connection(("127.0.0.1", strict.port)) as plain,
        context_for(one_key, strict).wrap_socket(plain, server_hostname="localhost") as tls,
        pytest.raises(tokenauth.HandshakeFailed, match=r"does not trust the issuer of your certificate.*CN=client"),
    ):
        tls.sendall(LARGE)


def test_requests_tells_it(one_key, strict):
    with (
        tokenauth.Session(one_key.uri, pin=one_key.pin, module=one_key.module, verify=strict.cafile) as session,
        pytest.raises(requests.exceptions.SSLError, match="does not trust the issuer of your certificate"),
    ):
        session.post(strict.url, data=LARGE)


def test_no_byte_of_an_early_answer_is_lost(one_key, friendly):
    with (
        socket.create_connection(("127.0.0.1", friendly.port)) as plain,
        context_for(one_key, friendly).wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        with pytest.raises(OSError, match=r"EOF|reset|Broken pipe") as failed:
            tls.sendall(LARGE)
        assert not isinstance(failed.value, tokenauth.TokenAuthError)
        assert tls.recv(65536) == ANSWER
