"""The virtual PIV card's parsers and its application, APDU by APDU, without a reader."""

from __future__ import annotations

import hashlib
import secrets
from functools import partial
from typing import Any

import pytest
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.piv import apdu, objects, tlv
from tests.support.piv.apdu import INSTRUCTIONS, APDUError, Command
from tests.support.piv.card import Card
from tests.support.piv.keys import KEY_TYPES, generate
from tests.support.piv.profile import NIST_ATR, YUBIKEY_ATR, Profile, yubikey
from tests.support.piv.references import padded

PIN, PUK = padded("123456"), padded("12345678")
WRONG = padded("000000")
#: One key of each kind for all tests; of any type to the type checker, as each test knows which it uses.
KEYS: dict[int, Any] = {
    slot: generate(KEY_TYPES[kind]) for slot, kind in {0x9A: "rsa2048", 0x9C: "p256", 0x9D: "p384"}.items()
}


class Terminal:
    """Sends commands to a card."""

    def __init__(self, profile: Profile | None = None) -> None:
        self.card = Card(profile or Profile())
        self.card.keys.update(KEYS)

    def send(self, ins: int, parameters: int = 0, data: bytes = b"", *, cla: int = 0, le: int = 0) -> tuple[int, bytes]:
        """One command; the status word and the data of its answer."""
        body = bytes([len(data)]) + data if data else b""
        answer = self.card.transmit(bytes([cla, ins]) + parameters.to_bytes(2, "big") + body + bytes([le]))
        return int.from_bytes(answer[-2:], "big"), answer[:-2]

    def send_long(self, ins: int, parameters: int, data: bytes) -> tuple[int, bytes]:
        """A command in as many parts as it needs, and an answer likewise."""
        while len(data) > 255:
            assert self.send(ins, parameters, data[:255], cla=0x10) == (0x9000, b"")
            data = data[255:]
        status, answer = self.send(ins, parameters, data)
        while status >> 8 == 0x61:
            status, more = self.send(apdu.GET_RESPONSE)
            answer += more
        return status, answer

    def verify(self, pin: bytes = PIN) -> int:
        return self.send(apdu.VERIFY, 0x80, pin)[0]

    def tries(self) -> int:
        return self.send(apdu.VERIFY, 0x80)[0]

    def sign(self, slot: int, data: bytes) -> tuple[int, bytes]:
        template = tlv.encode(0x7C, tlv.encode(0x82), tlv.encode(0x81, data))
        status, answer = self.send_long(apdu.GENERAL_AUTHENTICATE, self.card.keys[slot].algorithm << 8 | slot, template)
        return status, tlv.find(tlv.find(answer, 0x7C), 0x82) if status == 0x9000 else b""

    def authenticate(self, key: bytes | None = None) -> int:
        """As the administrator, both sides to each other."""
        profile = self.card.profile
        kind = TripleDES if profile.management_algorithm == 3 else algorithms.AES
        cipher = Cipher(kind(key or profile.management_key), modes.ECB())
        general = partial(self.send, apdu.GENERAL_AUTHENTICATE, profile.management_algorithm << 8 | 0x9B)
        witness = tlv.find(tlv.find(general(bytes.fromhex("7C028000"))[1], 0x7C), 0x80)
        challenge = secrets.token_bytes(len(witness))
        answers = tlv.encode(0x80, cipher.decryptor().update(witness)) + tlv.encode(0x81, challenge)
        status, answer = general(tlv.encode(0x7C, answers))
        if status == 0x9000:
            response = tlv.find(tlv.find(answer, 0x7C), 0x82)
            assert cipher.decryptor().update(response) == challenge
        return status


# --- BER-TLV and APDUs ---


@given(st.lists(st.tuples(st.sampled_from([0x53, 0x70, 0x7E, 0x5F2F, 0x7F49, 0x5FC105, 0]), st.binary(max_size=300))))
def test_tlv_round_trip(given_objects):
    assert tlv.parse(b"".join(tlv.encode(tag, value) for tag, value in given_objects)) == given_objects


def test_a_long_value_has_a_long_length():
    assert tlv.encode(0x53, bytes(128))[:3] == bytes.fromhex("538180")
    assert tlv.encode(0x53, bytes(256))[:4] == bytes.fromhex("53820100")
    assert tlv.parse(tlv.encode(0x53, bytes(70000))) == [(0x53, bytes(70000))]


@given(st.binary(max_size=80))
def test_rubbish_is_no_tlv_or_all_of_it_is(data):
    try:
        found = tlv.parse(data)
    except tlv.TLVError:
        return
    assert sum(len(value) for _, value in found) + 2 * len(found) <= len(data)


