"""PIN files, modules and p11-kit's files that are broken, and any text: at the command line and the functions."""

from __future__ import annotations

import _json
import contextlib
import io
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenauth
import tokenauth.pin
from tests.conftest import log_out
from tests.support import command_line
from tokenauth.cli import root
from tokenauth.pin import sources
from tokenauth.pkcs11.discovery import SYSTEMS, System
from tokenauth.testing import MTLSServer, SoftToken

pytestmark = pytest.mark.xdist_group("broken_files")


@pytest.fixture(scope="module")
def token():
    with SoftToken("intact") as made:
        yield made


@pytest.fixture(scope="module")
def server(token):
    with MTLSServer(token.ca) as running:
        yield running


@pytest.fixture
def command(token, capsys, monkeypatch):
    """Run the command line here: its exit code, stdout and stderr. It never blames itself."""
    log_out(token)
    monkeypatch.setenv("TOKENAUTH_MODULE", token.module)
    monkeypatch.setenv("TEST_PIN", token.pin)
    monkeypatch.setenv("TOKENAUTH_PIN_SOURCE", "env:TEST_PIN")
    return lambda *arguments: command_line.run_here(capsys, *arguments)


# PIN files.


def open_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


#: What makes a PIN file that gives no PIN, and what is said of it.
PIN_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (lambda _path: None, "No such file"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "blank line": (lambda path: path.write_bytes(b"\n1234\n"), "is empty"),
    "binary": (lambda path: path.write_bytes(bytes(range(128, 256)) * 4), "is not UTF-8"),
    "UTF-16": (lambda path: path.write_text("1234\n", "utf-16"), "is not UTF-8"),
    "NULs": (lambda path: path.write_bytes(bytes(100)), "NUL"),
    "NUL inside": (lambda path: path.write_bytes(b"12\x0034\n"), "NUL"),
    "carriage return": (lambda path: path.write_bytes(b"\r\n"), "is empty"),
    "huge": (lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 1 << 40), "larger than 4096"),
    "endless": (lambda path: path.symlink_to("/dev/zero"), "larger than 4096"),
    "nothing": (lambda path: path.symlink_to(os.devnull), "is empty"),
    "directory": (Path.mkdir, "directory"),
    "loop": (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    "socket": (open_socket, "No such device or address"),
    "FIFO": (os.mkfifo, "nobody wrote a PIN to it in time"),
}


@pytest.fixture(params=sorted(PIN_FILES))
def pin_file(request, tmp_path, monkeypatch):
    """Such a file, and what is said of it."""
    monkeypatch.setattr(sources, "_PATIENCE", 0.2)
    make, fault = PIN_FILES[request.param]
    path = tmp_path / "pin"
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - it is no place in a file system
    make(path)
    for descriptor in set(os.listdir("/proc/self/fd")) - before:  # noqa: PTH208
        with contextlib.suppress(OSError):
            os.close(int(descriptor))
    return path, fault


def test_a_pin_file_without_a_pin(command, token, server, pin_file):
    path, fault = pin_file
    uri = f"{token.uri};object=client"
    arguments = ("get", server.url, "--cacert", server.cafile, "-i", uri, "--pin-source", f"file:{path}")
    code, output, errors = command(*arguments)
    assert (code, output) == (4, "")
    assert fault in errors
    assert errors.splitlines()[-1].startswith("tokenauth: error: ")
    key = tokenauth.identity(uri, pin=tokenauth.pin.File(path), module=token.module).private_key
    with pytest.raises(tokenauth.PinRequired, match=re.escape(fault)):
        key.sign(b"", ec.ECDSA(hashes.SHA256()))


def test_a_fifo_that_somebody_writes_to_in_time(token, tmp_path):
    path = tmp_path / "pin"
    os.mkfifo(path, 0o600)
    key = tokenauth.identity(f"{token.uri};object=client", pin=tokenauth.pin.File(path), module=token.module)

    def write() -> None:
        time.sleep(0.1)
        with path.open("w") as pipe:
            pipe.write(token.pin[:3])
            pipe.flush()
            time.sleep(0.1)
            pipe.write(token.pin[3:] + "\n")

    log_out(token)
    writer = threading.Thread(target=write)
    writer.start()
    key.private_key.sign(b"", ec.ECDSA(hashes.SHA256()))
    writer.join(10)


