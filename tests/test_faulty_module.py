"""The fault-injecting module that other tests trust: each of its faults, and that it has none unasked."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from ctypes import addressof, byref, c_ulong, create_string_buffer
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

import tokenauth
from tests.support.connect import fetch
from tests.support.faulty_module import FaultyModule
from tokenauth.pkcs11 import structures
from tokenauth.pkcs11.cryptoki import Cryptoki, Mechanism
from tokenauth.pkcs11.keys import ecdsa_der
from tokenauth.pkcs11.modules import load_module
from tokenauth.pkcs11.returnvalues import ReturnValue
from tokenauth.testing import MTLSServer, SoftToken

CERTIFICATE, PUBLIC_KEY, PRIVATE_KEY = 1, 2, 3  # CKO_...
CKA_CLASS, CKA_VALUE, CKA_ID, CKA_EC_POINT, CKA_ALWAYS_AUTHENTICATE = 0x0, 0x11, 0x102, 0x181, 0x202
CKM_RSA_PKCS, CKM_ECDSA = 0x1, 0x1041
LOGIN_REQUIRED, PIN_PAD, LOW, FINAL, LOCKED = 0x4, 0x100, 0x10000, 0x20000, 0x40000  # CKF_... of the token
PIN_STATES = LOW | FINAL | LOCKED
TOKEN_PRESENT, REMOVABLE = 0x1, 0x2  # CKF_... of the slot
MESSAGE = b"message"
DIGEST = hashlib.sha256(MESSAGE).digest()
WRONG = "not the PIN"
PATIENCE = 10.0  # seconds


class Card(NamedTuple):
    """A token behind the module, and the module's functions."""

    faulty: FaultyModule
    cryptoki: Cryptoki
    token: SoftToken

    def log_in(self, slot: int = 1) -> int:
        session = self.cryptoki.open_session(slot)
        self.cryptoki.login(session, self.token.pin)
        return session

    def key(self, session: int) -> int:
        return self.cryptoki.find(session, PRIVATE_KEY)[0]

    def sign(self, session: int, key: int | None = None) -> bytes:
        self.cryptoki.sign_init(session, Mechanism(CKM_ECDSA), key or self.key(session))
        return self.cryptoki.sign(session, DIGEST)

    def pin_state(self) -> int:
        flags: int = self.cryptoki.token_info(1).flags
        return flags & PIN_STATES

    def elsewhere(self, code: str) -> None:
        """Run code in another process, where `cryptoki` is initialised and `session` open."""
        prepare = (
            "import sys; from tokenauth.pkcs11.cryptoki import Cryptoki; from contextlib import suppress;"
            f"cryptoki = Cryptoki({self.faulty.path!r}); cryptoki.initialise(); session = cryptoki.open_session(1)\n"
        )
        subprocess.run([sys.executable, "-c", prepare + code], check=True, timeout=PATIENCE)


@pytest.fixture(scope="module")
def soft_token():
    with SoftToken("faulty") as token:
        yield token


@pytest.fixture
def faulty(soft_token, tmp_path):
    module = FaultyModule(soft_token, tmp_path / "faulty")
    yield module
    module.clear()


@pytest.fixture
def card(faulty, soft_token):
    made = Card(faulty, Cryptoki(faulty.path), soft_token)
    made.cryptoki.initialise()
    return made


def refused(function, *arguments) -> str:
    """The return value by which a call fails."""
    with pytest.raises(ReturnValue) as caught:
        function(*arguments)
    return caught.value.name


def in_threads(*functions) -> None:
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)


def await_calls(faulty, function, number: int = 1) -> None:
    """Until other threads have called a function that often."""
    limit = time.monotonic() + PATIENCE
    while faulty.calls(function) < number:
        assert time.monotonic() < limit
        time.sleep(0.001)


