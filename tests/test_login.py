"""A PIN is asked when it is needed, sent once, and shown nowhere."""

from __future__ import annotations

import logging
import os
import traceback
from pathlib import Path
from typing import Any

import keyring
import pytest
import requests
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from keyrings.alt.file import PlaintextKeyring

import tokenauth
from tests.conftest import log_out
from tests.support import counting
from tests.support.asking import pretend_pinentry
from tests.support.connect import fetch, handshake
from tokenauth.pin import Fd, Keyring, Pinentry
from tokenauth.testing import MTLSServer, SoftToken

ECDSA = ec.ECDSA(hashes.SHA256())
PACKAGE = Path(tokenauth.__file__).parent
#: PINs that occur nowhere by chance.
RIGHT, WRONG = "right-4711-pin", "wrong-0815-pin"


@pytest.fixture
def token():
    with SoftToken("fresh", pin=RIGHT) as made:
        log_out(made)
        yield made


@pytest.fixture
def server(token):
    with MTLSServer(token.ca) as running:
        yield running


def key_with(token, pin):
    return tokenauth.identity(token.uri, pin=pin, module=token.module).private_key


def test_the_first_signature_logs_in_and_the_next_do_not(token):
    calls = counting.since()
    key = key_with(token, RIGHT)
    assert calls.logins == 0
    for _ in range(3):
        key.sign(b"message", ECDSA)
    assert (calls.logins, calls.signatures) == (1, 3)
    assert calls["C_Logout"] == 0


def test_a_wrong_pin_is_sent_once_and_never_again(token):
    calls = counting.since()
    with pytest.raises(tokenauth.PinIncorrect) as failed:
        key_with(token, WRONG).sign(b"message", ECDSA)
    assert failed.value.ckr == "CKR_PIN_INCORRECT"
    assert failed.value.token == "fresh"
    assert calls.logins == 1
    for _ in range(3):
        with pytest.raises(tokenauth.PinRefused, match="refused this PIN before"):
            key_with(token, WRONG).sign(b"message", ECDSA)
    assert (calls.logins, calls.signatures) == (1, 0)


def test_another_pin_is_sent_after_a_wrong_one(token):
    calls = counting.since()
    with pytest.raises(tokenauth.PinIncorrect):
        key_with(token, WRONG).sign(b"message", ECDSA)
    asked = []

    def pin(request):
        asked.append(request.tries)
        return RIGHT

    key_with(token, pin).sign(b"message", ECDSA)
    assert asked == ["low"]  # SoftHSM remembers the wrong try
    assert calls.logins == 2


@pytest.mark.parametrize("pin", [None, lambda request: "", lambda request: None], ids=["None", "empty", "cancelled"])
def test_no_pin(token, pin):
    calls = counting.since()
    with pytest.raises(tokenauth.PinRequired) as failed:
        key_with(token, pin).sign(b"message", ECDSA)
    assert failed.value.hint
    assert calls.logins == 0


@pytest.mark.parametrize("pin", ["1", "1" * 300], ids=["too short", "too long"])
def test_a_pin_that_the_token_can_not_have(token, pin):
    calls = counting.since()
    with pytest.raises(tokenauth.PinIncorrect):
        key_with(token, pin).sign(b"message", ECDSA)
    with pytest.raises(tokenauth.PinRefused):
        key_with(token, pin).sign(b"message", ECDSA)
    assert calls.logins == 1


def test_the_uris_pin_is_used(token):
    tokenauth.identity(f"{token.uri}?pin-value={RIGHT}").private_key.sign(b"message", ECDSA)


def test_a_handshake_reports_it_at_once(token, server):
    context = tokenauth.create_context(token.uri, pin=WRONG, module=token.module, cafile=server.cafile)
    calls = counting.since()
    with pytest.raises(tokenauth.HandshakeFailed) as failed:
        handshake(context, server.port)
    assert isinstance(failed.value.__cause__, tokenauth.PinIncorrect)
    assert failed.value.ckr == "CKR_PIN_INCORRECT"
    with pytest.raises(tokenauth.HandshakeFailed) as failed:
        handshake(context, server.port)
    assert isinstance(failed.value.__cause__, tokenauth.PinRefused)
    assert (calls.logins, calls.signatures) == (1, 0)


def test_a_context_works_once_the_pin_is_right(token, server):
    pins = iter([WRONG, RIGHT])
    context = tokenauth.create_context(
        token.uri, pin=lambda request: next(pins), module=token.module, cafile=server.cafile
    )
    with pytest.raises(tokenauth.HandshakeFailed, match="the PIN is wrong"):
        handshake(context, server.port)
    assert b"CN=client" in fetch(context, server.port)


def test_without_a_pin_a_handshake_says_what_to_do(token, server):
    context = tokenauth.create_context(token.uri, module=token.module, cafile=server.cafile)
    with pytest.raises(tokenauth.HandshakeFailed, match=r"a PIN is needed.*--pin-source"):
        handshake(context, server.port)


# Shown nowhere.


def attempts(token, server, pin, source):
    """Everything that takes a PIN; what each leaves behind, and how it failed."""
    options = {"pin": source, "module": token.module, "forget_after": 60}
    things: list[Any] = [
        tokenauth.identity(token.uri, **options),
        tokenauth.create_context(token.uri, **options, cafile=server.cafile),
        tokenauth.Session(token.uri, **options, verify=server.cafile),
        tokenauth.TokenAdapter(token.uri, **options),
        tokenauth.TokenURI.parse(f"{token.uri}?pin-value={pin}"),
    ]
    identity, context, session, adapter, uri = things
    uses = [
        lambda: identity.private_key.sign(b"message", ECDSA),
        lambda: handshake(context, server.port),
        lambda: session.get(server.url, timeout=10),
        lambda: tokenauth.identity(uri).private_key.sign(b"message", ECDSA),
        lambda: tokenauth.create_context(token.uri, **options, server_side=True),
    ]
    failures = []
    for use in uses:
        try:
            use()
        except (tokenauth.TokenAuthError, requests.RequestException) as error:
            failures.append(error)
    things += [identity.private_key, identity.private_key._key, identity.credentials, context._tokenauth]
    things += [context._tokenauth.wanted, session.adapters, adapter, token.token, source if source != pin else None]
    session.close()
    adapter.close()
    return things, failures


def chain_of(error):
    seen = []
    while error is not None and error not in seen:
        seen.append(error)
        error = error.__cause__ or error.__context__
    return seen


def locals_of_ours(error):
    """The local variables, as a crash reporter would show them, of this package's frames in a traceback."""
    told: traceback.TracebackException | None = traceback.TracebackException.from_exception(error, capture_locals=True)
    frames = []
    while told is not None:
        frames += [frame for frame in told.stack if Path(frame.filename).is_relative_to(PACKAGE)]
        told = told.__cause__ or told.__context__
    return frames


def from_a_descriptor(pin, _token, _directory):
    reader, writer = os.pipe()
    os.write(writer, f"{pin}\n".encode())
    os.close(writer)
    return Fd(reader)  # closed when the tests end


def from_pinentry(pin, _token, directory):
    return Pinentry(pretend_pinentry(directory, f"serve('D {pin}\\nOK')"))


def from_the_keyring(pin, token, directory):
    backend = PlaintextKeyring()
    backend.file_path = str(directory / "keyring.cfg")
    backend.set_password("tokenauth", token.serial, pin)
    keyring.set_keyring(backend)
    return Keyring()


#: What makes a source of a PIN, a token and a directory.
SOURCES = {
    "str": lambda pin, _token, _directory: pin,
    "descriptor": from_a_descriptor,
    "pinentry": from_pinentry,
    "keyring": from_the_keyring,
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("pin", [RIGHT, WRONG], ids=["right", "wrong"])
def test_the_pin_is_shown_nowhere(token, server, caplog, capfd, pin, kind, tmp_path):
    caplog.set_level(logging.DEBUG)
    before = keyring.get_keyring()
    try:
        things, failures = attempts(token, server, pin, SOURCES[kind](pin, token, tmp_path))
    finally:
        keyring.set_keyring(before)
    # The last attempt fails even with the right PIN: a client's identity is no server's.
    assert len(failures) == (5 if pin == WRONG else 1)
    shown = [repr(thing) for thing in things] + [str(thing) for thing in things]
    frames = 0
    for failure in failures:
        for error in chain_of(failure):
            shown += [str(error), repr(error), repr(vars(error)), repr(error.args)]
        shown += traceback.format_exception(failure)
        for frame in locals_of_ours(failure):
            frames += 1
            shown += [
                f"{frame.filename}:{frame.lineno} {name} = {value}" for name, value in (frame.locals or {}).items()
            ]
    assert frames > 0
    shown += [record.getMessage() for record in caplog.records]
    shown += [repr(record.args) for record in caplog.records]
    shown += capfd.readouterr()
    assert [text for text in shown if pin in text] == []
    assert caplog.records  # urllib3 at least says that it connected
