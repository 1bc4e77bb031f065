"""Many threads, one token."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import tokenauth
from tests.conftest import log_out
from tests.support import counting
from tests.support.connect import fetch
from tests.support.nginx import Nginx
from tokenauth.testing import MTLSServer

pytestmark = pytest.mark.xdist_group("one_key")
SCRIPT = Path(__file__).parent / "support" / "threads_script.py"
THREADS, HANDSHAKES = 8, 200

#: Other interpreters with tokenauth's dependencies, separated as in PATH.
INTERPRETERS = [sys.executable, *filter(None, os.environ.get("TOKENAUTH_TEST_PYTHONS", "").split(os.pathsep))]


@pytest.fixture(scope="module")
def nginx(one_key, tmp_path_factory):
    with Nginx(one_key.ca, tmp_path_factory.mktemp("threads")) as running:
        yield running


@pytest.mark.parametrize("mode", ["one", "each"])
@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_eight_threads_two_hundred_handshakes_each(one_key, nginx, interpreter, mode):
    """In a process of its own, whose death would be seen."""
    command = [interpreter, "-X", "faulthandler", SCRIPT, one_key.uri, "TEST_PIN", nginx.port, nginx.cafile]
    done = subprocess.run(
        [*map(str, command), str(THREADS), str(HANDSHAKES), mode],
        env={**os.environ, "TEST_PIN": one_key.pin, "TOKENAUTH_MODULE": one_key.module},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout.split() == [str(THREADS * HANDSHAKES)]


def in_threads(count, work):
    """What each of so many threads, started together, returned or raised."""
    results, start = [], threading.Barrier(count)

    def run():
        start.wait()
        try:
            results.append(work())
        except Exception as error:  # noqa: BLE001 - the test looks at it
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    return results


@pytest.mark.parametrize("shared", [True, False])
def test_threads_that_need_the_same_login_wait_for_one(one_key, server, shared):
    log_out(one_key)
    asked = []

    def pin(request):
        asked.append(request)
        return one_key.pin

    def make():
        return tokenauth.create_context(
            one_key.uri, pin=pin, module=one_key.module, cafile=server.cafile, reuse_sessions=False
        )

    context = make()
    calls = counting.since()
    answers = in_threads(8, lambda: fetch(context if shared else make(), server.port))
    assert all(b"CN=client" in answer for answer in answers), answers
    assert (len(asked), calls.logins, calls.signatures) == (1, 1, 8)


def test_a_wrong_pin_is_sent_once_however_many_threads_wait(fresh_token):
    with MTLSServer(fresh_token.ca) as server:
        context = tokenauth.create_context(fresh_token.uri, pin="0000", module=fresh_token.module, cafile=server.cafile)
        calls = counting.since()
        failures = in_threads(8, lambda: fetch(context, server.port))
    assert all(isinstance(failure, tokenauth.HandshakeFailed) for failure in failures), failures
    causes = [type(failure.__cause__) for failure in failures]
    # Who was waiting shares the outcome; who came later is told that this PIN was refused before.
    assert tokenauth.PinIncorrect in causes
    assert set(causes) <= {tokenauth.PinIncorrect, tokenauth.PinRefused}
    assert calls.logins == 1


def test_threads_sign_with_one_key(all_keys):
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

    key = tokenauth.identity(all_keys.uris["rsa2048"], pin=all_keys.token.pin).private_key
    signatures = in_threads(8, lambda: [key.sign(b"message", PKCS1v15(), hashes.SHA256()) for _ in range(50)])
    assert all(made == [signatures[0][0]] * 50 for made in signatures)