def test_an_ordinary_token_when_nothing_is_set(card):
    assert card.cryptoki.slots() == [1]
    assert card.cryptoki.token_info(1).serial.decode() == card.token.serial
    session = card.cryptoki.open_session(1)
    assert card.cryptoki.find(session, PRIVATE_KEY) == []  # SoftHSM shows them after a login
    card.cryptoki.login(session, card.token.pin)
    handle = card.cryptoki.find(session, CERTIFICATE)[0]
    certificate = x509.load_der_x509_certificate(card.cryptoki.attributes(session, handle, [CKA_VALUE])[CKA_VALUE])
    public_key = certificate.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    public_key.verify(ecdsa_der(card.sign(session)), MESSAGE, ec.ECDSA(hashes.SHA256()))
    card.cryptoki.logout(session)
    card.cryptoki.close_session(session)
    assert refused(card.cryptoki.close_session, session) == "CKR_SESSION_HANDLE_INVALID"
    card.cryptoki.finalise()
    assert refused(card.cryptoki.slots) == "CKR_CRYPTOKI_NOT_INITIALIZED"
    assert refused(card.cryptoki.close_session, session) == "CKR_CRYPTOKI_NOT_INITIALIZED"


def test_everything_else_is_passed_on(faulty, soft_token):
    """What provisioning needs, by python-pkcs11, when handles are not what SoftHSM's are."""
    pkcs11 = pytest.importorskip("pkcs11")
    library = pkcs11.lib(faulty.path)
    token = next(library.get_tokens())
    token.open(user_pin=soft_token.pin).close()
    faulty.remove()
    faulty.insert()
    with token.open(rw=True, user_pin=soft_token.pin) as session:
        secret = session.generate_key(pkcs11.KeyType.AES, 256)
        vector = session.generate_random(128)
        assert secret.decrypt(secret.encrypt(b"text", mechanism_param=vector), mechanism_param=vector) == b"text"
        public, private = session.generate_keypair(pkcs11.KeyType.RSA, 2048)
        assert public.verify(b"text", private.sign(b"text"))
        assert private.decrypt(public.encrypt(b"text")) == b"text"
        private[pkcs11.Attribute.LABEL] = "renamed"
        assert private[pkcs11.Attribute.LABEL] == "renamed"
        assert session.digest(b"text", mechanism=pkcs11.Mechanism.SHA256) == hashlib.sha256(b"text").digest()
        secret.destroy()
        with pytest.raises(pkcs11.ObjectHandleInvalid):
            secret.encrypt(b"text", mechanism_param=vector)


def test_each_module_has_sessions_and_logins_of_its_own(card, soft_token, tmp_path):
    card.log_in()
    other = Card(FaultyModule(soft_token, tmp_path / "other"), Cryptoki(str(tmp_path / "other/faulty.so")), soft_token)
    other.cryptoki.initialise()
    beside = load_module(soft_token.module)
    beside.reload()
    session = other.log_in()  # not CKR_USER_ALREADY_LOGGED_IN
    card.faulty.set(always__C_Sign=0x30)
    card.cryptoki.finalise()
    beside.reload()
    assert other.sign(session)
    assert (card.faulty.calls("C_Sign"), other.faulty.calls("C_Sign")) == (0, 1)


def test_a_setting_or_function_that_does_not_exist_is_an_error(faulty):
    for name in ("pin_trys", "delay__C_Sing", "pin_tries__C_Sign", "delay"):
        with pytest.raises(ValueError, match=name):
            faulty.set(**{name: 1})
    with pytest.raises(ValueError, match="several lines"):
        faulty.set(pad_pin="1\nslot=2")
    with pytest.raises(ValueError, match="C_Logon"):
        faulty.calls("C_Logon")


