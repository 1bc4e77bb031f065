"""A card that is pulled out and put back at any moment, while many threads use it."""

from __future__ import annotations

import gc
import os
import random
import ssl
import threading
import time
from contextlib import suppress
from typing import Any, NamedTuple

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

import tokenauth
from tests.support.connect import fetch
from tests.support.faulty_module import FaultyModule
from tokenauth.pkcs11 import modules
from tokenauth.pkcs11.modules import load_module
from tokenauth.pkcs11.returnvalues import ReturnValue
from tokenauth.pkcs11.tokens import Token
from tokenauth.testing import MTLSServer, SoftToken

pytestmark = pytest.mark.xdist_group("removals")

REMOVALS = 50
THREADS = 6
SLOTS = (None, None, 1, 3, 7)  # None: where it was
LONGEST = 5.0  # seconds that a handshake may take, whatever happens to the card
#: Where a card takes its time, so that it is pulled out in the middle of everything; milliseconds at most.
SLOW = {
    "C_GetSlotList": 1,
    "C_GetTokenInfo": 1,
    "C_OpenSession": 2,
    "C_FindObjectsInit": 1,
    "C_FindObjects": 2,
    "C_GetAttributeValue": 1,
    "C_Login": 8,
    "C_SignInit": 2,
    "C_Sign": 4,
}


@pytest.fixture(scope="module")
def token():
    with SoftToken("pulled out") as made:
        yield made


@pytest.fixture(scope="module")
def server(token):
    with MTLSServer(token.ca) as running:
        yield running


class Handshake(NamedTuple):
    undisturbed: bool
    error: BaseException | None
    seconds: float


class Card:
    """A card that somebody plays with."""

    def __init__(self, faulty: FaultyModule, moments: random.Random) -> None:
        self.faulty = faulty
        self.moments = moments
        self.returns = 0
        self._changes = 0  # odd while the card is out

    @property
    def state(self) -> int:
        return self._changes

    def play(self) -> None:
        """Out and in again, so many times, at random moments."""
        for _ in range(REMOVALS):
            slow = self.moments.sample(sorted(SLOW), 3)
            self.faulty.set(**{f"delay__{name}": 0 for name in SLOW})
            self.faulty.set(**{f"delay__{name}": self.moments.randint(0, SLOW[name]) for name in slow})
            time.sleep(self.moments.uniform(0, 0.08))
            self._changes += 1
            self.faulty.remove()
            time.sleep(self.moments.choice((0, 0.002, 0.02)) * self.moments.random())
            self.faulty.insert(self.moments.choice(SLOTS))
            self._changes += 1
            self.returns += 1

    def handshake(self, context, port) -> Handshake:
        before, begun, error = self.state, time.monotonic(), None
        try:
            assert b"CN=client" in fetch(context, port)
        except BaseException as caught:  # noqa: BLE001 - looked at below
            error = caught
        return Handshake(before % 2 == 0 and self.state == before, error, time.monotonic() - begun)


class Logins:
    """What the card answered to each PIN that was sent."""

    def __init__(self, module, monkeypatch) -> None:
        self.answers: list[str] = []
        self._login = module.cryptoki.login
        monkeypatch.setattr(module.cryptoki, "login", self._send)

    def _send(self, *arguments) -> None:
        try:
            self._login(*arguments)
        except ReturnValue as error:
            self.answers.append(error.name)
            raise
        self.answers.append("CKR_OK")


def under_load(card: Card, contexts, port) -> list[Handshake]:
    """All handshakes of as many threads as there are contexts, while somebody plays with the card."""
    over, done = threading.Event(), []

    def work(context) -> None:
        while not over.is_set():
            done.append(card.handshake(context, port))

    threads = [threading.Thread(target=work, args=(context,)) for context in contexts]
    for thread in threads:
        thread.start()
    try:
        card.play()
    finally:
        over.set()
        for thread in threads:
            thread.join(2 * LONGEST)
    assert not any(thread.is_alive() for thread in threads)
    return done


