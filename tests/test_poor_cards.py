"""Cards that are pulled out, count wrong PINs, lack mechanisms, and come with drivers that break the rules."""

from __future__ import annotations

import os
import socket
import threading
import time

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding

import tokenauth
from tokenauth.pin import as_source
from tokenauth.pkcs11 import gate
from tokenauth.pkcs11.cryptoki import Cryptoki
from tokenauth.pkcs11.modules import load_module
from tokenauth.pkcs11.recovery import twice
from tokenauth.pkcs11.tokens import Credentials
from tokenauth.testing import MTLSServer, SoftToken

CKM_RSA_PKCS, CKM_RSA_X_509 = 0x1, 0x3
GENERAL_ERROR = 0x5
WRONG = "00000000-wrong"

pytestmark = pytest.mark.xdist_group("poor_cards")


@pytest.fixture(scope="module")
def token():
    with SoftToken("poor", key_type=None) as made:
        made.add_identity("ec", key_type="p256")
        made.add_identity("rsa", key_type="rsa2048")
        yield made


@pytest.fixture(scope="module")
def server(token):
    with MTLSServer(token.ca) as running:
        yield running


@pytest.fixture
def ec_key(card, token):
    return key_of(card, token, "ec")


def key_of(card, token, label, pin=None):
    uri = f"{token.uri};object={label}"
    return tokenauth.identity(uri, pin=pin or token.pin, module=card.path).private_key


def sign(key):
    data = b"to be signed"
    signature = key.sign(data, ec.ECDSA(hashes.SHA256()))
    key.public_key().verify(signature, data, ec.ECDSA(hashes.SHA256()))