def test_hidden_mechanisms(card):
    card.faulty.set(hide=[CKM_ECDSA, CKM_RSA_PKCS])
    session = card.log_in()
    assert not {CKM_ECDSA, CKM_RSA_PKCS}.intersection(card.cryptoki.mechanisms(1))
    assert refused(card.cryptoki.mechanism_info, 1, CKM_ECDSA) == "CKR_MECHANISM_INVALID"
    assert refused(card.sign, session) == "CKR_MECHANISM_INVALID"
    card.faulty.set(hide=None, only=[CKM_ECDSA])
    assert card.cryptoki.mechanisms(1) == [CKM_ECDSA]
    card.faulty.set(only=None, unlisted=[CKM_ECDSA])
    assert CKM_ECDSA not in card.cryptoki.mechanisms(1)
    assert card.cryptoki.mechanism_info(1, CKM_ECDSA).flags
    assert card.sign(session)


def test_latency(card):
    session = card.log_in()
    card.faulty.set(delay__C_Sign=300)
    began = time.monotonic()
    card.cryptoki.slots()
    assert time.monotonic() - began < 0.3
    card.sign(session)
    assert time.monotonic() - began >= 0.3


def test_a_call_that_hangs(card):
    session = card.log_in()
    card.faulty.set(hang__C_Sign=True)
    thread = threading.Thread(target=card.sign, args=(session,), daemon=True)
    thread.start()
    await_calls(card.faulty, "C_Sign")
    thread.join(0.1)
    assert thread.is_alive()
    card.faulty.clear()  # or the thread would stay
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_crash(card):
    card.faulty.set(crash__C_Login=True)
    with pytest.raises(subprocess.CalledProcessError) as caught:
        card.elsewhere("cryptoki.login(session, 'any')")
    assert caught.value.returncode == -signal.SIGSEGV


def test_the_nth_call_fails(card):
    card.faulty.set(fail__C_GetSessionInfo=(1, 0x30))  # another function's
    card.faulty.set(fail__C_GetInfo=(3, 0x32))
    card.cryptoki.info()
    card.faulty.set(removable=True)  # does not begin to count anew
    card.cryptoki.info()
    assert refused(card.cryptoki.info) == "CKR_DEVICE_REMOVED"
    card.cryptoki.info()
    card.faulty.set(fail__C_GetInfo=(3, 0x32))  # does
    card.elsewhere("cryptoki.info(); cryptoki.info()")
    assert refused(card.cryptoki.info) == "CKR_DEVICE_REMOVED"


def test_every_call_fails(card):
    card.faulty.set(always__C_OpenSession=0x30)
    assert {refused(card.cryptoki.open_session, 1) for _ in range(3)} == {"CKR_DEVICE_ERROR"}
    card.faulty.clear()
    assert card.cryptoki.open_session(1)


def test_pin_tries_last_over_processes(card):
    card.faulty.set(pin_tries=3)
    session = card.cryptoki.open_session(1)
    assert card.pin_state() == 0
    assert refused(card.cryptoki.login, session, WRONG) == "CKR_PIN_INCORRECT"
    assert (card.pin_state(), card.faulty.pin_left) == (LOW, 2)
    card.elsewhere("with suppress(Exception): cryptoki.login(session, 'wrong')")
    assert card.pin_state() == LOW | FINAL
    card.cryptoki.login(session, card.token.pin)
    assert (card.pin_state(), card.faulty.pin_left) == (0, 3)


def test_a_locked_pin(card):
    card.faulty.set(pin_tries=(3, 1))
    session = card.cryptoki.open_session(1)
    assert card.pin_state() == LOW | FINAL
    assert refused(card.cryptoki.login, session, WRONG) == "CKR_PIN_INCORRECT"
    card.faulty.set(removable=True)
    assert card.pin_state() == LOCKED
    assert refused(card.cryptoki.login, session, card.token.pin) == "CKR_PIN_LOCKED"
    card.faulty.set(pin_tries=3)
    card.cryptoki.login(session, card.token.pin)


