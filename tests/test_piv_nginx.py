"""What mutual TLS with nginx costs at a PIV card: PIN tries, logins, signatures, whatever happens to it meanwhile."""

from __future__ import annotations

import json
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.nginx import Nginx, NginxOptions
from tests.support.piv.fixtures import as_made
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


@pytest.fixture
def place(clients, servers) -> Place:
    """Without TLS sessions: each connection costs a signature."""
    as_made(clients[1])
    return Place(clients[1], MODULES[clients[0]](), servers(False))


@pytest.fixture
def with_tickets(place: Place, servers: Callable[[bool], Nginx]) -> Place:
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
    ("slot", "prompts", "logins"),
    [("9A", 1, 1), ("9D", 1, 1), ("9C", 3, 4)],  # 9C: once for each signature, and for the login that shows the key
)
def test_three_connections(place, slot, prompts, logins):
    assert place.steps("get", "get", "get", "prompts", slot=slot) == ["ok", "ok", "ok", str(prompts)]
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


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("key_type", ["p256", "p384"])
def test_an_elliptic_key_in_slot_9a(module, key_type, tmp_path):
    authority = Authority("piv CA")
    with stack_for(module) as stack:
        stack.card.personalise(authority, {"9A": Holder(key_type, "9A")})
        for version in ("TLSv1.2", "TLSv1.3"):
            stack.card.clear_counters()
            (directory := tmp_path / version).mkdir()
            with Nginx(authority, directory, NginxOptions(tls=version)) as server:
                place = Place(stack, MODULES[module](), server)
                assert place.steps("get", "get") == ["ok", "ok"]  # with requests
                assert costs(place) == (1, 2)
                answer = place.get("-i", "pkcs11:id=%01")
                assert Nginx.parse(answer.stdout)["ssl_client_s_dn"] == "CN=9A", answer.stderr.decode()
                assert stack.card.counters.signatures == {"9A": 3}


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
    """Nothing is sent to be signed then, not even nothing; and the next one is as ever."""
    steps = place.steps("get", "get", "get", "get", slot="9C", pin=f"{PIN},{WRONG},{PIN}")
    assert steps.pop(1).startswith("PinIncorrect: ")
    assert steps == ["ok"] * 3
    assert operations(place) == [
        *("PIN 9000", "PIN 9000", "sign 9000"),  # the login and the first signature
        "PIN 63C2",
        *("PIN 9000", "PIN 9000", "sign 9000"),  # the module has forgotten the login with the failure
        *("PIN 9000", "sign 9000"),
    ]
    assert place.stack.card.pin_tries == 3


def test_a_signature_that_the_card_refuses(place):
    """OpenSC takes its user for logged out then, and answers any PIN with OPERATION_NOT_INITIALIZED, until a login."""
    tries = 2 if place.module == opensc_module() else 1  # at one signature
    place.stack.card.fail("GENERAL AUTHENTICATE", *[0x6982] * tries)
    assert place.steps("get", "get", "get", slot="9C") == ["ok"] * 3
    assert place.stack.card.pin_tries == 3
    assert place.stack.card.counters.signatures == {"9C": 3}
    asked = [line for line in place.stack.card.log if line.startswith("00 87")]
    assert all(int(line.split("(")[1].split()[0]) > 32 for line in asked), asked  # a digest came each time


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

#: What each step comes to; a card is out for 0.8 s at least, which is how often pcscd looks at vpcd.
NOTICED = [("remove", "ok"), ("get", "TokenRemoved"), ("insert", "ok"), ("get", "ok")]
UNNOTICED = [("remove", "ok"), ("insert", "ok"), ("get", "ok")]
WHILE_IT_SIGNS = [("pulled", "TokenRemoved"), ("get", "TokenRemoved"), ("insert", "ok"), ("get", "ok")]


def test_the_card_is_taken_out_and_put_back_twenty_times(with_tickets):
    story = [("get", "ok"), *NOTICED * 7, *UNNOTICED * 6, *WHILE_IT_SIGNS * 7]
    done = with_tickets.steps(*[step for step, _ in story], "prompts", "quick", timeout=120)
    prompts, quick = done.pop(-2), done.pop()
    assert [text.partition(":")[0] for text in done] == [wanted for _, wanted in story]
    # One login and one signature each time that it was put in: the TLS sessions kept before are of no use.
    assert (costs(with_tickets), prompts, quick) == ((21, 21), "21", "ok")
    assert with_tickets.stack.card.pin_tries == 3


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


def test_the_command_waits_for_the_card(place):
    place.stack.card.remove()
    insertion = threading.Timer(1.0, place.stack.card.insert)
    insertion.start()
    done = place.get("-i", "pkcs11:id=%01", "--wait")
    insertion.join()
    assert done.stderr == b"tokenauth: waiting for a token that matches pkcs11:id=%01: insert it\n"
    assert (done.returncode, costs(place)) == (0, (1, 1))