@pytest.mark.parametrize("removable", [False, True])
def test_fifty_removals_under_load(token, server, tmp_path, monkeypatch, removable):
    seed = int(os.environ.get("TOKENAUTH_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"again with: TOKENAUTH_TEST_SEED={seed}")  # shown if the test fails
    card = Card(FaultyModule(token, tmp_path), random.Random(seed))
    card.faulty.set(removable=removable, pin_tries=3)
    logins = Logins(load_module(card.faulty.path), monkeypatch)

    def make():
        return tokenauth.create_context(
            token.uri, pin=token.pin, module=card.faulty.path, cafile=server.cafile, reuse_sessions=False
        )

    shared = make()
    contexts = [shared if number % 2 else make() for number in range(THREADS)]
    for context in contexts:
        fetch(context, server.port)  # from now on they know the token

    done = under_load(card, contexts, server.port)

    strange = [made for made in done if made.error is not None and (made.undisturbed or not explained(made.error))]
    assert not strange, f"{len(strange)} of {len(done)}: {[describe(made) for made in strange[:5]]}"
    assert max(made.seconds for made in done) < LONGEST
    accepted = logins.answers.count("CKR_OK")
    assert accepted <= card.returns + 1, logins.answers
    # A PIN on its way to a card that left is lost, and that is the only way to lose one.
    assert set(logins.answers) <= {"CKR_OK", "CKR_DEVICE_REMOVED", "CKR_SESSION_HANDLE_INVALID"}
    assert card.faulty.pin_left == 3
    assert sum(made.error is None for made in done) > REMOVALS  # it was no idle play
    for context in contexts:
        fetch(context, server.port)


def explained(error: BaseException) -> bool:
    return isinstance(error, tokenauth.HandshakeFailed) and isinstance(error.__cause__, tokenauth.TokenRemoved)


def describe(made: Handshake) -> str:
    cause = made.error and made.error.__cause__
    return f"undisturbed: {made.undisturbed}, {made.error!r} from {cause!r}"


# One fault at each call of a handshake.

DEVICE_REMOVED, SESSION_HANDLE_INVALID, USER_NOT_LOGGED_IN = 0x32, 0xB3, 0x101
GENERAL_ERROR = 0x5
SEEING = {"C_GetSlotList", "C_GetSlotInfo", "C_GetTokenInfo"}
WRONG = "00000000-wrong"
#: What a handshake calls once it has seen that the card is there, but for the login.
CALLED = sorted({*SLOW, "C_FindObjectsFinal", "C_GetMechanismList", "C_GetMechanismInfo"} - SEEING - {"C_Login"})


def context_for(card, token, server, pin=None):
    return tokenauth.create_context(
        token.uri, pin=pin or token.pin, module=card.path, cafile=server.cafile, reuse_sessions=False
    )


@pytest.mark.parametrize("function", CALLED)
@pytest.mark.parametrize("answer", [DEVICE_REMOVED, SESSION_HANDLE_INVALID])
def test_a_card_that_was_away_for_a_moment_at_any_call(token, server, card, function, answer):
    """The handshake succeeds: nothing that it saw before is taken for all there is."""
    for call in range(1, 100):
        load_module(card.path).reload()
        card.reset_counts()
        card.set(**{f"fail__{function}": (call, answer)})
        assert b"CN=client" in fetch(context_for(card, token, server), server.port), call
        assert card.calls("C_Login") <= 2
        if card.calls(function) < call:
            break
    assert call > 1


@pytest.mark.parametrize("function", sorted(SEEING))
def test_a_card_that_does_not_show_for_a_moment(token, server, card, function):
    context = context_for(card, token, server)
    fetch(context, server.port)
    for call in range(1, 4):
        context._tokenauth.forget()
        card.close_sessions()
        card.set(**{f"fail__{function}": (call, DEVICE_REMOVED)})
        with suppress(tokenauth.HandshakeFailed):
            assert b"CN=client" in fetch(context, server.port)
        assert b"CN=client" in fetch(context, server.port)


def test_a_card_that_leaves_while_the_pin_is_on_its_way(token, server, card):
    """It may have counted the PIN or not, so the PIN is not sent again; it was not refused either."""
    context = context_for(card, token, server)
    card.set(fail__C_Login=(1, DEVICE_REMOVED))
    with pytest.raises(tokenauth.HandshakeFailed, match="removed during the login") as failed:
        fetch(context, server.port)
    assert isinstance(failed.value.__cause__, tokenauth.TokenRemoved)
    assert card.calls("C_Login") == 1
    fetch(context, server.port)
    assert card.calls("C_Login") == 2


def test_a_module_that_does_not_say_that_the_card_left_during_the_login(token, server, card):
    context = context_for(card, token, server, pin=lambda _request: card.remove() or token.pin)
    card.set(always__C_Login=GENERAL_ERROR)
    with pytest.raises(tokenauth.HandshakeFailed) as failed:
        fetch(context, server.port)
    assert isinstance(failed.value.__cause__, tokenauth.TokenRemoved)
    assert card.calls("C_Login") == 1


def test_a_module_that_does_not_say_that_the_card_left_during_the_signature(token, server, card):
    context = context_for(card, token, server)
    fetch(context, server.port)
    card.set(always__C_Sign=GENERAL_ERROR)
    with pytest.raises(tokenauth.HandshakeFailed, match="CKR_GENERAL_ERROR"):
        fetch(context, server.port)  # the module was restarted now
    card.set(delay__C_SignInit=300)
    threading.Timer(0.1, card.remove).start()
    with pytest.raises(tokenauth.HandshakeFailed) as failed:
        fetch(context, server.port)
    assert isinstance(failed.value.__cause__, tokenauth.TokenRemoved)


def test_an_unknown_failure_of_the_login_for_one_signature_is_not_repeated(token, card):
    card.set(always_auth=True)
    key = tokenauth.identity(token.uri, pin=token.pin, module=card.path).private_key
    sign(key)
    card.set(always__C_Login=GENERAL_ERROR)
    card.reset_counts()
    with pytest.raises(tokenauth.TokenAuthError, match="CKR_GENERAL_ERROR"):
        sign(key)
    assert card.calls("C_Login") == 1


def test_a_login_that_a_token_forgot(token, card):
    key = tokenauth.identity(token.uri, pin=token.pin, module=card.path).private_key
    sign(key)
    card.set(fail__C_SignInit=(1, USER_NOT_LOGGED_IN))
    sign(key)


def test_a_key_that_does_not_show_because_somebody_logged_out(token, card):
    """It is not said to be missing."""
    first, second = (tokenauth.identity(token.uri, pin=token.pin, module=card.path).private_key for _ in range(2))
    sign(first)
    card.log_out()
    card.reset_counts()
    sign(second)
    assert card.calls("C_Login") == 1


def test_a_module_that_somebody_else_finalised(token, card):
    key = tokenauth.identity(token.uri, pin=token.pin, module=card.path).private_key
    sign(key)
    module = load_module(card.path)
    module.cryptoki.finalise()
    sign(key)
    module.cryptoki.finalise()
    assert [found.label for found in module.tokens()[0]] == ["pulled out"]


def test_a_card_that_is_out_is_said_so_whenever_it_is_asked_for(token, server, card):
    context = context_for(card, token, server)
    fetch(context, server.port)
    card.remove()
    for _ in range(3):
        with pytest.raises(tokenauth.HandshakeFailed, match="insert it again") as failed:
            fetch(context, server.port)
        assert isinstance(failed.value.__cause__, tokenauth.TokenRemoved)


def test_a_server_works_again_when_its_card_is_back(tmp_path):
    with SoftToken("server", key_type=None) as token:
        token.add_identity("localhost", purposes=["tls-server"], names=["localhost"])
        card = FaultyModule(token, tmp_path)
        context = tokenauth.create_context(token.uri, pin=token.pin, module=card.path, server_side=True)
        with MTLSServer(token.ca, client_auth="none", context=context) as server:
            client = ssl.create_default_context(cafile=server.cafile)
            fetch(client, server.port)
            card.remove()
            for _ in range(2):
                with pytest.raises(OSError, match=r"alert|EOF|reset"):
                    fetch(client, server.port)
            gc.collect()
            card.insert(5)
            fetch(client, server.port)


def test_a_connection_keeps_its_key_when_another_one_fails(token, server, card):
    """What another connection's failure makes the context forget, this one still needs to sign."""
    contexts: list[Any] = []
    contexts.append(context_for(card, token, server, pin=lambda _: contexts[0]._tokenauth.forget() or token.pin))
    [context] = contexts
    assert b"CN=client" in fetch(context, server.port)


# Which card it is.


def test_the_pin_of_one_card_is_not_sent_to_another(token, card):
    """Both have a key with that CKA_ID, in the same slot; and the sessions that would tell are lent at that moment."""
    with SoftToken("another") as another:
        key = tokenauth.identity(token.uri, pin=token.pin, module=card.path).private_key
        [seen] = load_module(card.path).tokens()[0]
        with seen.session("holding it back"):
            card.exchange(another)
            with pytest.raises(tokenauth.TokenRemoved, match="pulled out"):
                sign(key)
        seen.resettle(None)  # a pool without sessions
        with pytest.raises(tokenauth.TokenRemoved, match="pulled out"):
            sign(key)
        assert card.calls("C_Login") == 0
        card.exchange(token)
        sign(key)
        assert card.calls("C_Login") == 1


def test_a_card_exchanged_while_the_pin_is_typed_gets_no_pin(token, card):
    with SoftToken("another") as another:
        key = tokenauth.identity(
            token.uri, pin=lambda _request: card.exchange(another) or token.pin, module=card.path
        ).private_key
        with pytest.raises(tokenauth.TokenRemoved, match="pulled out"):
            sign(key)
    assert card.calls("C_Login") == 1  # in a session that the exchange had ended: it reached neither card


def test_a_refused_pin_is_remembered_although_the_card_left_and_the_module_was_restarted(token, card):
    card.set(pin_tries=3)

    def attempt():
        sign(tokenauth.identity(token.uri, pin=WRONG, module=card.path).private_key)

    with pytest.raises(tokenauth.PinIncorrect):
        attempt()
    card.remove()
    load_module(card.path).reload()
    card.insert(2)
    with pytest.raises(tokenauth.PinRefused):
        attempt()
    assert card.pin_left == 2


def test_threads_that_see_a_token_first_see_the_same(token, card, monkeypatch):
    """Else each had a login of its own, and did not know which PINs were refused."""
    module = load_module(card.path)

    def make(*arguments):
        time.sleep(0.02)
        return Token(*arguments)

    monkeypatch.setattr(modules, "Token", make)
    start, seen = threading.Barrier(8), []

    def look():
        start.wait()
        seen.extend(module.tokens()[0])

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(seen) == 8
    assert len(set(map(id, seen))) == 1


def sign(key):
    data = b"to be signed"
    key.public_key().verify(key.sign(data, ec.ECDSA(hashes.SHA256())), data, ec.ECDSA(hashes.SHA256()))