def test_pin_tries_are_counted_once_each(card):
    """However many threads and processes use up tries at the same time."""
    tries, wrong = 100, 20
    card.faulty.set(pin_tries=tries)
    attempts = f"for _ in range({wrong}):\n with suppress(Exception): cryptoki.login(session, 'wrong')"

    def use_up() -> None:
        session = card.cryptoki.open_session(1)
        for _ in range(wrong):
            assert refused(card.cryptoki.login, session, WRONG) == "CKR_PIN_INCORRECT"

    in_threads(use_up, use_up, lambda: card.elsewhere(attempts))
    assert card.faulty.pin_left == tries - 3 * wrong


def test_pin_pad(card):
    card.faulty.set(pin_pad=True, pad_pin=card.token.pin, pin_tries=3)
    session = card.cryptoki.open_session(1)
    assert card.cryptoki.token_info(1).flags & PIN_PAD
    card.cryptoki.login(session, None)
    assert card.sign(session)
    card.cryptoki.logout(session)
    card.faulty.set(pad_pin=WRONG)
    assert refused(card.cryptoki.login, session, None) == "CKR_PIN_INCORRECT"
    card.faulty.set(pad="cancel")
    assert refused(card.cryptoki.login, session, None) == "CKR_FUNCTION_CANCELED"
    assert card.faulty.pin_left == 2


def test_keys_that_ask_each_time(card):
    card.faulty.set(always_auth=True, pin_tries=3)
    session = card.log_in()
    key = card.key(session)
    public = card.cryptoki.find(session, PUBLIC_KEY)[0]
    assert card.cryptoki.attributes(session, key, [CKA_ALWAYS_AUTHENTICATE]) == {CKA_ALWAYS_AUTHENTICATE: b"\1"}
    assert CKA_ALWAYS_AUTHENTICATE not in card.cryptoki.attributes(
        session, public, [CKA_CLASS, CKA_ALWAYS_AUTHENTICATE]
    )
    assert refused(card.sign, session, key) == "CKR_USER_NOT_LOGGED_IN"
    assert refused(card.cryptoki.login, session, card.token.pin, "operation") == "CKR_OPERATION_NOT_INITIALIZED"
    for _ in range(2):
        card.cryptoki.sign_init(session, Mechanism(CKM_ECDSA), key)
        assert refused(card.cryptoki.login, session, WRONG, "operation") == "CKR_PIN_INCORRECT"
        assert card.faulty.pin_left == 2
        card.cryptoki.login(session, card.token.pin, "operation")
        assert card.faulty.pin_left == 3
        assert card.cryptoki.sign(session, DIGEST)


def test_keys_that_ask_each_time_at_the_pin_pad(card):
    card.faulty.set(always_auth=True, pin_pad=True, pad_pin=card.token.pin)
    session = card.cryptoki.open_session(1)
    card.cryptoki.login(session, None)
    card.cryptoki.sign_init(session, Mechanism(CKM_ECDSA), card.key(session))
    card.cryptoki.login(session, None, "operation")
    assert card.cryptoki.sign(session, DIGEST)


def test_removal_and_return(card):
    sessions = [card.log_in(), card.cryptoki.open_session(1)]
    key = card.key(sessions[0])
    card.faulty.remove()
    assert card.cryptoki.slots() == []
    assert not card.cryptoki.slot_info(1).flags & TOKEN_PRESENT
    assert refused(card.cryptoki.token_info, 1) == "CKR_TOKEN_NOT_PRESENT"
    assert refused(card.cryptoki.open_session, 1) == "CKR_TOKEN_NOT_PRESENT"
    assert refused(card.sign, sessions[0], key) == "CKR_DEVICE_REMOVED"
    assert refused(card.sign, sessions[0], key) == "CKR_SESSION_HANDLE_INVALID"
    card.faulty.insert()
    assert refused(card.sign, sessions[1], key) == "CKR_DEVICE_REMOVED"
    assert refused(card.sign, sessions[1], key) == "CKR_SESSION_HANDLE_INVALID"
    session = card.cryptoki.open_session(1)
    assert session not in sessions
    assert card.cryptoki.find(session, PRIVATE_KEY) == []  # the login is gone
    card.cryptoki.login(session, card.token.pin)
    assert refused(card.sign, session, key) in {"CKR_KEY_HANDLE_INVALID", "CKR_OBJECT_HANDLE_INVALID"}
    assert card.key(session) != key
    assert card.sign(session)


