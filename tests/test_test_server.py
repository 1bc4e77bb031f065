from __future__ import annotations

import gc
import http.client
import json
import os
import socket
import ssl
import stat
import struct
import tempfile
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from cryptography import x509

from tests.support import client_context, client_pair, read_to_end
from tokenauth.testing import server as server_module
from tokenauth.testing.authority import Authority
from tokenauth.testing.server import MTLSServer

if TYPE_CHECKING:
    from collections.abc import Iterator

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def pair(authority, tmp_path_factory) -> Path:
    return client_pair(authority, tmp_path_factory.mktemp("client"), "Ada")


@pytest.fixture
def server(authority) -> Iterator[MTLSServer]:
    with MTLSServer(authority) as server:
        yield server


@contextmanager
def http_session(server: MTLSServer, pair: Path) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False  # REQUESTS_CA_BUNDLE would win over session.verify
        session.verify, session.cert = server.cafile, str(pair)
        yield session


def get(server: MTLSServer, pair: Path | None = None, path: str = "", data: bytes | None = None) -> dict[str, Any]:
    context = client_context(server.cafile, pair)
    with urllib.request.urlopen(server.url + path, data, 10, context=context) as answer:
        seen: dict[str, Any] = json.load(answer)
        return seen


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_tells_what_it_saw(authority, pair, version):
    with MTLSServer(authority, minimum_version=version, maximum_version=version) as server:
        seen = get(server, pair, "some/path?q=1")
        assert seen.pop("cipher") in {cipher["name"] for cipher in ssl.create_default_context().get_ciphers()}
        certificate = x509.load_pem_x509_certificate(pair.read_bytes())
        assert seen.pop("client_serial") == f"{certificate.serial_number:x}"
        assert seen == {
            "method": "GET",
            "path": "/some/path?q=1",
            "client_subject": "CN=Ada",
            "tls_version": version.name.replace("TLSv1_", "TLSv1."),
            "body": "",
        }


def test_takes_a_body(server, pair):
    seen = get(server, pair, data="größer".encode())
    assert (seen["method"], seen["body"]) == ("POST", "größer")


def test_asks_for_a_length_when_there_is_none(server, pair):
    with http_session(server, pair) as session:
        assert session.post(server.url, data=iter([b"chunk"])).status_code == 411
        assert session.post(server.url, data=b"whole").json()["body"] == "whole"


def test_its_own_name_is_good_by_ip_address_too(server, pair):
    context = client_context(server.cafile, pair)
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=10)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    connection.close()


@pytest.mark.parametrize(
    ("version", "asked", "told"),
    [("1.1", "", None), ("1.1", "Connection: close\r\n", "close"), ("1.0", "", "close")],
)
def test_says_so_when_it_closes_the_connection(server, pair, version, asked, told):
    context = client_context(server.cafile, pair)
    with (
        socket.create_connection((server.host, server.port), 10) as tcp,
        context.wrap_socket(tcp, server_hostname=server.host) as tls,
    ):
        tls.sendall(f"GET / HTTP/{version}\r\nHost: localhost\r\n{asked}\r\n".encode())
        answer = http.client.HTTPResponse(tls)
        answer.begin()
        assert answer.getheader("Connection") == told
        assert answer.read()
        if told:
            assert tls.recv(1) == b""


def test_nobody_sends_a_request_on_a_connection_that_is_about_to_close(server, pair, monkeypatch):
    """Held open here, as a busy machine does by chance: the client must know before it sees the end."""
    closing = threading.Event()
    hang_up = server_module._hang_up
    monkeypatch.setattr(server_module, "_hang_up", lambda connection: (closing.wait(10), hang_up(connection)))
    with http_session(server, pair) as session:
        for _ in range(3):
            assert (
                session.get(server.url, headers={"Connection": "close"}, timeout=5).json()["client_subject"] == "CN=Ada"
            )
    closing.set()
    assert (server.handshakes, server.requests) == (3, 3)


def test_counts_handshakes_and_requests(server, pair):
    with http_session(server, pair) as session:
        for _ in range(3):
            assert session.get(server.url).json()["client_subject"] == "CN=Ada"
    assert (server.handshakes, server.requests) == (1, 3)
    get(server, pair)
    assert (server.handshakes, server.requests) == (2, 4)
    assert server.handshake_errors == ()


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_a_session_can_be_resumed_and_keeps_the_client(authority, pair, version):
    with MTLSServer(authority, maximum_version=version) as server:
        context = client_context(server.cafile, pair)
        session = None
        for reused in (False, True):
            with (
                socket.create_connection((server.host, server.port), 10) as tcp,
                context.wrap_socket(tcp, server_hostname=server.host, session=session) as tls,
            ):
                tls.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                answer = read_to_end(tls)
                assert json.loads(answer.partition(b"\r\n\r\n")[2])["client_subject"] == "CN=Ada"
                assert tls.session_reused is reused
                session = tls.session


@pytest.mark.parametrize("version", [TLS12, TLS13])
@pytest.mark.parametrize(
    ("who", "alert", "cause"),
    [
        ("nobody", "certificate required|handshake failure", "peer did not return a certificate"),
        ("stranger", "unknown ca", "unable to get local issuer certificate"),
        ("expired", "certificate expired", "certificate has expired"),
    ],
)
def test_refuses_with_an_alert_and_serves_the_next(authority, pair, tmp_path, version, who, alert, cause):
    yesterday = datetime.now(UTC) - timedelta(days=1)
    refused = {
        "nobody": lambda: None,
        "stranger": lambda: client_pair(Authority("another CA"), tmp_path),
        "expired": lambda: client_pair(authority, tmp_path, not_after=yesterday),
    }[who]()
    with MTLSServer(authority, maximum_version=version) as server:
        for _ in range(5):
            with pytest.raises(OSError, match=f"alert ({alert})"):
                get(server, refused)
        assert get(server, pair)["client_subject"] == "CN=Ada"
        assert (server.handshakes, server.requests) == (1, 1)
    assert len(server.handshake_errors) == 5
    assert all(cause in error for error in server.handshake_errors)


def test_optional_takes_clients_without_a_certificate_but_none_with_a_bad_one(authority, pair, tmp_path):
    with MTLSServer(authority, client_auth="optional") as server:
        seen = get(server)
        assert (seen["client_subject"], seen["client_serial"]) == (None, None)
        assert get(server, pair)["client_subject"] == "CN=Ada"
        with pytest.raises(OSError, match="alert unknown ca"):
            get(server, client_pair(Authority("another CA"), tmp_path))


def test_none_never_asks(authority, pair):
    with MTLSServer(authority, client_auth="none") as server:
        assert get(server, pair)["client_subject"] is None


def test_refuses_an_unknown_client_auth(authority):
    with pytest.raises(ValueError, match="one of required, optional, none"):
        MTLSServer(authority, client_auth="maybe")


def test_an_intermediate_authority_serves_and_is_the_only_issuer(authority, pair, tmp_path):
    intermediate = authority.intermediate()
    with MTLSServer(intermediate) as server:
        assert Path(server.cafile).read_bytes() == authority.pem
        assert get(server, client_pair(intermediate, tmp_path, "Eve"))["client_subject"] == "CN=Eve"
        with pytest.raises(OSError, match="alert unknown ca"):
            get(server, pair)


def test_version_limits_hold(authority, pair):
    with MTLSServer(authority, minimum_version=TLS13) as server:
        context = client_context(server.cafile, pair)
        context.maximum_version = TLS12
        with pytest.raises(urllib.error.URLError, match="alert protocol version"):
            urllib.request.urlopen(server.url, timeout=10, context=context)
        assert get(server, pair)["tls_version"] == "TLSv1.3"


def test_clients_that_misbehave_disturb_nobody(server, pair):
    silent = socket.create_connection((server.host, server.port))
    with socket.create_connection((server.host, server.port)) as plain:
        plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
    for _ in range(20):
        with socket.create_connection((server.host, server.port)) as reset:
            reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    started = time.monotonic()
    assert get(server, pair)["client_subject"] == "CN=Ada"
    assert time.monotonic() - started < 5  # no wait for the silent one
    silent.close()
    server.close()
    assert server.handshakes == 1
    gc.collect()  # a socket left open would warn here, and a warning is an error


def test_many_clients_at_once(server, pair):
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda number: get(server, pair, str(number)), range(64)))
    assert [answer["path"] for answer in answers] == [f"/{number}" for number in range(64)]
    assert (server.handshakes, server.requests) == (64, 64)


def test_close_ends_open_connections_and_leaves_nothing(authority, pair):
    threads = set(threading.enumerate())
    server = MTLSServer(authority)
    directory = Path(server.cafile).parent
    idle = socket.create_connection((server.host, server.port))
    alive = http.client.HTTPSConnection(
        server.host, server.port, context=client_context(server.cafile, pair), timeout=10
    )
    alive.request("GET", "/")
    alive.getresponse().read()
    started = time.monotonic()
    server.close()
    server.close()
    assert time.monotonic() - started < 1
    assert set(threading.enumerate()) == threads
    assert not directory.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.host, server.port))
    alive.close()
    idle.close()
    gc.collect()  # a socket left open would warn here, and a warning is an error


def test_files_are_private_and_the_key_is_gone_once_loaded(server):
    directory = Path(server.cafile).parent
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert [path.name for path in directory.iterdir()] == ["ca.pem"]


def test_the_key_is_nobody_elses_while_it_is_a_file(authority, monkeypatch):
    modes = []
    load = ssl.SSLContext.load_cert_chain

    def observe(context: ssl.SSLContext, certfile: Path) -> None:
        modes.append(stat.S_IMODE(certfile.stat().st_mode))
        load(context, certfile)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", observe)
    before = os.umask(0)
    try:
        MTLSServer(authority).close()
    finally:
        os.umask(before)
    assert modes == [0o600]


def test_leaves_no_directory_when_it_cannot_start(authority, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises((TypeError, ValueError)):
        MTLSServer(authority, minimum_version="1.3")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_says_nothing(server, pair, capfd):
    get(server, pair)
    with pytest.raises(OSError, match="alert"):
        get(server)
    server.close()
    assert capfd.readouterr() == ("", "")
