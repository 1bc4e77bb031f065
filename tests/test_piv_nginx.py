"""What mutual TLS with nginx costs at a PIV card: PIN tries, logins, signatures, whatever happens to it meanwhile."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.nginx import Nginx, NginxOptions
from tests.support.piv.handle import Holder
from tests.support.piv.place import PIN, Place
from tests.support.piv.profile import yubikey
from tests.support.piv.stack import YUBIKEY_READER, CardStack, opensc_module, ykcs11_module
from tokenauth.testing import Authority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="vpcd is kept apart by Linux's namespaces")

WRONG = "000000"
#: The slots of one card that all are TLS clients', and which kind of key is in them.
CLIENTS = {
    "9A": Holder("rsa2048", "9A"),
    "9C": Holder("p256", "9C"),
    "9D": Holder("p384", "9D"),
    "9E": Holder("p256", "9E"),
}


def stack_for(module: str, **options) -> CardStack:
    if module == "ykcs11":
        return CardStack(yubikey(), readers=(YUBIKEY_READER,), **options)
    return CardStack(**options)


MODULES = {"opensc": opensc_module, "ykcs11": ykcs11_module}


@pytest.fixture(scope="module", params=["opensc", "ykcs11"])
def clients(request) -> Iterator[tuple[str, CardStack]]:
    """The module's name, and a stack with a card of `CLIENTS`."""
    with stack_for(request.param) as stack:
        stack.card.personalise(Authority("piv CA"), CLIENTS)
        yield request.param, stack


@pytest.fixture(scope="module")
def servers(clients, tmp_path_factory) -> Iterator[Callable[[bool], Nginx]]:
    """nginx for these cards, with or without TLS sessions."""
    made: dict[bool, Nginx] = {}

    def server(tickets: bool) -> Nginx:
        if tickets not in made:
            options = NginxOptions(session_tickets=tickets)
            made[tickets] = Nginx(clients[1].card.authority, tmp_path_factory.mktemp("nginx"), options)
        return made[tickets]

    yield server
    for running in made.values():
        running.close()


def as_made(stack: CardStack) -> None:
    if stack.pcscd_pid is None:
        stack.start_pcscd()
    if stack.card.reader is None:
        stack.card.insert()
    stack.card.restore()


@pytest.fixture
def place(clients, servers) -> Place:
    """Without TLS sessions: each connection costs a signature."""
    as_made(clients[1])
    return Place(clients[1], MODULES[clients[0]](), servers(False))


@pytest.fixture
def with_tickets(place, servers) -> Place:
    return place._replace(server=servers(True))


def costs(place: Place) -> tuple[int, int]:
    """How often the card compared a PIN, and how often it signed."""
    counters = place.stack.card.counters
    return counters.pin_attempts, sum(counters.signatures.values())


def operations(place: Place) -> list[str]:
    """The VERIFY commands with a PIN and the GENERAL AUTHENTICATEs (their last parts), with their status words."""
    lines = [line.replace(" ", "") for line in place.stack.card.log]
    kinds = {"00200080(13": "PIN", "00871": "sign", "008707": "sign"}
    found = []
    for line in lines:
        kind = next((name for start, name in kinds.items() if line.startswith(start)), None)
        if kind:
            found.append(f"{kind} {line.partition('->')[2][:4]}")
    return found


# --- what a request costs ---


@pytest.mark.parametrize(
    ("slot", "logins"),
    [("9A", 1), ("9D", 1), ("9C", 4)],  # 9C: the login that makes the key show, and one for each signature
)
def test_three_connections(place, slot, logins):
    assert place.steps("get", "get", "get", "prompts", slot=slot) == ["ok", "ok", "ok", str(logins)]
    assert costs(place) == (logins, 3)
    assert place.stack.card.counters.signatures == {slot: 3}


