"""PINs from a keyring: the real library, with a keyring in a private file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import keyring
import keyring.backends.fail
import keyring.errors
import pytest
from keyring.backend import KeyringBackend
from keyrings.alt.file import PlaintextKeyring

from tests.support.asking import SECRET, assert_hidden
from tests.support.command_line import environment, error_of, output_of, run
from tokenauth.errors import PinRequired
from tokenauth.pin import Keyring, PinRequest, parse_pin_source
from tokenauth.testing import MTLSServer, SoftToken

REQUEST = PinRequest("my card", "0042", "to authenticate to api.example")
BIN = str(Path(sys.executable).parent)


@pytest.fixture
def stored(tmp_path):
    """A keyring in a file of the test's own, in place of the tester's."""
    made = PlaintextKeyring()
    made.file_path = str(tmp_path / "keyring.cfg")
    yield from using(made)


def using(backend):
    before = keyring.get_keyring()
    keyring.set_keyring(backend)
    yield backend
    keyring.set_keyring(before)


def test_by_the_serial_number(stored):
    stored.set_password("tokenauth", "0042", SECRET)
    assert Keyring()(REQUEST) == SECRET
    assert SECRET not in repr(Keyring())
    assert repr(parse_pin_source("keyring")) == "Keyring()"


def test_by_the_label_if_there_is_no_serial_number(stored):
    stored.set_password("tokenauth", "my card", SECRET)
    assert Keyring()(REQUEST._replace(serial="")) == SECRET
    with pytest.raises(PinRequired):
        Keyring()(REQUEST)


def test_it_is_looked_up_each_time(stored):
    for text in ("1111", "2222"):
        stored.set_password("tokenauth", "0042", text)
        assert Keyring()(REQUEST) == text


@pytest.mark.parametrize(
    ("request_", "command"),
    [
        (REQUEST, "keyring set tokenauth 0042"),
        (REQUEST._replace(serial=""), "keyring set tokenauth 'my card'"),
    ],
)
def test_what_is_not_there_says_how_to_store_it_and_stores_nothing(stored, request_, command):
    with pytest.raises(PinRequired, match="its PIN is not in the keyring") as failed:
        Keyring()(request_)
    assert failed.value.hint == f"store it there with: {command}"
    assert failed.value.token == "my card"
    assert not Path(stored.file_path).exists()


def test_what_is_stored_and_no_pin(stored):
    stored.set_password("tokenauth", "0042", SECRET + "\n")
    with pytest.raises(PinRequired, match="the PIN in the keyring holds a line break; store it again with") as failed:
        Keyring()(REQUEST)
    assert_hidden(failed.value)


class Broken(KeyringBackend):
    """A keyring that fails in some way."""

    priority = 1

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def set_password(self, service: str, username: str, password: str) -> None:
        raise AssertionError("nothing is stored")

    def get_password(self, service: str, username: str) -> str | None:
        remembered = SECRET  # noqa: F841 - what a backend may hold while it fails
        raise self.error


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (keyring.errors.KeyringLocked("Failed to unlock\n the collection!"), "Failed to unlock the collection!"),
        (keyring.errors.InitError("no D-Bus"), "no D-Bus"),
        (keyring.errors.KeyringError(), "KeyringError"),
        (RuntimeError("\x1b[2Jbroken."), "\ufffd[2Jbroken"),
        (ValueError(), "ValueError"),
        (ConnectionResetError(104, "Connection reset by peer"), "[Errno 104] Connection reset by peer"),
    ],
)
def test_a_keyring_that_fails(error, cause):
    for _ in using(Broken(error)):
        with pytest.raises(PinRequired) as failed:
            Keyring()(REQUEST)
    assert failed.value.message == f"the keyring can not be asked for the PIN: {cause}"
    assert "--pin-source" in failed.value.hint
    assert_hidden(failed.value)


def test_no_keyring_at_all():
    for _ in using(keyring.backends.fail.Keyring()):
        with pytest.raises(PinRequired, match="No recommended backend was available"):
            Keyring()(REQUEST)


def test_without_the_library(tmp_path):
    """In an interpreter where it can not be imported, as when it is not installed."""
    script = (
        "import sys; sys.modules['keyring'] = None\n"
        "import tokenauth.pin\n"
        "try: tokenauth.pin.Keyring()(tokenauth.pin.PinRequest('dev'))\n"
        "except tokenauth.PinRequired as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert "token 'dev': the keyring can not be asked for the PIN: " in done.stdout
    assert "pip install keyring" in done.stdout


# The command line, and the hint as a person would follow it.


@pytest.fixture(scope="module")
def token():
    with SoftToken("keyring", pin=SECRET) as made:
        yield made


@pytest.fixture(scope="module")
def server(token):
    with MTLSServer(token.ca) as running:
        yield running


def test_get(token, server, tmp_path):
    variables = {
        "PYTHON_KEYRING_BACKEND": "keyrings.alt.file.PlaintextKeyring",
        "XDG_DATA_HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
        "HOME": str(tmp_path),
    }
    arguments = ("get", server.url, "-i", f"{token.uri};object=client", "--cacert", server.cafile)
    failure = error_of(run(*arguments, "--pin-source", "keyring", **variables), 4)
    assert failure.startswith("token 'keyring': its PIN is not in the keyring; store it there with: ")
    command = failure.partition("with: ")[2]
    assert command == f"keyring set tokenauth {token.serial}"
    variables["PATH"] = f"{BIN}:/usr/bin:/bin"
    subprocess.run(["/bin/sh", "-c", command], input=SECRET, text=True, env=environment(**variables), check=True)
    assert '"CN=client"' in output_of(run(*arguments, "--pin-source", "keyring", **variables))
    done = run(*arguments, TOKENAUTH_PIN_SOURCE="keyring", **variables)
    assert '"CN=client"' in output_of(done)
    assert SECRET not in done.stdout + done.stderr


def test_get_without_a_keyring(token, server):
    arguments = ("get", server.url, "-i", f"{token.uri};object=client", "--cacert", server.cafile)
    backend = "keyring.backends.fail.Keyring"
    failure = error_of(run(*arguments, "--pin-source", "keyring", PYTHON_KEYRING_BACKEND=backend), 4)
    assert "No recommended backend was available" in failure