def test_return_in_another_slot(card):
    session = card.log_in()
    card.faulty.remove()
    card.faulty.insert(slot=7)
    assert card.cryptoki.slots() == [7]
    assert refused(card.cryptoki.token_info, 1) == "CKR_TOKEN_NOT_PRESENT"
    assert refused(card.cryptoki.token_info, 2) == "CKR_SLOT_ID_INVALID"
    assert refused(card.sign, session) == "CKR_DEVICE_REMOVED"
    assert card.sign(card.log_in(7))
    card.faulty.set(empty=None)
    assert refused(card.cryptoki.token_info, 1) == "CKR_SLOT_ID_INVALID"


def test_a_removal_between_two_calls_is_not_missed(card):
    session = card.log_in()
    card.faulty.remove()
    card.faulty.insert()
    assert refused(card.sign, session) == "CKR_DEVICE_REMOVED"


def test_removal_during_a_signature(card):
    session = card.log_in()
    card.faulty.set(delay__C_Sign=100)
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(refused(card.sign, session)))
    thread.start()
    await_calls(card.faulty, "C_Sign")
    card.faulty.remove()
    thread.join(PATIENCE)
    assert answers == ["CKR_DEVICE_REMOVED"]


def test_removals_under_load(card):
    """Nothing but what a removal explains, and no crash, whatever threads are doing at the moment."""
    explained = {"CKR_DEVICE_REMOVED", "CKR_TOKEN_NOT_PRESENT", "CKR_SESSION_HANDLE_INVALID"}
    explained |= {"CKR_USER_NOT_LOGGED_IN", "CKR_USER_ALREADY_LOGGED_IN", "CKR_KEY_HANDLE_INVALID"}
    explained |= {"CKR_OBJECT_HANDLE_INVALID"}
    seen: set[str] = set()
    signatures, done = [], threading.Event()

    def work() -> None:
        while not done.is_set():
            try:
                session = card.cryptoki.open_session(1)
                try:
                    card.cryptoki.login(session, card.token.pin)
                except ReturnValue as error:
                    seen.add(error.name)
                for key in card.cryptoki.find(session, PRIVATE_KEY):
                    signatures.append(card.sign(session, key))
                card.cryptoki.close_session(session)
            except ReturnValue as error:
                seen.add(error.name)

    def disturb() -> None:
        for _ in range(50):
            time.sleep(0.005)
            card.faulty.remove()
            time.sleep(0.002)
            card.faulty.insert()
        done.set()

    in_threads(work, work, work, work, disturb)
    assert seen <= explained
    assert signatures
    assert card.sign(card.log_in())


def test_logged_out_and_sessions_closed_by_somebody_else(card):
    session = card.log_in()
    card.faulty.log_out()
    assert card.cryptoki.find(session, PRIVATE_KEY) == []
    card.cryptoki.login(session, card.token.pin)
    key = card.key(session)
    card.faulty.close_sessions()
    assert refused(card.sign, session, key) == "CKR_SESSION_HANDLE_INVALID"
    assert card.sign(card.log_in())


@pytest.mark.parametrize(("setting", "answer"), [("cant_lock", 0xA), ("null_only", 0x7)])
def test_modules_that_do_not_lock(card, setting, answer):
    card.cryptoki.finalise()
    card.faulty.set(**{setting: True})
    asked = structures.InitializeArgs(flags=2)
    assert card.cryptoki._value("C_Initialize", byref(asked)) == answer
    assert card.cryptoki.initialise() == (False, True)


