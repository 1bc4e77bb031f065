"""``tokenauth get`` against real servers: what it sends, what it writes, and every way to fail."""

from __future__ import annotations

import json
import os
import socket
import ssl
import stat
import threading
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pexpect
import pytest

from tests.support.command_line import COMMAND, TIMEOUT, environment, error_of, no_tokens, output_of, run
from tests.support.nginx import Nginx
from tokenauth.testing import Authority, MTLSServer, SoftToken

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

#: Of all digits, so that no other number on a terminal is taken for it.
PIN = "8675309174205"


@pytest.fixture(scope="module")
def token() -> Iterator[SoftToken]:
    with SoftToken("cli-get", pin=PIN, key_type="p256") as token:
        yield token


@pytest.fixture(scope="module")
def server(token) -> Iterator[MTLSServer]:
    with MTLSServer(token.ca) as server:
        yield server


def get(token: SoftToken, server: Any, *more: str, **variables: str) -> subprocess.CompletedProcess[str]:
    arguments = ("get", server.url, "-i", f"{token.uri};object=client", "--cacert", server.cafile, *more)
    return run(*arguments, **{"TOKENAUTH_PIN_SOURCE": "env:PIN", "PIN": PIN} | variables)


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(output_of(done))
    return read


@contextmanager
def raw_server(authority: Authority, directory: Path, reply: bytes) -> Iterator[str]:
    """A TLS server that answers one request with these bytes and hangs up; gives its URL."""
    certificate, key = authority.issue_server(["localhost"])
    pair = directory / "pair.pem"
    pair.write_bytes(key + certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair)

    def serve() -> None:
        accepted, _ = listener.accept()
        # A client that refuses the server, or is gone early, is the client's business.
        with accepted, suppress(OSError), context.wrap_socket(accepted, server_side=True) as connection:
            connection.recv(65536)
            connection.sendall(reply)
            connection.unwrap().close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"https://localhost:{listener.getsockname()[1]}/"
        thread.join(TIMEOUT)


def test_it_authenticates(token, server):
    seen = answer(get(token, server))
    assert (seen["client_subject"], seen["method"]) == ("CN=client", "GET")


def test_what_it_sends(token, server):
    seen = answer(get(token, server, "-d", "a=ä"))
    assert (seen["method"], seen["body"]) == ("POST", "a=ä")
    assert answer(get(token, server, "-X", "post", "-d", ""))["method"] == "POST"


def test_it_sends_files_and_stdin(token, server, tmp_path):
    file = tmp_path / "data"
    file.write_bytes(b"line 1\nline 2\n")
    assert answer(get(token, server, "-d", f"@{file}"))["body"] == "line 1\nline 2\n"
    assert answer(get(token, server, "-d", "@-", input="from stdin"))["body"] == "from stdin"
    assert "No such file" in error_of(get(token, server, "-d", f"@{tmp_path}/none"), 1)


def test_what_v_tells(token, server):
    done = get(token, server, "-v", "-H", "X-One: 1", "-H", "Authorization: Bearer secret")
    assert answer(done)
    for told in (
        "* TLSv1.3, TLS_",
        f"by module {token.module}",
        "authenticated as CN=client",
        "> GET /",
        "> X-One: 1",
        "> Authorization: <hidden>",
        "< 200 OK",
    ):
        assert told in done.stderr


def test_no_output_shows_the_pin(token, server):
    done = get(token, server, "-v", "-v")
    assert "Starting new HTTPS connection" in done.stderr
    assert PIN not in done.stdout + done.stderr


@pytest.fixture
def pin_file(tmp_path: Path) -> Path:
    path = tmp_path / "pin"
    path.touch(mode=0o600)
    path.write_text(PIN + "\n")
    return path


def test_who_gives_the_pin(token, server, pin_file):
    nobody = {"TOKENAUTH_PIN_SOURCE": "env:NOBODY"}
    assert answer(get(token, server, "--pin-source", f"file:{pin_file}", **nobody))
    in_uri = f"{token.uri};object=client?pin-source=file:{pin_file}"
    assert answer(get(token, server, "-i", in_uri, **nobody))
    refused = error_of(get(token, server, "-i", in_uri, "--pin-source", "env:NOBODY"), 4)
    assert "environment variable 'NOBODY' is not set" in refused


def test_the_pin_comes_from_a_descriptor(token, server):
    assert answer(get(token, server, "--pin-source", "fd:0", input=f"{PIN}\n"))
    done = get(token, server, "--pin-source", "fd:0", "-d", "@-", input=f"{PIN}\n")
    assert "both read stdin" in error_of(done, 2)


