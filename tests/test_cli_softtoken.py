"""``tokenauth softtoken``: made, used, replaced and removed, as a shell does."""

from __future__ import annotations

import json
import shlex
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.command_line import COMMAND, TIMEOUT, environment, error_of, output_of, run
from tokenauth.cli.commands import softtoken
from tokenauth.provisioning.keys import KEY_TYPES

if TYPE_CHECKING:
    from pathlib import Path

#: Serves one client with the server's key in the token, and tells it its own name.
SERVER = """
import socket, ssl, sys, tokenauth
from tokenauth.pin import File
context = tokenauth.create_context("pkcs11:object=server", pin=File(sys.argv[2]), server_side=True)
context.verify_mode = ssl.CERT_REQUIRED
context.load_verify_locations(sys.argv[1])
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    accepted, _ = listener.accept()
    with context.wrap_socket(accepted, server_side=True) as connection:
        connection.recv(65536)
        name = dict(pair for [pair] in connection.getpeercert()["subject"])["commonName"].encode()
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(name), name))
"""


def exports(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    words = [shlex.split(line) for line in output_of(done).splitlines()]
    assert all(word[0] == "export" for word in words)
    return dict(word[1].split("=", 1) for word in words)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    directory = tmp_path_factory.mktemp("soft") / "a b's token"
    return directory, exports(run("softtoken", "init", str(directory)))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_its_owner_reads_it(made):
    directory, _ = made
    assert mode(directory) == 0o700
    assert mode(directory / "pin") == 0o600
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]


def test_what_it_prints_makes_the_shell_find_it(made):
    directory, variables = made
    assert set(variables) == {"SOFTHSM2_CONF", "TOKENAUTH_MODULE", "TOKENAUTH_PIN_SOURCE"}
    assert exports(run("softtoken", "path", str(directory))) == variables
    [token] = json.loads(output_of(run("list", "--json", **variables)))
    assert token["label"] == "dev"
    assert [(i["label"], i["purposes"]) for i in token["identities"]] in (
        [("client", ["tls-client"]), ("server", ["tls-server"])],
        [("server", ["tls-server"]), ("client", ["tls-client"])],
    )


def test_client_and_server_authenticate_each_other(made):
    directory, variables = made
    command = [sys.executable, "-c", SERVER, str(directory / "ca.pem"), str(directory / "pin")]
    with subprocess.Popen(command, env=environment(**variables), stdout=subprocess.PIPE, text=True) as server:
        watchdog = threading.Timer(30, server.kill)
        watchdog.start()
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            done = run("get", f"https://localhost:{port}/", "--cacert", str(directory / "ca.pem"), **variables)
        finally:
            watchdog.cancel()
            server.kill()
    assert output_of(done) == "client"


def test_it_is_not_overwritten_unless_told(tmp_path):
    directory = tmp_path / "token"
    output_of(run("softtoken", "init", str(directory), "--label", "first"))
    before = (directory / "pin").read_text()
    assert "holds a token already" in error_of(run("softtoken", "init", str(directory)), 1)
    assert (directory / "pin").read_text() == before
    variables = exports(run("softtoken", "init", str(directory), "--label", "second", "--force"))
    assert [token["label"] for token in json.loads(output_of(run("list", "--json", **variables)))] == ["second"]
    assert run("softtoken", "remove", str(directory)).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_an_empty_directory_is_used(tmp_path):
    assert exports(run("softtoken", "init", str(tmp_path)))["SOFTHSM2_CONF"] == str(tmp_path / "softhsm2.conf")


def test_the_default_is_in_the_data_directory(tmp_path):
    variables = exports(run("softtoken", "init", XDG_DATA_HOME=str(tmp_path)))
    assert variables["SOFTHSM2_CONF"] == str(tmp_path / "tokenauth" / "softtoken" / "softhsm2.conf")
    assert run("softtoken", "remove", XDG_DATA_HOME=str(tmp_path)).returncode == 0


@pytest.mark.parametrize("arguments", [("remove",), ("init", "--force"), ("init",)])
def test_other_directories_are_left_alone(tmp_path, arguments):
    (tmp_path / "precious").write_text("x")
    verb, *options = arguments
    assert "is left alone" in error_of(run("softtoken", verb, str(tmp_path), *options), 1)
    assert (tmp_path / "precious").read_text() == "x"


def test_files_that_were_added_are_not_removed(tmp_path):
    directory = tmp_path / "token"
    output_of(run("softtoken", "init", str(directory)))
    (directory / "precious").write_text("x")
    assert "also holds 'precious'" in error_of(run("softtoken", "remove", str(directory)), 1)
    assert "also holds 'precious'" in error_of(run("softtoken", "init", str(directory), "--force"), 1)


def test_nothing_is_left_of_a_failure(tmp_path):
    (tmp_path / "temporary").mkdir()
    # No file may grow: everything that is written fails.
    command = ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *COMMAND, "softtoken", "init", str(tmp_path / "token")]
    variables = environment(TMPDIR=str(tmp_path / "temporary"))
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    error_of(done, 1)
    assert [path.name for path in tmp_path.rglob("*")] == ["temporary"]


@pytest.mark.parametrize("name", ["a#b", "a=b"])
def test_a_path_that_softhsm_can_not_use(tmp_path, name):
    assert "SoftHSM can not use the directory" in error_of(run("softtoken", "init", str(tmp_path / name)), 1)


def test_a_parent_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    error_of(run("softtoken", "init", str(tmp_path / "file" / "token")), 1)


@pytest.mark.parametrize("label", ["", "x" * 33, "Ä" * 17, "a\nb"])
def test_a_bad_label_is_wrong_usage(tmp_path, label):
    error_of(run("softtoken", "init", str(tmp_path / "t"), "--label", label), 2)
    assert list(tmp_path.iterdir()) == []


def test_path_of_nothing(tmp_path):
    assert "softtoken init" in error_of(run("softtoken", "path", str(tmp_path)), 1)


def test_key_types_are_those_that_tokens_make():
    assert tuple(softtoken._KEY_TYPES) == KEY_TYPES