def test_a_card_that_was_never_there(place):
    place.stack.card.remove()
    done = place.steps("get", "quick", "insert", "get")
    assert done[0].startswith("TokenNotFound: ")
    assert done[1:] == ["ok"] * 3


@pytest.mark.parametrize("slot", ["9A", "9C"])
def test_another_program_resets_the_card(place, slot):
    """Which logs everybody out: one PIN more, and nothing fails."""
    assert place.steps("get", "get", "reset", "get", "get", slot=slot) == ["ok"] * 5
    assert place.stack.card.counters.resets >= 1
    assert place.stack.card.counters.signatures == {slot: 4}
    assert place.stack.card.pin_tries == 3


# --- pcscd ---


def test_pcscd_is_killed_and_comes_back(place):
    done = place.steps("get", *["restart", "get"] * 3, "prompts")
    assert done == ["ok"] * 7 + ["4"]
    assert place.stack.card.pin_tries == 3


@pytest.mark.parametrize("slot", ["9A", "9C"])
def test_pcscd_is_killed_during_a_signature(place, slot):
    first, during, after, prompts = place.steps("get", "killed", "get", "prompts", slot=slot)
    assert (first, after) == ("ok", "ok")
    assert during.startswith(("TokenRemoved: ", "ModuleError: "))
    assert int(prompts) <= {"9A": 3, "9C": 5}[slot]
    assert place.stack.card.pin_tries == 3


def test_without_pcscd(place):
    done = place.steps("get", *["stop", "get", "start", "get"] * 3, "quick")
    assert all(text.startswith(("TokenRemoved: ", "ModuleError: ")) for text in done[2:-1:4]), done
    assert done[4:-1:4] == ["ok"] * 3
    assert done[-1] == "ok"


# --- two cards, and certificates that are nobody's ---


def test_two_cards_of_the_same_label(make_stack, tmp_path):
    stack, authority = make_stack(readers=("Left", "Right")), Authority("piv CA")
    cards = [stack.card, stack.new_card()]
    for card in cards:
        card.personalise(authority, {"9A": Holder("p256", "the same name")})  # from which OpenSC makes the label
    cards[1].insert(1)
    with Nginx(authority, tmp_path) as server:
        place = Place(stack, opensc_module(), server)
        tokens = json.loads(place.tokenauth("list", "--json").stdout)
        assert [token["label"] for token in tokens] == ["the same name"] * 2
        uris = {token["serial"]: token["identities"][0]["uri"] for token in tokens}
        assert set(uris) == {card.profile.guid.hex()[16:] for card in cards}
        both = place.get("-i", "the same name")
        assert both.returncode == 3
        assert all(uri in both.stderr.decode() for uri in uris.values())
        for card in cards:
            for other in cards:
                other.clear_counters()
            assert place.get("-i", uris[card.profile.guid.hex()[16:]]).returncode == 0
            assert [sum(other.counters.signatures.values()) for other in cards] == [other is card for other in cards]
            assert [other.counters.pin_attempts for other in cards] == [other is card for other in cards]


@pytest.fixture
def attested(make_stack: Callable[..., CardStack]) -> CardStack:
    """A YubiKey whose keys were made in it, as its attestation key can tell."""
    stack = make_stack(yubikey(), readers=(YUBIKEY_READER,))
    stack.card.personalise(Authority("piv CA"), {"9A": Holder("p256", "9A"), "9C": Holder("p256", "9C", ("document",))})
    stack.card.make_key("F9", "p256")
    stack.card.store_certificate("F9", Authority("Yubico PIV Attestation").issue(stack.card.request("F9", "made up")))
    return stack


def test_attestations_are_nobodys_identities(attested, tmp_path):
    certificates = attested.run("pkcs11-tool", "--module", ykcs11_module(), "--list-objects", "--type", "cert").stdout
    labels = [line.split(":", 1)[1].strip() for line in certificates.decode().splitlines() if "label:" in line]
    assert {f"X.509 Certificate for PIV Attestation{of}" for of in ("", " 9a", " 9c")} < set(labels), labels
    names_no_authorities = NginxOptions(trusted_ca=attested.card.authority.root.pem)
    with Nginx(attested.card.authority, tmp_path, names_no_authorities) as server:
        place = Place(attested, ykcs11_module(), server)
        (token,) = json.loads(place.tokenauth("list", "--json").stdout)
        assert {identity["subject"] for identity in token["identities"]} == {"CN=9A", "CN=9C"}
        assert len(token["identities"]) == 2
        assert place.steps("get") == ["ok"]  # pkcs11:id=%01 still selects one
        answer = place.get()  # and of all that is there, one is a TLS client's
        assert b"ssl_client_s_dn=CN=9A" in answer.stdout, answer.stderr.decode()