def test_the_card_authentication_key_needs_no_pin(place):
    steps = place.steps("get", "get", "prompts", slot="9E")
    assert steps[:2] == ["ok", "ok"]
    # ykcs11 shows no private key before a login, whatever its slot.
    assert steps[2] == ("0" if place.module.name.startswith("opensc") else "1")
    assert costs(place) == (int(steps[2]), 2)


@pytest.mark.parametrize("slot", ["9A", "9C", "9D", "9E"])
def test_the_command(place, slot):
    identity = f"pkcs11:id=%0{'ACDE'.index(slot[1]) + 1}"
    done = place.get("-i", identity)
    assert done.returncode == 0, done.stderr.decode()
    answer = Nginx.parse(done.stdout)
    assert answer["ssl_client_s_dn"] == f"CN={slot}"
    assert answer["ssl_client_verify"] == "SUCCESS"
    assert place.stack.card.counters.signatures == {slot: 1}


def test_a_p256_key_in_slot_9a(make_stack, tmp_path):
    stack, authority = make_stack(), Authority("piv CA")
    stack.card.personalise(authority, {"9A": Holder("p256", "9A")})
    with Nginx(authority, tmp_path) as server:
        place = Place(stack, opensc_module(), server)
        assert place.steps("get", "get") == ["ok", "ok"]
        assert costs(place) == (1, 2)


def test_a_slow_card_and_a_server_that_gives_tickets(with_tickets):
    with_tickets.stack.card.set_latency("GENERAL AUTHENTICATE", 0.45)
    assert with_tickets.steps(*["get"] * 20, "prompts") == ["ok"] * 20 + ["1"]
    logins, signatures = costs(with_tickets)
    assert logins == 1
    assert signatures <= 2


# --- PINs ---


@pytest.mark.parametrize("slot", ["9A", "9C"])
def test_a_wrong_pin_costs_one_try(place, slot):
    first, second = place.steps("get", "get", slot=slot, pin=WRONG)
    assert first.startswith("PinIncorrect: ")
    assert second.startswith("PinRefused: ")
    assert costs(place) == (1, 0)
    assert place.stack.card.pin_tries == 2
    assert place.get("-i", f"pkcs11:id=%0{'ACDE'.index(slot[1]) + 1}").returncode == 0
    assert place.stack.card.pin_tries == 3


def test_a_wrong_pin_for_one_signature(place):
    """The login was right, the PIN before the signature is wrong: nothing is signed, and the next one is as ever."""
    # Whatever the module forgot, the right PIN is asked for again: once for the login, once for the signature.
    wrong, right, again = place.steps("get", "get", "get", slot="9C", pin=f"{PIN},{WRONG},{PIN}")
    assert wrong.startswith("PinIncorrect: ")
    assert (right, again) == ("ok", "ok")
    assert operations(place) == [
        *("PIN 9000", "PIN 63C2"),
        *("PIN 9000", "PIN 9000", "sign 9000"),
        *("PIN 9000", "sign 9000"),
    ]
    assert place.stack.card.pin_tries == 3


def test_a_signature_that_the_card_refuses(place):
    place.stack.card.fail("GENERAL AUTHENTICATE", 0x6982, 0x6982)
    assert place.steps("sign", "sign", slot="9C")[1] == "ok"
    assert place.stack.card.pin_tries == 3
    assert "empty" not in " ".join(place.stack.card.log)


def test_the_last_try_and_a_blocked_pin(place):
    select, verify = "00A404000BA000000308000010000100", "002000800830303030303030FF"
    for _ in range(2):
        place.stack.run("opensc-tool", "--send-apdu", select, "--send-apdu", verify)
    assert place.stack.card.pin_tries == 1
    before = costs(place)
    assert place.steps("get", "sign")[0].startswith("PinRefused: ")
    assert b"only one PIN try is left" in place.get("-i", "pkcs11:id=%01").stderr
    assert costs(place) == before
    (token,) = json.loads(place.tokenauth("list", "--json").stdout)
    assert token["pin_state"] == "final"
    place.stack.run("opensc-tool", "--send-apdu", select, "--send-apdu", verify)
    assert place.stack.card.pin_tries == 0
    before = costs(place)
    assert place.steps("get", "sign") == [text for text in place.steps("get", "sign") if "PinLocked" in text]
    assert place.get("-i", "pkcs11:id=%01", "--allow-final-try").returncode == 4
    assert costs(place) == before