def test_a_missing_pin(token, server):
    assert "no terminal to ask for the PIN" in error_of(get(token, server, TOKENAUTH_PIN_SOURCE=""), 4)


def test_a_wrong_pin():
    with SoftToken("cli-wrong") as token, MTLSServer(token.ca) as server:
        line = error_of(get(token, server, "-v", PIN="12345678"), 4)
        assert line.startswith("token 'cli-wrong': the PIN is wrong (CKR_PIN_INCORRECT); ")
        assert "12345678" not in line
        # One try was spent, and the next PIN is right.
        assert answer(get(token, server, PIN=token.pin))


@pytest.mark.parametrize("where", ["option", "variable"])
def test_a_pin_in_place_of_its_source_is_not_shown(token, server, where):
    if where == "option":
        done = get(token, server, "--pin-source", PIN)
    else:
        done = get(token, server, TOKENAUTH_PIN_SOURCE=PIN)
    line = error_of(done, 2)
    assert "is none of env:VAR" in line
    assert PIN not in line


def spawn(token: SoftToken, server: MTLSServer, *more: str) -> pexpect.spawn:
    arguments = [*COMMAND[1:], "get", server.url, "-i", token.uri, "--cacert", server.cafile, *more]
    return pexpect.spawn(COMMAND[0], arguments, env=environment(), timeout=TIMEOUT, encoding="utf-8")


def test_the_terminal_is_asked(token, server):
    terminal = spawn(token, server, "-vv")
    terminal.expect(r"PIN for token 'cli-get' \(serial [0-9a-f]+\) to authenticate to localhost: ")
    asked = str(terminal.before)
    terminal.sendline(PIN)
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
    assert '"client_subject": "CN=client"' in terminal.before
    assert PIN not in asked + terminal.before


def test_the_arguments_hold_no_pin(token, server):
    terminal = spawn(token, server)
    terminal.expect("PIN for token")
    terminal.sendline(PIN)
    assert PIN.encode() not in Path(f"/proc/{terminal.pid}/cmdline").read_bytes()
    terminal.expect(pexpect.EOF)


def test_interrupted_at_the_prompt(token, server, tmp_path):
    terminal = spawn(token, server, "-o", str(tmp_path / "out"))
    terminal.expect("PIN for token")
    terminal.sendintr()
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 130
    assert "Traceback" not in terminal.before
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_when_all_is_there(token, server, tmp_path):
    target, link = tmp_path / "out", tmp_path / "link"
    target.write_text("before")
    target.chmod(0o640)
    link.symlink_to(target)
    assert output_of(get(token, server, "-o", str(link))) == ""
    assert json.loads(target.read_text())["method"] == "GET"
    assert link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert output_of(get(token, server, "-o", "/dev/null")) == ""
    assert Path("/dev/null").is_char_device()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "out"]


def test_a_file_that_can_not_be_written(token, server, tmp_path):
    assert "No such file or directory" in error_of(get(token, server, "-o", str(tmp_path / "none" / "out")), 1)


