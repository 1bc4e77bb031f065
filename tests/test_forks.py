"""Programs that fork: while threads are inside handshakes, with multiprocessing, and before they serve."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tokenauth
from tests.support import client_context, read_to_end
from tests.support.faulty_module import FaultyModule
from tokenauth.pkcs11 import modules
from tokenauth.pkcs11.modules import load_module
from tokenauth.testing import MTLSServer, SoftToken

pytestmark = [
    pytest.mark.xdist_group("forks"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="only where processes fork"),
]
SCRIPT = Path(__file__).parent / "support" / "fork_script.py"
TIMEOUT = 100.0  # seconds


@pytest.fixture(scope="module")
def token():
    with SoftToken("forked", key_type=None) as made:
        made.add_identity("client")
        made.add_identity("localhost", purposes=["tls-server"], names=["localhost"])
        yield made


@pytest.fixture(scope="module")
def server(token):
    with MTLSServer(token.ca) as running:
        yield running


class Card(FaultyModule):
    """With a configuration of SoftHSM's own."""

    configuration: Path


@pytest.fixture(params=["true", "false"])
def card(request, token, tmp_path) -> Card:
    """It keeps processes apart that log in at the same moment, which SoftHSM can not always bear."""
    configuration = tmp_path / "softhsm2.conf"
    configuration.write_text(f"{token.configuration.read_text()}library.reset_on_fork = {request.param}\n")
    made = Card(token, tmp_path / "card")
    made.configuration = configuration
    return made


def command(card: Card, token: SoftToken, server: MTLSServer, mode: str, more: str) -> dict[str, Any]:
    uri = f"{token.uri};object=client"
    return {
        "args": [sys.executable, "-X", "faulthandler", str(SCRIPT), mode, uri, str(server.port), server.cafile, more],
        "env": {
            **os.environ,
            "TEST_PIN": token.pin,
            "TOKENAUTH_MODULE": card.path,
            "SOFTHSM2_CONF": str(card.configuration),
        },
        "text": True,
        "start_new_session": True,
    }


def run(*arguments) -> str:
    with subprocess.Popen(**command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            output, errors = process.communicate(timeout=TIMEOUT)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # children that hang
    assert (errors, process.returncode) == ("", 0)
    return str(output).strip()


def test_a_process_whose_threads_are_inside_handshakes(card, token, server):
    assert run(card, token, server, "in_handshakes", "50") == "50"


@pytest.mark.parametrize(("method", "children"), [("fork", 5), ("spawn", 4), ("forkserver", 4)])
def test_multiprocessing(card, token, server, method, children):
    assert run(card, token, server, "multiprocessing", method) == str(children)


def ask(context, port: int) -> int:
    """The process id of the worker that answered."""
    with (
        socket.create_connection(("127.0.0.1", port), 20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        return int(read_to_end(tls))


def await_end(pid: int) -> None:
    """Wait until a process is gone and its parent knows."""
    limit = time.monotonic() + 10
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < limit:
            os.kill(pid, 0)
            time.sleep(0.01)


@contextlib.contextmanager
def running(*arguments) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(**command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                _, errors = process.communicate(timeout=20)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # its workers, had it not ended them
    assert errors == ""


def test_a_server_that_forks_its_workers(card, token, server):
    context = client_context(server.cafile)
    with running(card, token, server, "prefork", f"{token.uri};object=localhost") as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        seen = set()
        for _ in range(6):
            answered = [ask(context, port) for _ in range(8)]
            seen.update(answered)
            os.kill(answered[-1], signal.SIGKILL)
            await_end(answered[-1])  # until then it may accept the next connection
    assert len(seen) > 5


# Locks that nobody in the child would ever release.


def child_succeeds(work) -> bool:
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(10)
        try:
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the child must end here
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


@contextlib.contextmanager
def elsewhere(work) -> Iterator[None]:
    """While a thread is in some work, which waits for what it is given as an argument."""
    inside, over = threading.Event(), threading.Event()

    def wait(*_arguments, **_named) -> None:
        inside.set()
        over.wait(30)

    thread = threading.Thread(target=work, args=(wait,))
    thread.start()
    assert inside.wait(10)
    try:
        yield
    finally:
        over.set()
        thread.join(30)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
class TestWhatAnotherThreadHolds:
    def test_loading_a_module(self, token, tmp_path, monkeypatch):
        def load(wait) -> None:
            with monkeypatch.context() as patched:
                patched.setattr(modules, "Module", wait)
                load_module(str(tmp_path / "slow.so"))

        with elsewhere(load):
            assert child_succeeds(lambda: tokenauth.identity(f"{token.uri};object=client", module=token.module))

    def test_looking_at_the_tokens(self, token, server):
        uri = f"{token.uri};object=client"
        context: Any = tokenauth.create_context(uri, pin=token.pin, module=token.module, cafile=server.cafile)
        selector = context._tokenauth
        look = selector._look

        def slowly(wait) -> None:
            selector._look = lambda **more: wait() or look(**more)
            selector.offers()

        with elsewhere(slowly):
            selector._look = look
            assert child_succeeds(selector.offers)

    def test_reading_a_certificate(self, token):
        found = tokenauth.identity(f"{token.uri};object=client", module=token.module)
        other = tokenauth.identity(f"{token.uri};object=client", module=token.module)

        def slowly(wait) -> None:
            found._found = type("Slow", (), {"certificate": property(wait)})()
            with contextlib.suppress(AttributeError):
                found.certificate  # noqa: B018

        with elsewhere(slowly):
            assert child_succeeds(lambda: other.certificate)

    def test_waiting_at_the_gate(self, token):
        """A thread that does not come out of a module in time; the fork goes on, and so does the child."""
        [found] = [seen for seen in load_module(token.module).tokens()[0] if seen.label == "forked"]

        def inside(wait) -> None:
            with found.session("waiting"):
                wait()

        with elsewhere(inside):
            begun = time.monotonic()
            assert child_succeeds(lambda: tokenauth.identity(f"{token.uri};object=client", module=token.module))
            assert time.monotonic() - begun < 10