# --- in and out, again and again ---

CYCLES = 20


def test_the_card_is_taken_out_and_put_back(with_tickets):
    done = with_tickets.steps("get", *["remove", "get", "insert", "get"] * CYCLES, "prompts", "quick", timeout=120)
    assert done[0] == "ok"
    without, after = done[2 : 1 + 4 * CYCLES : 4], done[4 : 1 + 4 * CYCLES : 4]
    assert all(text.startswith("TokenRemoved: ") for text in without), without
    assert after == ["ok"] * CYCLES
    assert done[-2:] == [str(1 + CYCLES), "ok"]
    # The kept TLS sessions were of no use: the card was out.
    assert costs(with_tickets) == (1 + CYCLES, 1 + CYCLES)


def test_the_card_is_back_before_anybody_looks(with_tickets):
    done = with_tickets.steps("get", *["remove", "insert", "get"] * CYCLES, "prompts", timeout=120)
    assert done == ["ok"] * (1 + 3 * CYCLES) + [str(1 + CYCLES)]
    assert costs(with_tickets) == (1 + CYCLES, 1 + CYCLES)


def test_the_card_is_pulled_out_while_it_signs(place):
    done = place.steps("get", *["pulled", "get", "insert", "get"] * CYCLES, timeout=120)
    assert done.pop(0) == "ok"
    assert all(text.startswith("TokenRemoved: ") for text in done[0::4] + done[1::4]), done
    assert done[3::4] == ["ok"] * CYCLES
    assert costs(place)[1] == 1 + CYCLES
    assert place.stack.card.pin_tries == 3


def test_the_card_is_pulled_out_while_it_looks_at_the_pin(place):
    done = place.steps(*["pulled_early", "get", "insert"] * 3, "get", timeout=120)
    assert all(text.startswith("TokenRemoved: ") for text in done[0:-1:3] + done[1:-1:3]), done
    assert done[-1] == "ok"
    assert place.stack.card.pin_tries == 3


def test_openscs_files_of_certificates_do_not_stand_in_for_the_card(tmp_path):
    authority = Authority("piv CA")
    with CardStack(file_cache=True) as stack:
        stack.card.personalise(authority, {"9A": Holder("p256", "9A")})
        with Nginx(authority, tmp_path, NginxOptions(session_tickets=True)) as server:
            place = Place(stack, opensc_module(), server)
            done = place.steps("get", *["remove", "get", "list", "insert", "get"] * 3, "prompts", "quick")
            read = stack.card.counters.instructions["GET RESPONSE"]
            assert place.steps("get") == ["ok"]
            assert stack.card.counters.instructions["GET RESPONSE"] == read  # the files answer
    assert all(text.startswith("TokenRemoved: ") for text in done[2:-2:5])
    assert done[5:-2:5] == ["ok"] * 3
    assert done[-2:] == ["4", "ok"]


def test_a_card_that_was_never_there(place):
    place.stack.card.remove()
    done = place.steps("get", "quick", "insert", "get")
    assert done[0].startswith("TokenNotFound: ")
    assert done[1:] == ["ok"] * 3


# --- pcscd ---


def test_pcscd_is_killed_and_comes_back(place):
    done = place.steps("get", *["restart", "get"] * 3, "prompts")
    assert done == ["ok"] * 7 + ["4"]
    assert place.stack.card.pin_tries == 3


def test_without_pcscd(place):
    done = place.steps("get", *["stop", "get", "start", "get"] * 3, "quick")
    assert all(text.startswith(("TokenRemoved: ", "ModuleError: ")) for text in done[2:-1:4]), done
    assert done[4:-1:4] == ["ok"] * 3
    assert done[-1] == "ok"