@pytest.mark.parametrize("bad", ["53", "5F", "5F81", "5305AA", "5380", "5384FFFFFFFF", "538201", "1F8181810100"])
def test_broken_tlv(bad):
    with pytest.raises(tlv.TLVError):
        tlv.parse(bytes.fromhex(bad))


@pytest.mark.parametrize(
    ("raw", "data", "le"),
    [
        ("00200080", "", None),
        ("00CB3FFF00", "", 256),
        ("00CB3FFF10", "", 16),
        ("00CB3FFF025C00", "5C00", None),
        ("00CB3FFF025C0000", "5C00", 256),
        ("00CB3FFF000000", "", 65536),
        ("00CB3FFF000100", "", 256),
        ("00CB3FFF0000025C00", "5C00", None),
        ("00CB3FFF0000025C000000", "5C00", 65536),
        ("00CB3FFF0000025C000800", "5C00", 2048),
    ],
)
def test_commands(raw, data, le):
    assert Command.parse(bytes.fromhex(raw)) == (0, *bytes.fromhex(raw)[1:4], bytes.fromhex(data), le)


@pytest.mark.parametrize("raw", ["", "0020", "00CB3FFF05AA", "00CB3FFF01AABBCC", "00CB3FFF0000", "00CB3FFF00000500"])
def test_no_commands(raw):
    with pytest.raises(APDUError):
        Command.parse(bytes.fromhex(raw))
    assert Card(Profile()).transmit(bytes.fromhex(raw)) == b"\x67\x00"


def _likely_commands() -> st.SearchStrategy[bytes]:
    header = st.tuples(
        st.sampled_from([0x00, 0x10, 0x0C, 0x80]),
        st.sampled_from([*INSTRUCTIONS, 0x00]),
        st.sampled_from([0x00, 0x04, 0x3F, 0xFF, 0x03, 0x07, 0x11, 0x14]),
        st.sampled_from([0x00, 0x80, 0x81, 0xFF, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E]),
    )
    value = st.binary(max_size=20)
    templates = st.tuples(st.sampled_from([0x5C, 0x53, 0x7C, 0xAC, 0x80, 0x81, 0x82, 0x85]), value)
    inner = st.lists(templates, max_size=3).map(lambda parts: b"".join(tlv.encode(*part) for part in parts))
    body = st.one_of(value, inner, inner.map(lambda parts: tlv.encode(0x7C, parts)), st.just(PIN), st.just(WRONG))
    return st.tuples(header, body).map(lambda part: bytes(part[0]) + bytes([len(part[1])]) + part[1])


@settings(max_examples=200)
@given(st.lists(st.one_of(_likely_commands(), st.binary(max_size=60)), max_size=12), st.booleans())
def test_whatever_comes_the_card_answers(commands, like_yubikey):
    """It never breaks, and without the PIN or the management key nothing is signed or changed."""
    terminal = Terminal(yubikey() if like_yubikey else None)
    before = dict(terminal.card.objects)
    for command in commands:
        answer = terminal.card.transmit(command)
        assert len(answer) >= 2
        assert answer[0] in {0x61, 0x63, 0x67, 0x68, 0x69, 0x6A, 0x6D, 0x6E, 0x90}
    assert terminal.card.keys == KEYS
    assert terminal.card.objects == before
    if terminal.card.counters.pin_attempts == 0:
        assert not terminal.card.counters.signatures


# --- SELECT, GET DATA ---


@pytest.mark.parametrize("size", [5, 9, 11])
def test_the_application_is_selected_by_its_whole_name_or_a_part(size):
    terminal = Terminal(yubikey())
    assert terminal.tries() == 0x6D00  # nothing is selected yet
    status, answer = terminal.send(apdu.SELECT, 0x0400, objects.AID[:size])
    assert status == 0x9000
    assert tlv.find(tlv.find(answer, 0x61), 0x4F) == objects.AID[5:]
    assert terminal.tries() == 0x63C3


@pytest.mark.parametrize("name", [b"", objects.AID[:4], objects.AID + b"\0", bytes.fromhex("D27600012401")])
def test_other_applications_are_not_there(name):
    assert Terminal().send(apdu.SELECT, 0x0400, name)[0] == 0x6A82


def get_data(terminal: Terminal, tag: str) -> tuple[int, bytes]:
    return terminal.send_long(apdu.GET_DATA, 0x3FFF, tlv.encode(0x5C, bytes.fromhex(tag)))