def test_a_fifo_whose_writer_says_nothing(token, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_PATIENCE", 0.2)
    path = tmp_path / "pin"
    os.mkfifo(path, 0o600)
    log_out(token)
    key = tokenauth.identity(f"{token.uri};object=client", pin=tokenauth.pin.File(path), module=token.module)
    writer = os.open(path, os.O_RDWR)
    try:
        with pytest.raises(tokenauth.PinRequired, match="nobody wrote a PIN to it in time"):
            key.private_key.sign(b"", ec.ECDSA(hashes.SHA256()))
    finally:
        os.close(writer)


# Modules, and the files that name them.

_ELF_MACHINE = 18  # where an ELF header has the architecture: two bytes
_S390 = b"\x16\x00"


def other_architecture(path: Path, module: str) -> None:
    library = bytearray(Path(module).read_bytes())
    library[_ELF_MACHINE : _ELF_MACHINE + 2] = _S390
    path.write_bytes(library)


#: What makes a file that is no module, given SoftHSM's path; and what is said of it.
LIBRARIES: dict[str, tuple[Callable[[Path, str], object], str]] = {
    "text": (lambda path, _: path.write_text("no library"), "can not be loaded"),
    "empty": (lambda path, _: path.touch(), "can not be loaded"),
    "header": (lambda path, module: path.write_bytes(Path(module).read_bytes()[:64]), "can not be loaded"),
    "architecture": (other_architecture, "can not be loaded"),
    "other": (lambda path, _: path.symlink_to(_json.__file__), "it has no C_GetFunctionList"),
}


@pytest.fixture(params=sorted(LIBRARIES))
def library(request, token, tmp_path):
    make, fault = LIBRARIES[request.param]
    path = tmp_path / "library.so"
    make(path, token.module)
    return str(path), fault


def test_a_library_that_is_no_module(command, token, library, monkeypatch):
    path, fault = library
    code, output, errors = command("list", "--json", "--module", path)
    assert (code, output.strip()) == (3, "[]")
    assert fault in errors
    code, output, _ = command("doctor", "--json", "--module", path)
    assert code == 1
    assert fault in output
    monkeypatch.setenv("TOKENAUTH_MODULE", f"{path}:{token.module}")
    code, output, errors = command("list", token.uri, "--json")
    assert (code, len(json.loads(output))) == (0, 1)
    assert fault in errors
    assert command("show", f"{token.uri};object=client")[0] == 0


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (Path.mkdir, "which is a directory"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (lambda _path: None, "No such file"),
    ],
    ids=["directory", "loop", "absent"],
)
def test_a_path_without_a_library(command, tmp_path, make, fault, monkeypatch):
    path = tmp_path / "library.so"
    make(path)
    for arguments, code in ((("list", "--module", str(path)), 3), (("doctor", "--module", str(path)), 1)):
        assert command(*arguments)[0] == code
    monkeypatch.setenv("TOKENAUTH_MODULE", str(path))
    code, output, errors = command("list")
    assert (code, output) == (3, "")
    assert f"{str(path)!r}" in errors
    assert fault in errors


def test_a_library_that_would_end_the_program(token, tmp_path):
    """One that is cut short is SIGBUS to whoever loads it; in a process of its own it is an error."""
    path = tmp_path / "library.so"
    path.write_bytes(Path(token.module).read_bytes()[:700])
    done = command_line.run("list", TOKENAUTH_MODULE=str(path), TOKENAUTH_ISOLATE="1")
    assert done.returncode == 3, done.stderr
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr


def large(path: Path) -> None:
    path.write_bytes(b"#" * (2 << 20))