def handshake(context, server):
    with (
        socket.create_connection(("127.0.0.1", server.port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        tls.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert b" 200 " in tls.recv(100)


# Found again.


@pytest.mark.parametrize("slot", [None, 7])
def test_a_card_that_left_and_is_back_needs_one_login(card, ec_key, slot):
    sign(ec_key)
    card.remove()
    with pytest.raises(tokenauth.TokenRemoved, match="poor"):
        sign(ec_key)
    card.insert(slot)
    card.reset_counts()
    sign(ec_key)
    sign(ec_key)
    assert card.calls("C_Login") == 1


def test_a_context_recovers_when_the_card_is_back(card, token, server):
    uri = f"{token.uri};object=ec"
    context = tokenauth.create_context(uri, pin=token.pin, module=card.path, cafile=server.cafile)
    handshake(context, server)
    card.remove()
    with pytest.raises(tokenauth.HandshakeFailed) as failed:
        handshake(context, server)
    assert isinstance(failed.value.__cause__, tokenauth.TokenRemoved)
    card.insert(3)
    handshake(context, server)


def test_a_card_that_was_changed_for_a_moment_goes_unnoticed(card, ec_key):
    sign(ec_key)
    card.remove()
    card.insert()
    sign(ec_key)


def test_logged_out_by_somebody_else(card, ec_key):
    sign(ec_key)
    card.log_out()
    card.reset_counts()
    sign(ec_key)
    assert card.calls("C_Login") == 1


def test_sessions_closed_by_somebody_else(card, ec_key):
    sign(ec_key)
    card.close_sessions()
    sign(ec_key)


def test_a_module_that_failed_is_restarted_once_in_a_while(card, ec_key):
    sign(ec_key)
    card.set(fail__C_Sign=(1, GENERAL_ERROR))
    card.reset_counts()
    sign(ec_key)
    assert card.calls("C_Finalize") == 1
    card.set(always__C_Sign=GENERAL_ERROR)
    with pytest.raises(tokenauth.SigningFailed, match="CKR_GENERAL_ERROR"):
        sign(ec_key)
    assert card.calls("C_Finalize") == 1


def test_a_token_that_can_not_be_read_for_a_moment_is_read_again_before_a_pin_is_sent(card, ec_key):
    """SoftHSM's can not while another process logs in."""
    card.set(fail__C_GetTokenInfo=(1, GENERAL_ERROR))
    card.reset_counts()
    sign(ec_key)
    assert card.calls("C_Login") == 1
    assert card.calls("C_Finalize") == 0


def test_threads_that_lose_the_card_together_log_in_once(card, ec_key):
    sign(ec_key)
    card.remove()
    card.insert()
    card.reset_counts()
    failures = []

    def work():
        try:
            sign(ec_key)
        except tokenauth.TokenAuthError as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not failures
    assert card.calls("C_Login") == 1


@pytest.mark.parametrize("reset_on_fork", ["true", "false"])
def test_children_of_a_threaded_process(tmp_path, reset_on_fork):
    """Each signs, and so does the parent, while three threads are inside the module."""
    with SoftToken("forks") as token:
        with open(os.environ["SOFTHSM2_CONF"], "a") as configuration:  # noqa: PTH123
            configuration.write(f"library.reset_on_fork = {reset_on_fork}\n")
        load_module(token.module).reload()
        key = tokenauth.identity(token.uri, pin=token.pin, module=token.module).private_key
        sign(key)
        over = threading.Event()
        threads = [threading.Thread(target=sign_until, args=(key, over)) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            assert [child_that_signs(key) for _ in range(100)] == [0] * 100
        finally:
            over.set()
            for thread in threads:
                thread.join(20)
        sign(key)


def sign_until(key, over):
    while not over.is_set():
        sign(key)


def child_that_signs(key):
    child = os.fork()
    if child == 0:
        try:
            sign(key)
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the child must end here
            os._exit(1)
    return os.waitpid(child, 0)[1]


# PINs.


def test_a_wrong_pin_is_sent_once(card, token):
    card.set(pin_tries=3)
    key = key_of(card, token, "ec", WRONG)
    with pytest.raises(tokenauth.PinIncorrect):
        sign(key)
    for _ in range(5):
        with pytest.raises(tokenauth.PinRefused):
            sign(key)
    assert card.calls("C_Login") == 1
    assert card.pin_left == 2


def test_a_hundred_handshakes_with_a_wrong_pin_cost_one_try(card, token, server):
    card.set(pin_tries=3)
    uri = f"{token.uri};object=ec"
    context = tokenauth.create_context(uri, pin=WRONG, module=card.path, cafile=server.cafile)
    causes = []

    def work():
        for _ in range(13):
            try:
                handshake(context, server)
            except tokenauth.HandshakeFailed as error:
                causes.append(type(error.__cause__))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(causes) == 104
    assert set(causes) <= {tokenauth.PinIncorrect, tokenauth.PinRefused}
    assert card.calls("C_Login") == 1


def test_the_last_try_is_not_spent_unasked(card, token):
    card.set(pin_tries=(3, 1))
    with pytest.raises(tokenauth.PinRefused, match="only one PIN try is left"):
        sign(key_of(card, token, "ec"))
    assert card.calls("C_Login") == 0
    uri = f"{token.uri};object=ec"
    allowed = tokenauth.identity(uri, pin=token.pin, module=card.path, allow_final_try=True)
    sign(allowed.private_key)


def test_the_try_that_locks_the_card_says_so_and_it_is_not_tried_again(card, token):
    card.set(pin_tries=(3, 1))
    uri = f"{token.uri};object=ec"
    key = tokenauth.identity(uri, pin=WRONG, module=card.path, allow_final_try=True).private_key
    with pytest.raises(tokenauth.PinLocked, match="that locked it"):
        sign(key)
    card.reset_counts()
    with pytest.raises(tokenauth.PinLocked, match="poor"):
        sign(key_of(card, token, "ec"))
    assert card.calls("C_Login") == 0


def test_a_login_that_fails_for_no_known_reason_is_not_repeated(card, ec_key):
    card.set(always__C_Login=GENERAL_ERROR)
    with pytest.raises(tokenauth.TokenAuthError, match="CKR_GENERAL_ERROR"):
        sign(ec_key)
    assert card.calls("C_Login") == 1


def test_a_key_that_asks_each_time(card, token):
    card.set(always_auth=True)
    asked = []

    def source(request):
        asked.append(request.per_signature)
        return token.pin

    key = key_of(card, token, "ec", source)
    for _ in range(3):
        sign(key)
    assert asked == [False, True, True]  # the first entry serves for the login and for the first signature
    assert card.calls("C_Login") == 4


def test_a_wrong_pin_for_a_key_that_asks_each_time(card, token):
    card.set(always_auth=True, pin_tries=3)
    pins = iter([token.pin, WRONG, WRONG, token.pin, token.pin, token.pin])
    key = key_of(card, token, "ec", lambda _request: next(pins))
    sign(key)
    with pytest.raises(tokenauth.PinIncorrect):
        sign(key)
    left = card.pin_left
    with pytest.raises(tokenauth.PinRefused):
        sign(key)
    assert card.pin_left == left == 2
    sign(key)


# Poor modules.


@pytest.mark.parametrize("only", [[CKM_RSA_PKCS], [CKM_RSA_X_509]])
def test_an_rsa_token_with_one_mechanism_signs_pkcs1(card, token, only):
    card.set(only=only)
    key = key_of(card, token, "rsa")
    signature = key.sign(b"data", padding.PKCS1v15(), hashes.SHA256())
    key.public_key().verify(signature, b"data", padding.PKCS1v15(), hashes.SHA256())


def test_bare_rsa_is_enough_for_pss(card, token):
    card.set(only=[CKM_RSA_X_509])
    key = key_of(card, token, "rsa")
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
    key.public_key().verify(key.sign(b"data", pss, hashes.SHA256()), b"data", pss, hashes.SHA256())


def test_what_no_mechanism_can_make_is_said_so(card, token):
    card.set(only=[CKM_RSA_PKCS])
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
    with pytest.raises(tokenauth.MechanismUnsupported, match="PSS signatures with SHA256"):
        key_of(card, token, "rsa").sign(b"data", pss, hashes.SHA256())


def test_mechanisms_that_are_not_listed(card, token):
    card.set(unlisted=[0xD])  # CKM_RSA_PKCS_PSS, as tpm2-pkcs11 does
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
    key = key_of(card, token, "rsa")
    key.public_key().verify(key.sign(b"data", pss, hashes.SHA256()), b"data", pss, hashes.SHA256())


@pytest.mark.parametrize("quirk", ["cant_lock", "null_only"])
def test_a_module_that_can_not_lock_never_sees_two_threads(card, token, quirk):
    card.set(**{quirk: True})
    key = key_of(card, token, "ec")
    threads = [threading.Thread(target=lambda: [sign(key) for _ in range(20)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert card.violations == 0
    assert card.max_inside() == 1


def busy(card, token, server, seconds):
    """TLS, signatures with a key of another identity, and listing, in nine threads; the errors there were."""
    begun = time.monotonic()
    uri = f"{token.uri};object=ec"
    context = tokenauth.create_context(uri, pin=token.pin, module=card.path, cafile=server.cafile)
    key = key_of(card, token, "rsa")

    def rsa():
        key.sign(b"data", padding.PKCS1v15(), hashes.SHA256())

    def listed():
        assert len(tokenauth.identities(token.uri, module=card.path)) == 2

    def log_in():
        found = token_of(card)
        twice(found, lambda: found.login(Credentials(as_source(token.pin))))

    errors = []

    def work(task):
        try:
            while time.monotonic() < begun + seconds:
                task()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            errors.append(error)

    tasks = [lambda: handshake(context, server), rsa, listed] * 3
    threads = [threading.Thread(target=work, args=(task,)) for task in (*tasks, log_in)]
    for thread in threads:
        thread.start()
    return threads, errors


def token_of(card):
    [found] = load_module(card.path).tokens()[0]
    return found


@pytest.mark.parametrize(("quirk", "threads_inside"), [("cant_lock", {1}), ("null_only", {1}), (None, range(2, 11))])
def test_tls_signatures_and_lists_at_the_same_time(card, token, server, quirk, threads_inside):
    if quirk:
        card.set(**{quirk: True})
    card.set(delay__C_SignInit=2, delay__C_FindObjects=2)
    threads, errors = busy(card, token, server, 0.5)
    for thread in threads:
        thread.join(20)
    assert not errors
    assert card.violations == 0
    assert card.max_inside() in threads_inside
    assert card.calls("C_Sign") > 2


@pytest.mark.parametrize("quirk", ["cant_lock", None])
def test_a_module_is_restarted_with_nobody_inside(card, token, server, quirk):
    if quirk:
        card.set(**{quirk: True})
    card.set(delay__C_SignInit=2, delay__C_FindObjects=2, delay__C_Finalize=10, delay__C_Initialize=10)
    threads, errors = busy(card, token, server, 1)
    for number in range(10):
        time.sleep(0.05)
        if number:
            load_module(card.path).reload()
        else:
            card.set(fail__C_SignInit=(1, GENERAL_ERROR))
    for thread in threads:
        thread.join(20)
    assert not errors
    assert card.calls("C_Finalize") == 10
    assert card.violations == 0


def test_a_module_that_a_thread_does_not_come_out_of_is_not_restarted(card, token, ec_key, monkeypatch):
    monkeypatch.setattr(gate, "_PATIENCE", 0.2)
    sign(ec_key)
    card.set(hang__C_GetMechanismInfo=True)
    hanging = threading.Thread(target=key_of(card, token, "rsa").sign, args=(b"", padding.PKCS1v15(), hashes.SHA256()))
    token_of(card).resettle(None)  # it knows no mechanisms any more
    card.reset_counts()
    hanging.start()
    while not card.max_inside("C_GetMechanismInfo"):
        time.sleep(0.01)
    with pytest.raises(tokenauth.ModuleError, match="another thread does not come out of it"):
        load_module(card.path).reload()
    card.set(fail__C_SignInit=(1, GENERAL_ERROR))
    with pytest.raises(tokenauth.SigningFailed):
        sign(ec_key)
    card.set(hang__C_GetMechanismInfo=None)
    hanging.join(20)
    assert card.calls("C_Finalize") == 0
    sign(ec_key)


def test_a_module_that_somebody_else_initialised_is_used_and_never_finalised(card, token):
    Cryptoki(card.path).initialise()
    key = key_of(card, token, "ec")
    sign(key)
    card.set(fail__C_Sign=(1, GENERAL_ERROR))
    with pytest.raises(tokenauth.SigningFailed):
        sign(key)
    with pytest.raises(tokenauth.ModuleError, match="another part of this program"):
        load_module(card.path).reload()
    sign(key)
    assert card.calls("C_Finalize") == 0


def test_a_module_that_locks_sees_several_threads(card, ec_key):
    sign(ec_key)
    card.set(delay__C_Sign=30)
    threads = [threading.Thread(target=sign, args=(ec_key,)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert 1 < card.max_inside("C_Sign") <= 8


@pytest.mark.parametrize("limit", [1, 2])
def test_no_more_sessions_than_the_token_allows(card, ec_key, limit):
    card.set(max_sessions=limit)
    threads = [threading.Thread(target=sign, args=(ec_key,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    sign(ec_key)
    assert card.calls("C_Sign") == 9


@pytest.mark.parametrize("bad", ["info", "token"])
def test_one_bad_slot_hides_no_other(card, token, bad):
    card.set(bad_slot=bad)
    sign(key_of(card, token, "ec"))
    tokens, failures = load_module(card.path).tokens()
    assert [found.label for found in tokens] == ["poor"]
    assert [failure.ckr for failure in failures] == ["CKR_DEVICE_ERROR"]


@pytest.mark.parametrize("quirk", ["no_id", "raw_ec_point", "hide_public", "removable"])
def test_objects_told_of_otherwise(card, token, quirk):
    card.set(**{quirk: True})
    sign(key_of(card, token, "ec"))