def together(card, number: int) -> None:
    """Let threads be in C_GetInfo at the same time."""
    card.faulty.reset_counts()
    card.faulty.set(hang__C_GetInfo=True)

    def release() -> None:
        await_calls(card.faulty, "C_GetInfo", number)
        card.faulty.set(hang__C_GetInfo=None)

    in_threads(release, *[card.cryptoki.info] * number)


def test_threads_in_a_module_with_locking(card):
    together(card, 3)
    assert card.faulty.max_inside("C_GetInfo") == card.faulty.max_inside() == 3
    assert card.faulty.max_inside("C_GetSlotList") == 0
    assert card.faulty.violations == 0


def test_threads_in_a_module_without_locking(card):
    card.faulty.set(null_only=True)
    card.cryptoki.finalise()
    card.cryptoki.initialise()
    card.faulty.reset_counts()
    for _ in range(3):
        card.cryptoki.info()
    assert (card.faulty.violations, card.faulty.max_inside()) == (0, 1)
    together(card, 3)
    assert (card.faulty.violations, card.faulty.max_inside("C_GetInfo")) == (2, 3)


def test_hidden_public_keys(card):
    session = card.cryptoki.open_session(1)
    assert card.cryptoki.find(session, PUBLIC_KEY)
    card.faulty.set(hide_public=True)
    assert card.cryptoki.find(session, PUBLIC_KEY) == []
    assert card.cryptoki.find(session, CERTIFICATE)


def test_certificates_that_show_after_a_login(card):
    card.faulty.set(hide_certs_before_login=True)
    session = card.cryptoki.open_session(1)
    assert card.cryptoki.find(session, CERTIFICATE) == []
    card.cryptoki.login(session, card.token.pin)
    assert card.cryptoki.find(session, CERTIFICATE)


def test_session_limit(card):
    card.faulty.set(max_sessions=2)
    first, _ = card.cryptoki.open_session(1), card.cryptoki.open_session(1)
    assert refused(card.cryptoki.open_session, 1) == "CKR_SESSION_COUNT"
    card.cryptoki.close_session(first)
    card.cryptoki.open_session(1)
    card.faulty.remove()
    card.faulty.insert()
    card.cryptoki.open_session(1)  # those that are gone do not count


def test_no_id(card):
    def found_by(id: bytes) -> int:
        value = create_string_buffer(id, len(id))
        template = structures.Attribute(CKA_ID, addressof(value), len(id))
        card.cryptoki._call("C_FindObjectsInit", session, byref(template), 1)
        handles, count = (c_ulong * 8)(), c_ulong()
        card.cryptoki._call("C_FindObjects", session, handles, 8, byref(count))
        card.cryptoki._call("C_FindObjectsFinal", session)
        return count.value

    session = card.log_in()
    handles = [card.cryptoki.find(session, kind)[0] for kind in (CERTIFICATE, PUBLIC_KEY, PRIVATE_KEY)]
    id = card.cryptoki.attributes(session, handles[0], [CKA_ID])[CKA_ID]
    assert found_by(id) == 3
    card.faulty.set(no_id=True)
    for handle in handles:
        found = card.cryptoki.attributes(session, handle, [CKA_CLASS, CKA_ID])
        assert (found[CKA_ID], len(found[CKA_CLASS])) == (b"", 8)
    assert found_by(id) == 0


def test_bare_ec_point(card):
    session = card.cryptoki.open_session(1)
    handle = card.cryptoki.find(session, PUBLIC_KEY)[0]
    wrapped = card.cryptoki.attributes(session, handle, [CKA_EC_POINT])[CKA_EC_POINT]
    card.faulty.set(raw_ec_point=True)
    assert wrapped == b"\4\x41" + card.cryptoki.attributes(session, handle, [CKA_EC_POINT])[CKA_EC_POINT]


