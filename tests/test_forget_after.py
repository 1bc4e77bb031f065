"""Logins that end some time after their last use, so that the PIN is asked for again."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time

import pytest

import tokenauth
from tests.support.cards import in_threads, key_on, sign
from tests.support.command_line import error_of, output_of, run
from tokenauth.pin import Fd
from tokenauth.pkcs11.expiry import Expiry
from tokenauth.pkcs11.modules import load_module
from tokenauth.testing import MTLSServer, SoftToken

PIN = "5551-forget-pin"
SOON = 0.4  # seconds
NEVER_HERE = 3600.0

pytestmark = pytest.mark.xdist_group("forget_after")


@pytest.fixture(scope="module")
def token():
    with SoftToken("forget", pin=PIN) as made:
        yield made


@pytest.fixture(scope="module")
def server(token):
    with MTLSServer(token.ca) as running:
        yield running


class Person:
    """Who enters the PIN, and counts how often."""

    def __init__(self):
        self.asked = 0

    def __call__(self, request):
        self.asked += 1
        return PIN


@pytest.fixture
def person():
    return Person()


def wait_until(is_true):
    for _ in range(1000):
        if is_true():
            return
        time.sleep(0.01)
    pytest.fail("waited 10 s in vain")


def logged_in(card):
    tokens, _ = load_module(card.path).tokens()
    return tokens[0].logged_in


def test_the_token_is_logged_out_though_nobody_signs_again(card, token, person):
    key = key_on(card, token, person, forget_after=SOON)
    sign(key)
    assert (card.calls("C_Login"), card.calls("C_Logout")) == (1, 0)
    wait_until(lambda: card.calls("C_Logout") == 1)
    wait_until(lambda: not logged_in(card))
    sign(key)
    assert (card.calls("C_Login"), person.asked) == (2, 2)


def test_without_it_nothing_is_forgotten(card, token, person):
    key = key_on(card, token, person)
    sign(key)
    time.sleep(2 * SOON)
    sign(key)
    assert (card.calls("C_Login"), card.calls("C_Logout"), person.asked) == (1, 0, 1)


def test_each_signature_begins_the_time_anew(card, token, person):
    key = key_on(card, token, person, forget_after=1.5)
    end = time.monotonic() + 2.0
    while time.monotonic() < end:
        sign(key)
        time.sleep(0.05)
    assert (card.calls("C_Login"), card.calls("C_Logout")) == (1, 0)


def test_a_signature_in_progress_is_not_broken(card, token, person):
    key = key_on(card, token, person, forget_after=SOON)
    sign(key)
    card.set(delay__C_Sign=int(4000 * SOON))
    sign(key)
    assert (card.calls("C_Login"), card.calls("C_Logout")) == (1, 0)
    wait_until(lambda: card.calls("C_Logout") == 1)


def test_nor_is_a_long_entry_of_the_pin(card, token):
    def slow(request):
        time.sleep(3 * SOON)
        return PIN

    sign(key_on(card, token, slow, forget_after=SOON))
    assert (card.calls("C_Login"), card.calls("C_Logout")) == (1, 0)


def test_signatures_of_many_threads_while_it_is_forgotten_again_and_again(card, token, person):
    key = key_on(card, token, person, forget_after=0.001)

    def work():
        for _ in range(15):
            sign(key)
            time.sleep(0.004)

    assert in_threads(6, work) == []
    assert card.calls("C_Login") == person.asked > 1
    wait_until(lambda: card.calls("C_Logout") == person.asked)


def test_the_shortest_time_counts_for_all_who_use_the_login(card, token, person):
    patient = key_on(card, token, person)
    hasty = key_on(card, token, person, forget_after=SOON)
    later = key_on(card, token, person, forget_after=NEVER_HERE)
    for key in (patient, later, hasty, patient, later):
        sign(key)
    assert person.asked == 1
    wait_until(lambda: card.calls("C_Logout") == 1)
    sign(later)
    assert person.asked == 2
    time.sleep(2 * SOON)  # the hasty one has not used this login
    assert card.calls("C_Logout") == 1


@pytest.mark.parametrize("quirk", [{"removable": True}, {"cant_lock": True}, {"max_sessions": 1}], ids=str)
def test_on_poor_cards(card, token, person, quirk):
    card.set(**quirk)
    key = key_on(card, token, person, forget_after=SOON)
    for _ in range(2):
        sign(key)
        before = card.calls("C_Logout")
        wait_until(lambda before=before: card.calls("C_Logout") == before + 1)
    assert person.asked == 2


def test_a_token_that_refuses_to_log_out_is_logged_out_all_the_same(card, token, person):
    key = key_on(card, token, person, forget_after=SOON)
    assert in_threads(4, lambda: sign(key)) == []  # several sessions
    card.set(always__C_Logout=0x6)
    wait_until(lambda: not logged_in(card))
    assert card.calls("C_CloseSession") == card.calls("C_OpenSession") > 0
    sign(key)
    assert card.calls("C_Login") == person.asked == 2


def test_a_card_that_left_in_the_meantime(card, token, person):
    key = key_on(card, token, person, forget_after=SOON)
    sign(key)
    card.remove()
    wait_until(lambda: card.calls("C_Logout") == 1)
    card.insert()
    sign(key)
    assert person.asked == 2


def test_a_handshake_asks_again_and_says_what_for(card, token, server):
    reasons = []

    def person(request):
        reasons.append(request.reason)
        return PIN

    context = tokenauth.create_context(
        f"{token.uri};object=client", pin=person, module=card.path, cafile=server.cafile, forget_after=SOON
    )
    from tests.support.connect import fetch

    for count in (1, 2):
        fetch(context, server.port)
        wait_until(lambda count=count: card.calls("C_Logout") == count)
    assert reasons == ["to authenticate to localhost"] * 2


# What sources remember.


def fd_with(text):
    reader, writer = os.pipe()
    os.write(writer, text.encode())
    os.close(writer)
    return reader


def test_a_descriptor_gives_its_pin_once(card, token):
    reader = fd_with(PIN + "\n")
    key = key_on(card, token, Fd(reader), forget_after=SOON)
    sign(key)
    sign(key)
    wait_until(lambda: card.calls("C_Logout") == 1)
    with pytest.raises(tokenauth.PinRequired, match=rf"file descriptor {reader} gave its PIN, now forgotten; .*prompt"):
        sign(key)
    os.close(reader)


def test_the_descriptor_of_who_forgets_nothing_is_left_alone(card, token, person):
    reader = fd_with(PIN + "\n")
    lasting = key_on(card, token, Fd(reader))
    sign(lasting)
    sign(key_on(card, token, person, forget_after=SOON))
    wait_until(lambda: card.calls("C_Logout") == 1)
    sign(lasting)
    assert person.asked == 0
    os.close(reader)


def test_a_descriptor_that_was_not_read_is_not_forgotten():
    reader = fd_with(PIN)
    source = Fd(reader)
    source.forget()
    assert source(tokenauth.PinRequest("x")) == PIN
    os.close(reader)


def test_a_str_is_kept(card, token):
    key = key_on(card, token, PIN, forget_after=SOON)
    sign(key)
    wait_until(lambda: card.calls("C_Logout") == 1)
    sign(key)
    assert card.calls("C_Login") == 2


class Vault(Person):
    """A source that remembers, and fails to forget."""

    forgot = 0

    def forget(self):
        self.forgot += 1
        raise LookupError(f"the vault with {PIN} is shut")


def test_a_source_of_yours_is_told_once(card, token, caplog):
    vault = Vault()
    key = key_on(card, token, vault, forget_after=SOON)
    for count in (1, 2):
        sign(key)
        wait_until(lambda count=count: vault.forgot == count)
    assert [record.getMessage() for record in caplog.records] == ["a PIN source could not forget: LookupError"] * 2
    assert PIN not in caplog.text


def test_a_key_that_asks_each_time_is_forgotten_too(card, token):
    card.set(always_auth=True)
    vault = Vault()
    key = key_on(card, token, vault, forget_after=SOON)
    sign(key)
    sign(key)
    assert vault.asked == 2
    wait_until(lambda: card.calls("C_Logout") == 1)
    wait_until(lambda: vault.forgot == 1)


# Forks, and the end of the program.


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_fork(card, token, person):
    key = key_on(card, token, person, forget_after=SOON)
    sign(key)
    child = os.fork()
    if child == 0:
        try:
            sign(key)  # a new login, of its own
            wait_until(lambda: not logged_in(card))
            sign(key)
            os._exit(0 if person.asked == 3 else 2)
        except BaseException:  # noqa: BLE001 - the child must end here
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    wait_until(lambda: not logged_in(card))
    sign(key)
    assert person.asked == 2


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_what_is_due_in_a_child_ends_before_its_first_use(card, token):
    vault = Vault()
    key = key_on(card, token, vault, forget_after=SOON)
    sign(key)
    child = os.fork()
    if child == 0:
        try:
            time.sleep(2 * SOON)
            sign(key)
            os._exit(0 if vault.forgot == 1 else 2)
        except BaseException:  # noqa: BLE001 - the child must end here
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_it_holds_no_program_open(card, token):
    script = (
        "import sys, tokenauth; from tests.support.cards import sign;"
        f"sign(tokenauth.identity({token.uri!r} + ';object=client', pin=sys.stdin.readline().strip(),"
        f" module={card.path!r}, forget_after=3600).private_key)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], input=PIN, capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert card.calls("C_Logout") == 0


def test_a_program_that_ends_waits_for_a_logout_that_has_begun(card, token):
    card.set(delay__C_Logout=300)
    script = (
        "import sys, time, tokenauth; from tests.support.cards import sign;"
        f"sign(tokenauth.identity({token.uri!r} + ';object=client', pin=sys.stdin.readline().strip(),"
        f" module={card.path!r}, forget_after=0.01).private_key); time.sleep(0.15)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], input=PIN, capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert card.calls("C_Logout") == 1


def test_a_thread_that_is_late_does_not_let_it_be_used(monkeypatch):
    """As when the computer slept, and waiting did not count that time."""
    clock = [1000.0]
    monkeypatch.setattr("tokenauth.pkcs11.expiry._now", lambda: clock[0])
    ended = []
    expiry = Expiry(lambda: ended.append(clock[0]))
    expiry.begin_use()
    expiry.end_use(NEVER_HERE)
    clock[0] += NEVER_HERE - 1
    expiry.begin_use()
    assert not ended
    expiry.end_use(None)
    clock[0] += NEVER_HERE
    expiry.begin_use()
    assert len(ended) == 1
    expiry.end_use(None)
    expiry.stop()


def test_a_shorter_time_wakes_the_thread_that_waits_for_a_longer_one():
    ended = threading.Event()
    expiry = Expiry(ended.set)
    for seconds in (NEVER_HERE, 0.01):
        expiry.begin_use()
        expiry.end_use(seconds)
        time.sleep(0.05)
    assert ended.wait(10)


# What is given.


@pytest.mark.parametrize("value", [0, -1, 0.0, math.nan, math.inf, "5", True, 1j])
def test_what_is_no_time(token, value):
    for make in (tokenauth.create_context, tokenauth.Session, tokenauth.TokenAdapter, tokenauth.identity):
        with pytest.raises(ValueError, match="a positive number of seconds"):
            make(token.uri, module=token.module, forget_after=value)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon"])
def test_get_with_what_is_no_time(value):
    failure = error_of(run("get", "https://localhost:1/", "--forget-after", value), 2)
    assert "--forget-after" in failure


def test_get(card, token, server):
    arguments = (
        "get",
        server.url,
        "-i",
        f"{token.uri};object=client",
        "--cacert",
        server.cafile,
        "--module",
        card.path,
    )
    done = run(*arguments, "--pin-source", "env:PIN", "--forget-after", "0.05", PIN=PIN)
    assert '"CN=client"' in output_of(done)