#: What makes a file of p11-kit's that is of no use.
MODULE_FILES: dict[str, Callable[[Path], object]] = {
    "binary": lambda path: path.write_bytes(bytes(range(256))),
    "large": large,
    "loop": lambda path: path.symlink_to(path),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "fifo": os.mkfifo,
    "socket": open_socket,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "rubbish": lambda path: path.write_text("module: /x.so\nrubbish\n"),
    "no value": lambda path: path.write_text("module\n"),
    "names a URL": lambda path: path.write_text("module: https://localhost/x.so\npriority: high\n"),
    "absent": lambda path: path.write_text("module: /nonexistent/x.so\n"),
    "names a directory": lambda path: path.write_text("module: /\n"),
    "names itself": lambda path: path.write_text(f"module: {path}\n"),
    "names a NUL": lambda path: path.write_bytes(b"module: /x\0y.so\n"),
}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """The directory of p11-kit's files, on a machine that has no modules otherwise."""
    directory = tmp_path / "modules"
    directory.mkdir()
    system = System((str(tmp_path / "pkcs11.conf"),), (str(directory),), "", (str(tmp_path),), (str(tmp_path),), ())
    monkeypatch.setitem(SYSTEMS, sys.platform, system)
    return directory


@pytest.fixture
def all_modules(command, monkeypatch):
    monkeypatch.delenv("TOKENAUTH_MODULE")
    return command


def test_files_of_p11_kit_that_are_of_no_use(machine, all_modules, token):
    for name, make in MODULE_FILES.items():
        make(machine / f"{name}.module")
    for name, (make_library, _) in LIBRARIES.items():
        make_library(machine.parent / f"{name}.so", token.module)
        (machine / f"library {name}.module").write_text(f"module: {name}.so\n")
    (machine / "directory loop").symlink_to(machine)
    (machine / "good.module").write_text(f"module: {token.module}\n")
    code, output, errors = all_modules("list", token.uri, "--json")
    assert (code, len(json.loads(output))) == (0, 1)
    for fault in [*MODULE_FILES, *(f"{name}.so" for name in LIBRARIES)]:
        assert fault in errors
    code, output, _ = all_modules("doctor", "--json")
    found = [finding for finding in json.loads(output) if finding["check"] == "module"]
    assert code == 1
    assert [finding["status"] for finding in found].count("ok") == 1
    assert len(found) == 1 + len(MODULE_FILES) + len(LIBRARIES)


def test_no_use_of_p11_kit_at_all(machine, all_modules):
    (machine / "only.module").write_bytes(b"\xff")
    assert all_modules("doctor")[0] == 1
    for command in (["list"], ["show", "pkcs11:"]):
        code, _, errors = all_modules(*command)
        assert code == 3
        assert "tokenauth: error: no PKCS#11 module is installed" in errors


def test_the_proxy_of_p11_kit(token):
    """It is named by nobody but its own user, and shows what p11-kit is told to."""
    proxy = next(Path("/usr/lib").glob("*/p11-kit-proxy.so"), None)
    assert proxy is not None, "p11-kit is not installed"
    done = command_line.run("list", "--json", "--module", str(proxy))
    assert done.returncode in {0, 3}, done.stderr
    assert "Traceback" not in done.stderr
    json.loads(done.stdout)


ANY_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)


@settings(deadline=None, max_examples=100)
@given(
    ANY_TEXT | st.text("pkcs11:;?&=%token-object id0123456789abcdef", max_size=60),
    st.sampled_from(["list", "show", "doctor --module", "get https://localhost:1/ -i"]),
)
def test_any_text_on_the_command_line(token, text, words):
    """As a URI, a token's label or a module: an exit code of the contract."""
    with redirected() as texts, environment(TOKENAUTH_MODULE=token.module):
        code = root.run([*words.split(), f"pkcs11:{text}" if len(text) % 2 else text])
    assert code in {0, 1, 2, 3, 4, 5}
    assert not [part for part in texts if "defect" in part.getvalue() or "Traceback" in part.getvalue()]


@contextlib.contextmanager
def redirected():
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as errors:
        yield output, errors


@contextlib.contextmanager
def environment(**values: str):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield
