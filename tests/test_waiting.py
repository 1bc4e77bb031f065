"""People are told to insert the card, and to touch the token, and the program waits for them."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time

import pytest
import requests

import tokenauth
from tests.support.command_line import COMMAND, environment
from tests.support.connect import fetch
from tests.test_poor_cards import key_of, sign
from tokenauth.pkcs11 import tokens
from tokenauth.testing import MTLSServer, SoftToken

pytestmark = pytest.mark.xdist_group("waiting")


@pytest.fixture(scope="module")
def token():
    with SoftToken("later", key_type=None) as made:
        made.add_identity("ec")
        yield made


@pytest.fixture(scope="module")
def server(token):
    with MTLSServer(token.ca) as running:
        yield running


def notices(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_session_waits_for_the_card_before_it_connects(card, token, server, caplog):
    card.remove()
    insertion = threading.Timer(0.7, card.insert)
    with tokenauth.Session(token.uri, pin=token.pin, module=card.path, verify=server.cafile, wait=20) as session:
        before = server.handshakes
        insertion.start()
        assert session.get(server.url).json()["client_subject"] == "CN=ec"
    assert server.handshakes == before + 1
    assert notices(caplog) == [f"waiting for a token that matches {token.uri}: insert it"]


def test_a_context_waits_for_a_card_that_left(card, token, server, caplog):
    context = tokenauth.create_context(token.uri, pin=token.pin, module=card.path, cafile=server.cafile, wait=True)
    fetch(context, server.port)
    assert not notices(caplog)
    card.remove()
    threading.Timer(0.5, card.insert, (4,)).start()
    assert b"CN=ec" in fetch(context, server.port)
    assert len(notices(caplog)) == 1


def test_it_waits_no_longer_than_told(card, token, server):
    card.remove()
    start = time.monotonic()
    with (
        tokenauth.Session(token.uri, pin=token.pin, module=card.path, verify=server.cafile, wait=0.4) as session,
        pytest.raises(requests.exceptions.SSLError, match="no token matches"),
    ):
        session.get(server.url)
    assert time.monotonic() - start >= 0.4


def test_get_waits(card, token, server):
    card.remove()
    command = [*COMMAND, "get", server.url, "--cacert", server.cafile, "--module", card.path, "--wait", "-i", token.uri]
    with subprocess.Popen(
        [*command, "--pin-source", "env:CARD_PIN"],
        env=environment(CARD_PIN=token.pin, NO_PROXY="localhost"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        told = process.stderr.readline()
        card.insert()
        answer, rest = process.communicate(timeout=30)
    assert told == f"tokenauth: waiting for a token that matches {token.uri}: insert it\n"
    assert "CN=ec" in answer
    assert (process.returncode, rest) == (0, "")


@pytest.mark.parametrize(("removable", "told"), [(True, 1), (False, 0)])
def test_a_device_that_is_slow_may_want_to_be_touched(card, token, caplog, monkeypatch, removable, told):
    monkeypatch.setattr(tokens, "_SLOW", 0.2)
    card.set(removable=removable)
    key = key_of(card, token, "ec")
    sign(key)
    assert not notices(caplog)
    card.set(delay__C_Sign=500)
    sign(key)
    assert notices(caplog) == ["token 'later' is still at it: touch it if it blinks"] * told


def test_a_notice_is_on_stderr_if_nobody_cares_for_the_log():
    code = "from tokenauth.notices import notice; notice('insert it')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "insert it\n"
