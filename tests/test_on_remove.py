"""``on_remove``: the card leaves that a context has used."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import tokenauth
from tests.support.connect import fetch
from tests.support.piv.stack import opensc_module, ykcs11_module
from tokenauth.cards import events, readers
from tokenauth.pkcs11.modules import load_module
from tokenauth.testing import MTLSServer, SoftToken

pytestmark = pytest.mark.xdist_group("on_remove")

_TIMEOUT = 20.0  # seconds
THREAD = "tokenauth-removal"


class Told:
    """What was called, and a way to wait for that."""

    def __init__(self) -> None:
        self.tokens: list[Any] = []
        self.threads: list[str] = []
        self._event = threading.Event()

    def __call__(self, info: Any) -> None:
        self.tokens.append(info)
        self.threads.append(threading.current_thread().name)
        self._event.set()

    def wait(self) -> Any:
        assert self._event.wait(_TIMEOUT)
        self._event.clear()
        return self.tokens[-1]


@pytest.fixture(scope="module")
def token():
    with SoftToken("leaving", key_type=None) as made:
        made.add_identity("client")
        yield made


@pytest.fixture(scope="module")
def server(token):
    with MTLSServer(token.ca) as running:
        yield running


@pytest.fixture
def told():
    return Told()


def watching_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


def await_threads(count: int) -> None:
    end = time.monotonic() + _TIMEOUT
    while len(watching_threads()) != count:
        assert time.monotonic() < end
        time.sleep(0.05)


def context_of(card, token, server, told, **more):
    return tokenauth.create_context(
        token.uri, pin=token.pin, module=card.path, cafile=server.cafile, on_remove=told, **more
    )


def test_it_is_told_once_each_time(card, token, server, told):
    context = context_of(card, token, server, told)
    assert not watching_threads()  # before its first use
    fetch(context, server.port)
    fetch(context, server.port)
    assert len(watching_threads()) == 1
    card.remove()
    info = told.wait()
    assert (info.label, info.serial) == (token.label, load_module(card.path)._tokens.popitem()[0].serial)
    await_threads(0)
    card.insert()
    fetch(context, server.port)
    assert told.threads == [THREAD]
    card.remove()
    told.wait()
    assert len(told.tokens) == 2


def test_what_was_kept_is_dropped(card, token, server, told):
    context: Any = context_of(card, token, server, told)
    fetch(context, server.port)
    sessions = context._tokenauth.sessions
    [found] = load_module(card.path).tokens()[0]
    assert sessions._kept
    assert found.logged_in
    card.remove()
    told.wait()
    assert not sessions._kept
    assert not found.logged_in


def test_a_requests_session_is_told_once(card, token, server, told, tmp_path):
    copy = tmp_path / "ca.pem"
    copy.write_bytes(token.ca.pem)
    with tokenauth.Session(token.uri, pin=token.pin, module=card.path, on_remove=told) as session:
        for bundle in (server.cafile, copy):  # a context each
            assert session.get(server.url, verify=str(bundle)).ok
        card.remove()
        told.wait()
        await_threads(0)
    assert len(told.tokens) == 1


def test_nobody_is_watched_for_nobody(card, token, server, told):
    context = tokenauth.create_context(token.uri, pin=token.pin, module=card.path, cafile=server.cafile)
    fetch(context, server.port)
    assert not watching_threads()
    forgotten = context_of(card, token, server, told)
    fetch(forgotten, server.port)
    del forgotten
    gc.collect()
    await_threads(0)
    assert not told.tokens


def test_a_server_is_told(card, token, told):
    token.add_identity("server", purposes=("tls-server",), names=("localhost",))
    uri = f"{token.uri};object=server"
    tokenauth.create_context(uri, pin=token.pin, module=card.path, server_side=True, on_remove=told)
    context = tokenauth.create_context(uri, pin=token.pin, module=card.path, server_side=True, on_remove=told)
    card.remove()
    assert told.wait().label == token.label
    del context


def test_a_callback_that_fails_is_logged(card, token, server, caplog):
    called = threading.Event()

    def fails(_info: object) -> None:
        called.set()
        raise RuntimeError("mine")

    context = context_of(card, token, server, fails)
    fetch(context, server.port)
    card.remove()
    assert called.wait(_TIMEOUT)
    await_threads(0)
    assert [record.levelno for record in caplog.records if "when a token left" in record.getMessage()] == [
        logging.ERROR
    ]


def test_a_reader_that_is_unplugged_as_the_watch_begins(card, token, server, told, monkeypatch):
    """PC/SC tells of it, and then knows no such reader: the card is gone, and nobody looks for it again and again."""

    @contextlib.contextmanager
    def watch(callback: Any) -> Any:
        [found] = load_module(card.path).tokens()[0]
        callback(events.Event(events.READER_REMOVED, found.slot.description))
        yield

    monkeypatch.setattr(events, "watch", watch)
    monkeypatch.setattr(readers, "read_readers", lambda **_: [])
    fetch(context_of(card, token, server, told), server.port)
    assert told.wait().label == token.label
    await_threads(0)


def test_what_can_not_be_called(token):
    with pytest.raises(TypeError, match="on_remove is called with a token"):
        tokenauth.create_context(token.uri, on_remove="print")  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_the_child_of_a_fork_is_told_itself(card, token, server, told):
    context = context_of(card, token, server, told)
    fetch(context, server.port)
    child = os.fork()
    if not child:
        code = 1
        try:
            before = len(watching_threads())
            fetch(context, server.port)
            code = 0 if (before, len(watching_threads())) == (0, 1) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    card.remove()
    told.wait()


# --- cards in readers ---

SCRIPT = """
import sys, threading, time
import tokenauth
from tests.support.connect import fetch
from tests.support.piv.handle import attach, attached_ask
module, port, cafile, how = sys.argv[1:]
left = threading.Event()
told, asked = [], []
def gone(info):
    told.append(info.serial)
    left.set()
