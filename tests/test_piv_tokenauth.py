"""tokenauth with a PIV card, through OpenSC's module and Yubico's, a real pcscd and real programs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.piv.handle import Holder
from tests.support.piv.place import Place
from tests.support.piv.stack import opensc_module, ykcs11_module
from tokenauth.testing import Authority, MTLSServer

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="vpcd is kept apart by Linux's namespaces")


@pytest.fixture(params=["opensc", "ykcs11"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    stack = request.getfixturevalue("piv" if request.param == "opensc" else "yubikey")
    with MTLSServer(stack.card.authority) as server:
        yield Place(stack, opensc_module() if request.param == "opensc" else ykcs11_module(), server)


def test_listing_costs_nothing(place):
    (token,) = json.loads(place.tokenauth("list", "--json").stdout)
    assert token["login_required"]
    assert token["pin_state"] == "ok"
    found = {identity["subject"]: identity for identity in token["identities"]}
    assert set(found) == {"CN=piv client", "CN=piv signer", "CN=piv key management", "CN=piv card"}
    assert found["CN=piv client"]["purposes"] == ["tls-client"]
    assert all(identity["problems"] == [] for identity in found.values())
    counters = place.stack.card.counters
    assert (counters.pin_attempts, counters.signatures) == (0, {})


def test_one_request_costs_one_login_and_one_signature(place):
    done = place.get()
    assert json.loads(done.stdout)["client_subject"] == "CN=piv client"
    counters = place.stack.card.counters
    assert (counters.pin_attempts, counters.signatures) == (1, {"9A": 1})


def test_many_handshakes_cost_one_login(place):
    assert place.steps(*["handshake"] * 4) == ["ok"] * 4
    counters = place.stack.card.counters
    assert (counters.pin_attempts, counters.signatures) == (1, {"9A": 4})


def test_a_wrong_pin_is_sent_once(place):
    first, second, third = place.steps("handshake", "handshake", "sign", pin="000000")
    assert first.startswith("PinIncorrect: ")
    assert second.startswith("PinRefused: ")
    assert third.startswith("PinRefused: ")
    assert place.stack.card.pin_tries == 2
    assert place.stack.card.counters.pin_attempts == 1


@pytest.mark.parametrize("pin", ["1234", "123", "123456789"])
def test_what_can_not_be_a_pin_costs_no_try(place, pin):
    done = place.get(pin=pin)
    assert done.returncode == 4
    assert b"take it out" not in done.stderr
    assert place.stack.card.pin_tries == 3


def test_the_last_try_is_kept(place):
    for pin in ("000000", "000001"):
        assert place.get(pin=pin).returncode == 4
    done = place.get()
    assert done.returncode == 4
    assert b"only one PIN try is left" in done.stderr
    assert place.stack.card.pin_tries == 1


def test_a_blocked_card_is_never_tried(place):
    select, verify = "00A404000BA000000308000010000100", "002000800830303030303030FF"
    for _ in range(3):
        place.stack.run("opensc-tool", "--send-apdu", select, "--send-apdu", verify)
    assert place.stack.card.pin_tries == 0
    attempts = place.stack.card.counters.pin_attempts
    done = place.get()
    assert done.returncode == 4
    assert b"the PIN is locked" in done.stderr
    assert place.stack.card.counters.pin_attempts == attempts


def test_the_signature_key_takes_the_pin_each_time(place):
    assert place.steps("sign", "sign", slot="9C") == ["ok", "ok"]
    counters = place.stack.card.counters
    assert counters.signatures == {"9C": 2}
    assert counters.pin_attempts == 3  # the login, and one for each signature


def test_the_signature_key_in_a_handshake(make_stack):
    stack = make_stack()
    authority = Authority()
    stack.card.personalise(authority, {"9C": Holder("p256")})
    with MTLSServer(authority) as server:
        assert Place(stack, opensc_module(), server).steps("handshake", "handshake", slot="9C") == ["ok", "ok"]
    assert stack.card.counters.signatures == {"9C": 2}


def test_a_card_that_is_taken_out_and_put_back(place):
    steps = ("handshake", "remove", "handshake", "insert", "handshake")
    before, _, without, _, after = place.steps(*steps)
    assert (before, after) == ("ok", "ok")
    assert without != "ok"
    assert place.stack.card.counters.signatures == {"9A": 2}


def test_sessions_kept_end_with_the_card(place):
    steps = ("connect", "connect", "remove", "connect", "insert", "connect", "connect")
    first, second, _, without, _, third, fourth = place.steps(*steps)
    assert (first, second, third, fourth) == ("ok",) * 4
    assert without.startswith("TokenRemoved")
    assert place.stack.card.counters.signatures == {"9A": 2}


def test_pcscd_is_restarted_meanwhile(place):
    assert place.steps("handshake", "restart", "handshake") == ["ok"] * 3