def test_data_objects():
    terminal = Terminal(Profile(guid=bytes(range(16))))
    assert tlv.find(tlv.find(get_data(terminal, "5FC102")[1], 0x53), 0x34) == bytes(range(16))
    assert tlv.find(tlv.find(get_data(terminal, "7E")[1], 0x7E), 0x4F) == objects.AID
    assert get_data(terminal, "5FC109") == (0x6A82, b"")  # no printed information
    terminal.card.objects[objects.PRINTED_INFORMATION] = b"\1\0"
    assert get_data(terminal, "5FC109") == (0x6982, b"")
    terminal.verify()
    assert get_data(terminal, "5FC109") == (0x9000, bytes.fromhex("53020100"))
    assert terminal.send(apdu.GET_DATA, 0x3F00, bytes.fromhex("5C017E"))[0] == 0x6A86


def test_long_answers_come_in_parts_or_at_once():
    terminal = Terminal()
    terminal.card.objects[0x5FC105] = objects.certificate_object(bytes(600))
    query = tlv.encode(0x5C, bytes.fromhex("5FC105"))
    whole = tlv.encode(0x53, terminal.card.objects[0x5FC105])
    assert get_data(terminal, "5FC105") == (0x9000, whole)
    extended = bytes.fromhex("00CB3FFF 000005") + query + b"\0\0"
    assert terminal.card.transmit(extended) == whole + b"\x90\0"
    assert terminal.send(apdu.GET_DATA, 0x3FFF, query, le=8) == (0x6100, whole[:8])
    assert terminal.send(apdu.GET_RESPONSE, le=8) == (0x6100, whole[8:16])
    assert terminal.tries() == 0x63C3
    assert terminal.send(apdu.GET_RESPONSE)[0] == 0x6985  # another command came between


def test_another_command_ends_an_unfinished_chain():
    terminal = Terminal()
    assert terminal.send(apdu.GET_DATA, 0x3FFF, bytes.fromhex("5C"), cla=0x10) == (0x9000, b"")
    assert terminal.verify() == 0x9000
    assert terminal.send(apdu.GET_DATA, 0x3FFF, bytes.fromhex("017E"))[0] == 0x6A80
    assert terminal.send(apdu.GET_DATA, 0x3FFF, bytes.fromhex("5C01"), cla=0x10) == (0x9000, b"")
    assert terminal.send(apdu.VERIFY, 0x80, PIN[:4], cla=0x10) == (0x9000, b"")
    assert terminal.send(apdu.VERIFY, 0x80, PIN[4:])[0] == 0x9000
    assert terminal.send(apdu.GET_DATA, 0x3FFF, bytes.fromhex("7E"))[0] == 0x6A80


# --- PIN and PUK ---


def test_a_wrong_pin_costs_a_try_and_the_right_one_brings_them_back():
    terminal = Terminal()
    assert terminal.tries() == 0x63C3
    assert terminal.verify(WRONG) == 0x63C2
    assert terminal.verify() == 0x9000
    assert terminal.tries() == 0x9000  # verified
    terminal.card.reset()
    assert terminal.tries() == 0x63C3
    counters = terminal.card.counters
    assert (counters.pin_attempts, counters.pin_queries, counters.resets) == (2, 3, 1)


@pytest.mark.parametrize("malformed", [b"123456", padded("12345"), padded("1234a6"), bytes(8), b"123456\xff\xff\xff"])
def test_what_can_be_no_pin_costs_nothing(malformed):
    terminal = Terminal()
    assert terminal.verify(malformed) == 0x6A80
    assert terminal.tries() == 0x63C3


def test_three_wrong_pins_block_it_and_the_puk_sets_another():
    terminal = Terminal()
    assert [terminal.verify(WRONG) for _ in range(4)] == [0x63C2, 0x63C1, 0x63C0, 0x6983]
    assert terminal.verify() == 0x6983
    assert terminal.tries() == 0x6983
    assert terminal.send(apdu.RESET_RETRY_COUNTER, 0x80, padded("00000000") + padded("654321"))[0] == 0x63C2
    assert terminal.send(apdu.RESET_RETRY_COUNTER, 0x80, PUK + padded("654321"))[0] == 0x9000
    assert terminal.verify(padded("654321")) == 0x9000


def test_three_wrong_puks_block_it():
    terminal = Terminal()
    wrong = padded("00000000") + PIN
    answers = [terminal.send(apdu.RESET_RETRY_COUNTER, 0x80, wrong)[0] for _ in range(4)]
    assert answers == [0x63C2, 0x63C1, 0x63C0, 0x6983]
    assert terminal.card.puk.tries == 0