def pin(request):
    asked.append(request.reason)
    return "123456"
context = tokenauth.create_context("pkcs11:id=%01", module=module, pin=pin, cafile=cafile, on_remove=gone)
fetch(context, int(port))
if how == "restart":
    time.sleep(0.5)  # the thread connects
    attached_ask("stop_pcscd", False)
    attached_ask("start_pcscd")
    assert not left.wait(3), "a restart of pcscd is no removal"
    fetch(context, int(port))
for _ in range(2):
    attach().remove()
    assert left.wait(20)
    left.clear()
    attach().insert()
    fetch(context, int(port))
print(len(told), len(set(told)), len(asked))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="vpcd is kept apart by Linux's namespaces")
@pytest.mark.parametrize(
    ("module", "how", "expected"),
    [("opensc", "plain", "2 1 3"), ("ykcs11", "plain", "2 1 3"), ("opensc", "restart", "2 1 4")],
)
def test_a_card_is_pulled_out(request, module, how, expected):
    stack: Any = request.getfixturevalue("fresh_piv" if module == "opensc" else "yubikey")
    path = opensc_module() if module == "opensc" else ykcs11_module()
    with MTLSServer(stack.card.authority) as server:
        done = stack.python(SCRIPT, path, str(server.port), server.cafile, how, timeout=90)
    assert done.stdout.decode() == f"{expected}\n", done.stderr.decode()


@pytest.mark.skipif(sys.platform != "linux", reason="vpcd is kept apart by Linux's namespaces")
def test_without_pyscard_the_slot_is_looked_at(lone_piv, tmp_path):
    (tmp_path / "smartcard.py").write_text("raise ModuleNotFoundError('none', name='smartcard')")
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path), str(Path.cwd())])
    with MTLSServer(lone_piv.card.authority) as server:
        done = lone_piv.python(
            SCRIPT, opensc_module(), str(server.port), server.cafile, "plain", timeout=90, PYTHONPATH=path
        )
    assert done.stdout.decode() == "2 1 3\n", done.stderr.decode()