@pytest.mark.parametrize("function", ["info", "token"])
def test_a_slot_that_can_not_be_read(card, function):
    card.faulty.set(bad_slot=function)
    bad, good = card.cryptoki.slots()
    calls = {"info": card.cryptoki.slot_info, "token": card.cryptoki.token_info}
    assert refused(calls[function], bad) == "CKR_DEVICE_ERROR"
    if function == "token":
        assert card.cryptoki.slot_info(bad).flags & TOKEN_PRESENT
    assert card.cryptoki.token_info(good).serial.decode() == card.token.serial


def test_flags(card):
    assert not card.cryptoki.slot_info(1).flags & REMOVABLE
    assert card.cryptoki.token_info(1).flags & LOGIN_REQUIRED
    card.faulty.set(removable=True, no_login_required=True)
    assert card.cryptoki.slot_info(1).flags & REMOVABLE
    assert not card.cryptoki.token_info(1).flags & LOGIN_REQUIRED
    assert card.cryptoki.find(card.cryptoki.open_session(1), PRIVATE_KEY) == []


def test_a_logout_that_fails(card):
    session = card.log_in()
    card.faulty.set(always__C_Logout=0x6)
    assert refused(card.cryptoki.logout, session) == "CKR_FUNCTION_FAILED"
    assert card.sign(session)


def asked_length(card, session) -> int:
    length = c_ulong()
    card.cryptoki._call("C_Sign", session, DIGEST, len(DIGEST), None, byref(length))
    return length.value


def test_a_signature_whose_length_must_be_asked_first(card):
    card.faulty.set(sign_needs_query=True)
    session = card.log_in()
    assert len(card.sign(session)) == 64
    assert card.faulty.calls("C_Sign") == 3  # refused, asked for the length, made


def test_a_signature_that_ends_when_its_length_is_asked(card):
    card.faulty.set(query_ends_sign=True)
    session = card.log_in()
    assert len(card.sign(session)) == 64
    card.cryptoki.sign_init(session, Mechanism(CKM_ECDSA), card.key(session))
    assert asked_length(card, session) == 64
    assert refused(card.cryptoki.sign, session, DIGEST) == "CKR_OPERATION_NOT_INITIALIZED"
    assert len(card.sign(session)) == 64


def test_calls_are_counted_over_processes(card):
    before = card.faulty.calls("C_GetInfo")
    card.cryptoki.info()
    card.elsewhere("cryptoki.info()")
    assert card.faulty.calls("C_GetInfo") == before + 2
    assert card.faulty.calls("C_Login") == 0
    card.faulty.reset_counts()
    assert card.faulty.calls("C_GetInfo") == 0


def test_a_child_of_a_threaded_process(card):
    """Other threads' locks and their being inside do not stay with a forked child."""
    card.faulty.set(hang__C_GetInfo=True)
    thread = threading.Thread(target=card.cryptoki.info, daemon=True)
    thread.start()
    await_calls(card.faulty, "C_GetInfo")
    card.faulty.reset_counts()
    child = true_in_a_child(lambda: card.cryptoki.token_info(1) and card.faulty.max_inside() == 1)
    card.faulty.clear()
    thread.join(PATIENCE)
    assert child


def true_in_a_child(check) -> bool:
    """Whether a forked child finds something true."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            signal.alarm(int(PATIENCE))
            os.write(write, b"1" if check() else b"0")
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with os.fdopen(read, "rb") as file:
        return file.read() == b"1"


def test_a_handshake(card, soft_token):
    card.faulty.reset_counts()
    with MTLSServer(soft_token.ca) as server:
        context = tokenauth.create_context(
            soft_token.uri, pin=soft_token.pin, module=card.faulty.path, cafile=server.cafile
        )
        assert b"CN=client" in fetch(context, server.port)
    assert (card.faulty.calls("C_Login"), card.faulty.calls("C_Sign")) == (1, 1)