def test_pin_and_puk_are_changed():
    terminal = Terminal()
    change = partial(terminal.send, apdu.CHANGE_REFERENCE_DATA)
    assert change(0x80, PIN + padded("12"))[0] == 0x6A80
    assert change(0x80, WRONG + padded("654321"))[0] == 0x63C2
    assert change(0x80, PIN + padded("654321"))[0] == 0x9000
    assert change(0x81, PUK + padded("87654321"))[0] == 0x9000
    assert terminal.verify() == 0x63C2
    assert terminal.verify(padded("654321")) == 0x9000
    assert terminal.send(apdu.RESET_RETRY_COUNTER, 0x80, padded("87654321") + PIN)[0] == 0x9000


def test_the_pin_can_be_forgotten():
    terminal = Terminal()
    terminal.verify()
    assert terminal.send(apdu.VERIFY, 0xFF80)[0] == 0x9000
    assert terminal.tries() == 0x63C3


# --- keys ---


def test_rsa_is_raw():
    terminal = Terminal()
    key = KEYS[0x9A].private
    block = b"\0\1" + b"\xff" * 202 + b"\0" + bytes.fromhex("3031300d060960864801650304020105000420") + bytes(32)
    assert terminal.sign(0x9A, block) == (0x6982, b"")
    terminal.verify()
    status, signature = terminal.sign(0x9A, block)
    assert status == 0x9000
    key.public_key().verify(signature, bytes(32), padding.PKCS1v15(), utils.Prehashed(hashes.SHA256()))
    for bad in (block[1:], b"\xff" * 256, b""):
        assert terminal.sign(0x9A, bad) == (0x6A80, b"")
    assert terminal.card.counters.signatures == {"9A": 1}


@pytest.mark.parametrize(
    ("slot", "digest"),
    [(0x9C, hashes.SHA1()), (0x9C, hashes.SHA256()), (0x9D, hashes.SHA256()), (0x9D, hashes.SHA384())],
)
def test_ecdsa_takes_a_digest(slot, digest):
    terminal = Terminal()
    terminal.verify()
    value = hashlib.new(digest.name, b"text").digest()
    status, signature = terminal.sign(slot, value)
    assert status == 0x9000
    KEYS[slot].private.public_key().verify(signature, b"text", ec.ECDSA(digest))
    assert terminal.verify() == 0x9000
    assert terminal.sign(slot, bytes(49)) == (0x6A80, b"")


def test_the_signature_key_wants_the_pin_right_before_each_use():
    terminal = Terminal()
    terminal.verify()
    assert terminal.sign(0x9C, bytes(32))[0] == 0x9000
    assert terminal.sign(0x9C, bytes(32))[0] == 0x6982
    assert terminal.sign(0x9D, bytes(32))[0] == 0x9000  # the others are content with one
    terminal.verify()
    get_data(terminal, "7E")
    assert terminal.sign(0x9C, bytes(32))[0] == 0x6982


def test_a_yubikey_lets_other_commands_come_between():
    terminal = Terminal(yubikey())
    terminal.send(apdu.SELECT, 0x0400, objects.AID)
    terminal.verify()
    get_data(terminal, "7E")
    assert terminal.sign(0x9C, bytes(32))[0] == 0x9000
    assert terminal.sign(0x9C, bytes(32))[0] == 0x6982
    assert terminal.send(apdu.GET_VERSION) == (0x9000, bytes([5, 2, 4]))
    assert terminal.send(apdu.GET_SERIAL) == (0x9000, (12345678).to_bytes(4, "big"))


def test_the_card_authentication_key_wants_no_pin():
    terminal = Terminal()
    terminal.card.keys[0x9E] = KEYS[0x9C]
    assert terminal.sign(0x9E, bytes(32))[0] == 0x9000


def test_a_shared_secret():
    terminal = Terminal()
    terminal.verify()
    mine = ec.generate_private_key(ec.SECP384R1())
    numbers = mine.public_key().public_numbers()
    point = b"\4" + numbers.x.to_bytes(48, "big") + numbers.y.to_bytes(48, "big")
    command = partial(terminal.send_long, apdu.GENERAL_AUTHENTICATE, 0x149D)
    status, answer = command(tlv.encode(0x7C, tlv.encode(0x82), tlv.encode(0x85, point)))
    assert status == 0x9000
    secret = tlv.find(tlv.find(answer, 0x7C), 0x82)
    assert secret == mine.exchange(ec.ECDH(), KEYS[0x9D].private.public_key())
    assert command(tlv.encode(0x7C, tlv.encode(0x82), tlv.encode(0x85, point[:-1])))[0] == 0x6A80


