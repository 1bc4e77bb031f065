from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from cryptography import x509

from tests.support import client_context, client_pair, read_to_end
from tests.support.nginx import Nginx, NginxOptions
from tests.support.programs import openssl, require
from tokenauth.testing.authority import Authority

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def stranger() -> Authority:
    return Authority("another CA")


@pytest.fixture(scope="module")
def pair(authority, tmp_path_factory) -> Path:
    return client_pair(authority, tmp_path_factory.mktemp("client"), "Ada")


def get(nginx: Nginx, pair: Path | None = None, context: ssl.SSLContext | None = None) -> dict[str, str]:
    context = context or client_context(nginx.cafile, pair)
    with urllib.request.urlopen(nginx.url, timeout=10, context=context) as answer:
        return nginx.parse(answer.read())


def status_of_refusal(nginx: Nginx, pair: Path | None) -> int:
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(nginx, pair)
    with refused.value as answer:
        return answer.code


def s_client(nginx: Nginx, *options: str) -> str:
    command = ["s_client", "-connect", f"127.0.0.1:{nginx.port}", "-CAfile", nginx.cafile, *options]
    return openssl(*command, input=b"").decode()


@pytest.mark.parametrize(("tls", "other"), [("TLSv1.2", TLS13), ("TLSv1.3", TLS12)])
def test_speaks_the_one_version_and_tells_what_it_saw(tmp_path, authority, pair, tls, other):
    with Nginx(authority, tmp_path, NginxOptions(tls=tls)) as nginx:
        seen = get(nginx, pair)
        serial = x509.load_pem_x509_certificate(pair.read_bytes()).serial_number
        assert int(seen.pop("ssl_client_serial"), 16) == serial
        assert seen.pop("ssl_cipher") in {cipher["name"] for cipher in ssl.create_default_context().get_ciphers()}
        assert seen == {
            "ssl_client_s_dn": "CN=Ada",
            "ssl_client_verify": "SUCCESS",
            "ssl_protocol": tls,
            "ssl_session_reused": ".",
            "connection_requests": "1",
        }
        context = client_context(nginx.cafile, pair)
        context.minimum_version = context.maximum_version = other
        with pytest.raises(urllib.error.URLError, match="alert protocol version"):
            get(nginx, context=context)


@pytest.mark.parametrize("names_sent", [True, False])
@pytest.mark.parametrize(
    ("verify", "with_none", "with_good", "with_bad"),
    [
        ("on", 400, "SUCCESS", 400),
        ("optional", "NONE", "SUCCESS", 400),
        ("optional_no_ca", "NONE", "SUCCESS", "FAILED:unable to get local issuer certificate"),
        ("off", "NONE", "NONE", "NONE"),
    ],
)
def test_verifies_clients(tmp_path, authority, stranger, pair, names_sent, verify, with_none, with_good, with_bad):
    bad = client_pair(stranger, tmp_path, "bad")
    trust = {"client_ca" if names_sent else "trusted_ca": authority.pem}
    with Nginx(authority, tmp_path, NginxOptions(verify=verify, **trust)) as nginx:
        for presented, expected in ((None, with_none), (pair, with_good), (bad, with_bad)):
            if expected == 400:
                assert status_of_refusal(nginx, presented) == 400
            else:
                # OpenSSL 3.0 names the first cause it met, and a leaf without its issuer has two.
                assert get(nginx, presented)["ssl_client_verify"].startswith(str(expected).partition(":")[0])


def test_names_the_authorities_that_it_is_told_to_name(tmp_path, authority, stranger, pair):
    (tmp_path / "named").mkdir()
    (tmp_path / "unnamed").mkdir()
    with Nginx(authority, tmp_path / "named", NginxOptions(client_ca=stranger.pem, trusted_ca=authority.pem)) as nginx:
        told = s_client(nginx)
        assert "Acceptable client certificate CA names" in told
        assert "another CA" in told.partition("Acceptable client certificate CA names")[2].splitlines()[1]
        assert get(nginx, pair)["ssl_client_verify"] == "SUCCESS"
    with Nginx(authority, tmp_path / "unnamed", NginxOptions(trusted_ca=authority.pem)) as nginx:
        told = s_client(nginx)
        assert "No client certificate CA names sent" in told
        assert "Requested Signature Algorithms" in told  # it asked for a certificate all the same


def test_takes_a_chain_through_an_intermediate(tmp_path, authority):
    pair = client_pair(authority.intermediate(), tmp_path, "Eve")
    options = NginxOptions(client_ca=authority.pem)
    with Nginx(authority, tmp_path, options) as nginx:
        # nginx's ssl_verify_depth is 1 by default: a leaf, one intermediate, the root.
        assert get(nginx, pair)["ssl_client_s_dn"] == "CN=Eve"


def test_serves_rsa_and_ec_certificates_together(tmp_path, authority, pair):
    names = ["localhost", "127.0.0.1"]
    pairs = tuple(authority.issue_server(names, key_type) for key_type in ("rsa", "ec"))
    with Nginx(authority, tmp_path, NginxOptions(server_pairs=pairs)) as nginx:
        # The second name is OpenSSL 3.0's.
        for signature, key_type in (("rsa_pss_rsae_sha256", "RSA-PSS"), ("ecdsa_secp256r1_sha256", "ECDSA")):
            told = s_client(nginx, "-tls1_3", "-sigalgs", signature, "-verify_return_error")
            assert re.search(f"Peer signature type: ({signature}|{key_type})", told)
        context = client_context(nginx.cafile, pair)
        context.maximum_version = TLS12
        for ciphers, key_type in (("ECDHE+aRSA+AESGCM", "RSA"), ("ECDHE+ECDSA+AESGCM", "ECDSA")):
            context.set_ciphers(ciphers)
            assert f"-{key_type}-" in get(nginx, context=context)["ssl_cipher"]


