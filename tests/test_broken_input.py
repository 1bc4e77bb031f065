"""Broken certificates, URIs, PIN files and module files at the command line: an error in words, or something to show.

Never a traceback, never "this is a defect", never a hang, and never anything sound hidden by what is broken.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.command_line import run
from tokenauth.cli import root
from tokenauth.cli.commands.doctor import command as doctor
from tokenauth.inventory.identity import Identity
from tokenauth.pkcs11.binding import python_pkcs11
from tokenauth.pkcs11.modules import load_module
from tokenauth.provisioning.keys import store_object
from tokenauth.testing import MTLSServer, SoftToken

pytestmark = [
    pytest.mark.xdist_group("broken_input"),
    # cryptography's own word on a certificate whose serial number is not positive; it reads it all the same.
    pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive:Warning"),
]
CODES = {0, 1, 2, 3, 4, 5}
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def broken_certificates(good: bytes) -> dict[str, bytes]:
    """Things that lie where certificates should, made of a good one's DER."""

    def patched(old: bytes, new: bytes) -> bytes:
        assert old in good
        return good.replace(old, new)

    ec_key = bytes.fromhex("06072a8648ce3d0201")
    return {
        "one byte": b"\x30",
        "not DER": b"\xff" * 64,
        "text": b"-----BEGIN CERTIFICATE-----\n",
        "cut short": good[: len(good) // 2],
        "longer than it says": good + b"\0" * 16,
        "huge length": b"\x30\x84\x7f\xff\xff\xff" + good[4:],
        "indefinite length": b"\x30\x80" + good[4:] + b"\0\0",
        "unknown key": patched(ec_key, bytes.fromhex("06072a8648ce3d0209")),
        "point off the curve": good[:-90] + bytes(90),
        "bad date": good.replace(b"\x17\x0d26", b"\x17\x0d2619"[:4]).replace(b"\x17\x0d", b"\x17\x0c"),
        "negative serial": patched(b"\xa0\x03\x02\x01\x02\x02\x14", b"\xa0\x03\x02\x01\x02\x02\x14\xff"[:7]),
        "deep": b"\x30\x82\x03\xe8" * 250,
    }


@pytest.fixture(scope="module")
def token():
    with SoftToken("broken", key_type="p256") as made:
        good = made.add_identity("good").certificate.public_bytes(Encoding.DER)
        pkcs11 = python_pkcs11()
        attribute = pkcs11.Attribute
        for number, (label, der) in enumerate(broken_certificates(good).items(), 100):
            template = {
                attribute.CLASS: pkcs11.ObjectClass.CERTIFICATE,
                attribute.CERTIFICATE_TYPE: pkcs11.CertificateType.X_509,
                attribute.TOKEN: True,
                attribute.PRIVATE: False,
                attribute.LABEL: label,
                attribute.ID: bytes([number]),
                attribute.SUBJECT: b"0\0",
                attribute.VALUE: der,
            }
            store_object(made.token, made.credentials, template)
        made.token.logout()
        yield made


@pytest.fixture(scope="module")
def server(token):
    with MTLSServer(token.ca) as running:
        yield running


class Done:
    """What a command left: its exit code, stdout and stderr."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def command(capfd, token, monkeypatch):
    """Runs a command in this process, and sees that it fails decently if it fails."""
    monkeypatch.setenv("TOKENAUTH_MODULE", token.module)

    def command(*arguments: str) -> Done:
        capfd.readouterr()
        code = root.run(arguments)
        out, err = capfd.readouterr()
        assert code in CODES
        assert "Traceback" not in err
        assert "defect" not in err
        return Done(code, out, err)

    return command


# Certificates.


def test_all_of_them_are_listed_and_what_is_wrong_is_told(command, token):
    [shown] = json.loads(command("list", "--json", token.label).out)
    found = {identity["label"]: identity for identity in shown["identities"]}
    assert {"good", "client"} <= set(found)
    assert not found["good"]["problems"]
    for label in ("one byte", "not DER", "cut short", "huge length", "text"):
        assert "can not be read" in found[label]["problems"][0], label
    assert command("list", token.label).code == 0
    assert command("doctor").code == 1
    assert doctor.name == "doctor"


def test_each_can_be_shown(command, token):
    [shown] = json.loads(command("list", "--json", token.label).out)
    for identity in shown["identities"]:
        for form in ((), ("--json",), ("--pem",), ("--chain",)):
            done = command("show", identity["uri"], *form)
            assert done.code == 0 or identity["problems"], (identity["label"], form, done.err)


def test_the_good_one_is_still_of_use(command, token, server, monkeypatch):
    monkeypatch.setenv("CARD_PIN", token.pin)
    monkeypatch.setenv("NO_PROXY", "localhost")
    where = (server.url, "--cacert", server.cafile, "--pin-source", "env:CARD_PIN")
    assert '"CN=good"' in command("get", *where, "-i", f"{token.uri};object=good").out
    for label in ("not DER", "unknown key", "point off the curve"):
        done = command("get", *where, "-i", f"{token.uri};object={label.replace(' ', '%20')}")
        assert done.code in {3, 5}, (label, done.err)


@given(st.binary(max_size=300))
@FUZZ
def test_any_bytes_for_a_certificate(token, der):
    found = Identity.__new__(Identity)
    sound = next(identity for identity in _identities(token) if identity.label == "good")
    found.__init__(  # type: ignore[misc]
        sound._found._replace(certificate=sound._found.certificate._replace(der=der)), sound.credentials
    )
    assert isinstance(found.problems, list)
    assert found.purposes == [] or der


def _identities(token):
    import tokenauth

    return tokenauth.identities(token.uri, module=token.module)


@given(st.integers(min_value=0, max_value=700), st.binary(min_size=1, max_size=4))
@FUZZ
def test_a_good_certificate_with_some_bytes_changed(token, position, new):
    from tokenauth.cli.records import identity_record

    sound = next(identity for identity in _identities(token) if identity.label == "good")
    good = sound.certificate_der
    der = (good[:position] + new + good[position + len(new) :])[: len(good)]
    found = Identity(sound._found._replace(certificate=sound._found.certificate._replace(der=der)), sound.credentials)
    record = identity_record(found)
    assert json.dumps(record)


# URIs.


@given(st.text(max_size=60))
@FUZZ
def test_any_text_for_a_uri(command, text):
    for name in ("list", "show"):
        done = command(name, "--", text)
        assert done.code in {0, 2, 3}


@given(st.text(alphabet="pkcs11:;?&=%token-object id0123456789abcdef", max_size=60))
@FUZZ
def test_what_looks_like_a_uri(command, text):
    done = command("list", "--", f"pkcs11:{text}")
    assert done.code in {0, 2, 3}


# PIN files.


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"\0\0\0\0", b"12\x0034\n", b"\xff\xfe1\x002\x003\x00", b"x" * 100_000, b"\x1b[31m1234\n", b"\r\n"],
)
def test_pin_files(command, token, server, tmp_path, content):
    path = tmp_path / "pin"
    path.touch(mode=0o600)
    path.write_bytes(content)
    load_module(token.module).reload()
    where = ("--cacert", server.cafile, "-i", f"{token.uri};object=good", "--pin-source", f"file:{path}")
    done = command("get", server.url, *where)
    assert done.code == 4
    assert str(path) in done.err


@pytest.mark.parametrize("kind", ["directory", "missing", "loop"])
def test_pin_files_that_are_none(command, token, server, tmp_path, kind):
    path = tmp_path / "pin"
    if kind == "directory":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    load_module(token.module).reload()
    where = ("--cacert", server.cafile, "-i", f"{token.uri};object=good", "--pin-source", f"file:{path}")
    done = command("get", server.url, *where)
    assert done.code == 4
    assert str(path) in done.err


# Modules.


MODULES = {
    "text": lambda path: path.write_text("module: no\n"),
    "empty": lambda path: path.touch(),
    "no PKCS#11 module": lambda path: path.write_bytes(_some_library().read_bytes()),
    "another processor": lambda path: path.write_bytes(_for_another_processor(_some_library().read_bytes())),
    "directory": lambda path: path.mkdir(),
    "loop": lambda path: path.symlink_to(path),
    "missing": lambda path: None,
}


def _some_library() -> Path:
    import _socket

    return Path(_socket.__file__)


def _for_another_processor(library: bytes) -> bytes:
    return library[:18] + b"\xf3\x00" + library[20:]  # e_machine: RISC-V


@pytest.mark.parametrize("kind", MODULES)
def test_modules(tmp_path, kind):
    path = tmp_path / "module.so"
    MODULES[kind](path)
    given = ("--module", str(path))
    for arguments, code in ((("list", *given), 3), (("doctor", *given), 1), (("list",), 3)):
        done = run(*arguments, TOKENAUTH_MODULE=str(path))
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert str(path) in done.stderr + done.stdout


def test_a_module_that_would_end_the_program(tmp_path):
    """A library that is cut short is SIGBUS to whoever loads it; in a process of its own it is an error."""
    path = tmp_path / "module.so"
    path.write_bytes(_some_library().read_bytes()[:700])
    done = run("list", TOKENAUTH_MODULE=str(path), TOKENAUTH_ISOLATE="1")
    assert done.returncode == 3, done.stderr
    assert str(path) in done.stderr


P11_KIT_FILES = {
    "binary": bytes(range(256)),
    "enormous": b"# x\n" * 400_000,
    "no value": b"module\n",
    "a text": b"module: /etc/passwd\n",
    "nowhere": b"module: /nonexistent/x.so\n",
    "a URL": b"module: https://example.org/x.so\npriority: high\n",
    "empty": b"",
}


@pytest.mark.parametrize("kind", P11_KIT_FILES)
def test_p11_kit_files(tmp_path, token, kind):
    """Of a user who is not root, whose files would not be read."""
    modules = tmp_path / "pkcs11" / "modules"
    modules.mkdir(parents=True)
    (modules / "broken.module").write_bytes(P11_KIT_FILES[kind])
    (modules / "loop.module").symlink_to("loop.module")
    code = "import os, sys; os.getuid = lambda: 1000; from tokenauth.cli import main; main()"
    for arguments in (["list", token.label], ["doctor"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path), "TOKENAUTH_MODULE": ""},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr
        assert "defect" not in done.stderr
        assert "broken" in done.stdout, done.stderr