@pytest.mark.parametrize(("algorithm", "slot"), [(0x11, 0x9A), (0x07, 0x9E), (0x07, 0x55)])
def test_a_key_that_is_not_there(algorithm, slot):
    terminal = Terminal()
    terminal.verify()
    command = tlv.encode(0x7C, tlv.encode(0x82), tlv.encode(0x81, bytes(32)))
    assert terminal.send(apdu.GENERAL_AUTHENTICATE, algorithm << 8 | slot, command)[0] == 0x6A86


# --- the administrator ---

MANAGEMENT = {
    "3des": Profile(),
    "aes128": Profile(management_key=bytes(range(16)), management_algorithm=8),
    "aes192": Profile(management_key=bytes(range(24)), management_algorithm=10),
    "aes256": Profile(management_key=bytes(range(32)), management_algorithm=12),
}


@pytest.mark.parametrize("profile", MANAGEMENT.values(), ids=MANAGEMENT)
def test_only_the_administrator_makes_keys_and_stores_data(profile):
    terminal = Terminal(profile)
    generate_key = partial(terminal.send_long, apdu.GENERATE_KEY, 0x9E, bytes.fromhex("AC03800111"))
    put = partial(terminal.send_long, apdu.PUT_DATA, 0x3FFF)
    certificate = tlv.encode(0x5C, bytes.fromhex("5FC101")) + tlv.encode(0x53, bytes(600))
    assert generate_key()[0] == put(certificate)[0] == 0x6982
    assert terminal.authenticate(bytes(len(profile.management_key) - 1) + b"\1") == 0x6982
    assert generate_key()[0] == 0x6982
    assert terminal.authenticate() == 0x9000
    status, answer = generate_key()
    assert status == 0x9000
    point = tlv.find(tlv.find(answer, 0x7F49), 0x86)
    assert ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    assert put(certificate) == (0x9000, b"")
    assert get_data(terminal, "5FC101") == (0x9000, tlv.encode(0x53, bytes(600)))
    assert put(tlv.encode(0x5C, bytes.fromhex("5FC101")) + tlv.encode(0x53))[0] == 0x9000
    assert get_data(terminal, "5FC101")[0] == 0x6A82
    assert put(tlv.encode(0x5C, bytes.fromhex("7E")) + tlv.encode(0x53, b"a"))[0] == 0x6A81
    terminal.card.reset()
    assert generate_key()[0] == 0x6982


def test_an_answer_without_a_question_authenticates_nobody():
    terminal = Terminal()
    general = partial(terminal.send, apdu.GENERAL_AUTHENTICATE, 0x039B)
    assert general(tlv.encode(0x7C, tlv.encode(0x82, bytes(8))))[0] == 0x6A80
    challenge = tlv.find(tlv.find(general(bytes.fromhex("7C028100"))[1], 0x7C), 0x81)
    cipher = Cipher(TripleDES(terminal.card.profile.management_key), modes.ECB())
    answer = tlv.encode(0x7C, tlv.encode(0x82, cipher.encryptor().update(challenge)))
    assert general(answer) == (0x9000, b"")
    assert general(answer)[0] == 0x6A80  # each challenge once


# --- what tests do to it ---


def test_failures_on_demand_and_the_way_back():
    terminal = Terminal()
    terminal.card.save()
    terminal.card.faults[apdu.VERIFY] = [0x6F00, 0x6982]
    assert [terminal.verify(WRONG) for _ in range(3)] == [0x6F00, 0x6982, 0x63C2]
    terminal.card.keys.clear()
    terminal.card.restore()
    assert terminal.card.keys == KEYS
    assert terminal.card.pin.tries == 3
    assert terminal.card.counters.pin_attempts == 0


def test_the_log_has_no_pins():
    terminal = Terminal()
    terminal.verify()
    assert terminal.card.log[-1] == "00 20 00 80 (14 bytes) -> 9000 (0 bytes)"
    assert "123456" not in repr(terminal.card.profile)


@pytest.mark.parametrize("atr", [NIST_ATR, YUBIKEY_ATR])
def test_the_check_byte_of_an_atr(atr):
    check = 0
    for byte in atr[1:]:
        check ^= byte
    assert check == 0


def test_a_yubikeys_atr():
    assert YUBIKEY_ATR.hex() == "3bfd1300008131fe158073c021c057597562694b657940"