@pytest.mark.parametrize(("curve", "key"), [("X25519", "X25519"), ("P-384", "ECDH, P-384|ECDH, secp384r1")])
def test_uses_the_curve(tmp_path, authority, curve, key):
    with Nginx(authority, tmp_path, NginxOptions(ecdh_curve=curve)) as nginx:
        line = next(
            line for line in s_client(nginx).splitlines() if line.startswith(("Server Temp Key", "Peer Temp Key"))
        )
        assert any(name in line for name in key.split("|"))


def request_twice(nginx: Nginx, pair: Path) -> list[str]:
    """`ssl_session_reused` of two connections, the second of which offers the session of the first."""
    context = client_context(nginx.cafile, pair)
    session, reused = None, []
    for _ in range(2):
        with (
            socket.create_connection(("127.0.0.1", nginx.port), 10) as tcp,
            context.wrap_socket(tcp, server_hostname="localhost", session=session) as tls,
        ):
            tls.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
            answer = read_to_end(tls)
            seen = nginx.parse(answer.partition(b"\r\n\r\n")[2])
            assert seen["ssl_client_s_dn"] == "CN=Ada"
            reused.append(seen["ssl_session_reused"])
            session = tls.session
    return reused


@pytest.mark.parametrize("tls", ["TLSv1.2", "TLSv1.3"])
@pytest.mark.parametrize(
    ("tickets", "cache", "second"), [(False, False, "."), (True, False, "r"), (False, True, "r"), (True, True, "r")]
)
def test_resumes_sessions_only_where_it_is_told_to(tmp_path, authority, pair, tls, tickets, cache, second):
    options = NginxOptions(tls=tls, session_tickets=tickets, session_cache=cache)
    with Nginx(authority, tmp_path, options) as nginx:
        assert request_twice(nginx, pair) == [".", second]


@pytest.mark.parametrize(("keepalive", "counts"), [(True, ["1", "2"]), (False, ["1", "1"])])
def test_keeps_connections_alive_or_not(tmp_path, authority, pair, keepalive, counts):
    with Nginx(authority, tmp_path, NginxOptions(keepalive=keepalive)) as nginx:
        context = client_context(nginx.cafile, pair)
        connection = http.client.HTTPSConnection("127.0.0.1", nginx.port, context=context, timeout=10)
        seen = []
        for _ in counts:
            connection.request("GET", "/")
            seen.append(nginx.parse(connection.getresponse().read())["connection_requests"])
        connection.close()
        assert seen == counts


def test_takes_a_large_body(tmp_path, authority, pair):
    with Nginx(authority, tmp_path) as nginx:
        context = client_context(nginx.cafile, pair)
        with urllib.request.urlopen(nginx.url, b"x" * 500_000, 10, context=context) as answer:
            assert answer.status == 200


def test_logs_why_a_client_was_refused(tmp_path, authority, stranger):
    bad = client_pair(stranger, tmp_path, "bad")
    with Nginx(authority, tmp_path) as nginx:
        assert status_of_refusal(nginx, bad) == 400
        assert "client SSL certificate verify error" in nginx.log()


def test_keys_are_private_files(tmp_path, authority):
    before = os.umask(0)
    try:
        with Nginx(authority, tmp_path):
            assert (tmp_path / "server-0.key").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_stops_and_leaves_no_process(tmp_path, authority):
    with Nginx(authority, tmp_path) as nginx:
        processes = [nginx.pid, *children(nginx.pid)]
        assert len(processes) == 2  # the master and a worker
    nginx.close()
    assert not any(map(is_running, processes))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", nginx.port))


def test_tells_why_it_does_not_start(tmp_path, authority):
    with pytest.raises(RuntimeError, match='invalid value "TLSv9"'):
        Nginx(authority, tmp_path, NginxOptions(tls="TLSv9"))


def test_dies_with_a_test_run_that_is_killed(tmp_path):
    require("setpriv")
    script = (
        "import pathlib, sys, time\n"
        "from tests.support.nginx import Nginx\n"
        "from tokenauth.testing.authority import Authority\n"
        "print(Nginx(Authority(), pathlib.Path(sys.argv[1])).pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], env=environment, stdout=subprocess.PIPE, text=True
    )
    with run:
        assert run.stdout is not None
        master = int(run.stdout.readline())
        processes = [master, *children(master)]
        assert all(map(is_running, processes))
        run.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while any(map(is_running, processes)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(is_running, processes))


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_openssl_failing_tells_its_words():
    with pytest.raises(AssertionError, match=r"(?s)x509 -noout exited with 1.*unable to load certificate|Could not"):
        openssl("x509", "-noout", input=b"no certificate")


def test_openssl_takes_input_and_gives_output():
    assert len(openssl("dgst", "-sha256", "-binary", input=b"")) == 32


def test_a_missing_program_fails_the_test():
    with pytest.raises(pytest.fail.Exception, match="'no-such-program' is not installed"):
        require("no-such-program")
    assert os.access(require("nginx"), os.X_OK)