def test_half_a_body_replaces_nothing(token, tmp_path):
    target = tmp_path / "out"
    target.write_text("before")
    with raw_server(token.ca, tmp_path, b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf") as url:
        cafile = tmp_path / "ca.pem"
        cafile.write_bytes(token.ca.pem)
        done = run("get", url, "--cacert", str(cafile), "-o", str(target))
    assert "localhost" in error_of(done, 5)
    assert target.read_text() == "before"
    assert not list(tmp_path.glob(".out*"))


def test_large_bodies_arrive_whole(token, tmp_path):
    body = os.urandom(3_000_000)
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    (tmp_path / "ca.pem").write_bytes(token.ca.pem)
    with raw_server(token.ca, tmp_path, reply) as url:
        output_of(run("get", url, "--cacert", str(tmp_path / "ca.pem"), "-o", str(tmp_path / "out")))
    assert (tmp_path / "out").read_bytes() == body


@pytest.mark.parametrize(("status", "code"), [("404 Not Found", 1), ("503 Busy", 1), ("302 Found", 0)])
def test_status(token, tmp_path, status, code):
    reply = f"HTTP/1.1 {status}\r\nLocation: https://other/\r\nContent-Length: 4\r\n\r\nbody".encode()
    (tmp_path / "ca.pem").write_bytes(token.ca.pem)
    with raw_server(token.ca, tmp_path, reply) as url:
        done = run("get", url, "--cacert", str(tmp_path / "ca.pem"))
    assert done.stdout == "body"
    if code:
        assert error_of(done, code).endswith(f"answered {status}")
    else:
        assert done.returncode == 0
        assert "redirects to https://other/, which is not followed" in done.stderr


def test_ambiguous_and_missing_identities(token, server):
    with SoftToken("cli-two", authority=token.ca) as two:
        two.add_identity("second")
        line = error_of(get(token, server, "-i", two.uri), 3)
        assert line.startswith("2 identities suit localhost; name one of: pkcs11:token=cli-two;")
    assert "no token matches" in error_of(get(token, server, "-i", "nobody"), 3)


def test_no_token(token, server, tmp_path):
    assert "no token matches" in error_of(get(token, server, "-i", "pkcs11:", **no_tokens(tmp_path)), 3)


def test_an_expired_certificate(token, server):
    old = token.add_identity("old", not_after=datetime.now(UTC) - timedelta(days=1))
    assert "its certificate is expired on" in error_of(get(token, server, "-i", old.uri), 3)


def test_a_file_that_is_no_module(token, server, tmp_path):
    (tmp_path / "module.so").write_text("")
    assert "can not be loaded" in error_of(get(token, server, "--module", str(tmp_path / "module.so")), 3)
    assert "No such file" in error_of(get(token, server, "--module", str(tmp_path / "none.so")), 3)


def test_an_untrusted_server(token, tmp_path):
    other = tmp_path / "other.pem"
    other.write_bytes(Authority().pem)
    with MTLSServer(token.ca) as server:
        line = error_of(get(token, server, "--cacert", str(other)), 5)
    assert "is not trusted: " in line
    assert line.endswith("with --cacert")


def test_a_server_of_another_name(token, tmp_path):
    (tmp_path / "ca.pem").write_bytes(token.ca.pem)
    with raw_server(token.ca, tmp_path, b"") as url:
        address = url.replace("localhost", "127.0.0.1")
        line = error_of(run("get", address, "--cacert", str(tmp_path / "ca.pem")), 5)
    assert "mismatch" in line
    assert line.endswith("use the server's name in the URL, not its address")


def test_a_server_that_refuses_the_certificate(token):
    with MTLSServer(Authority()) as server:
        line = error_of(get(token, server), 5)
    assert line.startswith("token 'cli-get': the server does not trust the issuer of your certificate")


def test_nginx_refuses_the_certificate(token, tmp_path):
    # It names a CA of the same name as the token's, with another key.
    with Nginx(Authority(), tmp_path) as server:
        done = get(token, server)
    assert "<title>400 The SSL certificate error</title>" in done.stdout
    assert "answered 400 because it does not accept the certificate; name an identity" in error_of(done, 5)


def test_nginx_accepts_only_certificates_of_others(token, tmp_path):
    with Nginx(Authority("other"), tmp_path) as server:
        line = error_of(get(token, server), 3)
    assert "the server accepts no certificate issued by CN=tokenauth test CA" in line


def test_nginx_accepts_it(token, tmp_path):
    with Nginx(token.ca, tmp_path) as server:
        assert Nginx.parse(output_of(get(token, server)).encode())["ssl_client_s_dn"] == "CN=client"


def test_an_unreachable_server(token):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert "accepts no connections" in error_of(run("get", f"https://localhost:{port}/"), 5)


def test_a_server_that_is_silent():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = run("get", f"https://localhost:{listener.getsockname()[1]}/", "--timeout", "0.3")
    assert "did not answer in time" in error_of(done, 5)


def test_a_server_that_does_not_speak_tls():
    def serve() -> None:
        with listener.accept()[0] as accepted:
            accepted.recv(65536)
            accepted.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        done = run("get", f"https://localhost:{listener.getsockname()[1]}/")
        thread.join(TIMEOUT)
    assert "does not speak TLS" in error_of(done, 5)


@pytest.mark.parametrize(
    "arguments",
    [
        ("http://localhost/",),
        ("localhost",),
        ("https://",),
        ("https://localhost:99999/",),
        ("https://[::1/",),
        ("https://localhost/", "-H", "no colon"),
        ("https://localhost/", "-H", "bad name: x"),
        ("https://localhost/", "-H", "X: a\r\nY: b"),
        ("https://localhost/", "-H", "X: \N{EURO SIGN}"),
        ("https://localhost/", "-X", "GET IT"),
        ("https://localhost/", "--timeout", "0"),
        ("https://localhost/", "--cacert", "/nonexistent"),
        ("https://localhost/", "--cacert", "/dev/null"),
        ("https://localhost/", "-i", "pkcs11:nonsense"),
        ("https://localhost/", "-i", "pkcs11:?pin-source=|cat"),
        ("https://localhost/", "--pin", "1234"),
        (),
    ],
)
def test_wrong_usage(arguments):
    error_of(run("get", *arguments), 2)
