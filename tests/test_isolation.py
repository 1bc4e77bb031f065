"""Modules in processes of their own: one that crashes or hangs costs an error, and the next use recovers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding

import tokenauth
from tests.support.command_line import error_of, output_of, run
from tests.support.connect import fetch
from tests.support.faulty_module import FaultyModule
from tests.support.isolated import await_gone, connection_of, is_there, pid_of
from tests.support.nginx import Nginx, NginxOptions
from tokenauth.pkcs11 import isolation
from tokenauth.pkcs11.binding import writable_session
from tokenauth.pkcs11.modules import load_module
from tokenauth.testing import SoftToken

CKM_RSA_PKCS, CKM_RSA_X_509, CKM_SHA256_RSA_PKCS = 0x1, 0x3, 0x40
DEVICE_ERROR = 0x30
WRONG = "00000000-wrong"
SCRIPT = Path(__file__).parent / "support" / "isolation_script.py"
PSS = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)

pytestmark = pytest.mark.xdist_group("isolation")


@pytest.fixture(scope="module")
def token():
    with SoftToken("alone", key_type=None) as made:
        made.add_identity("ec", key_type="p256")
        made.add_identity("rsa", key_type="rsa2048")
        made.add_identity("ed25519", key_type="ed25519")
        yield made


@pytest.fixture
def card(token, tmp_path):
    return made_card(token, tmp_path / "card")


def made_card(token, directory):
    return FaultyModule(token, directory)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setenv("TOKENAUTH_ISOLATE_TIMEOUT", "0.5")


@pytest.fixture
def ec_key(card, token):
    return key_of(card, token, "ec")


def key_of(card, token, label, pin=None):
    uri = f"{token.uri};object={label}"
    return tokenauth.identity(uri, pin=pin or token.pin, module=card.path, isolate=True).private_key


def sign(key):
    data = b"to be signed"
    signature = key.sign(data, ec.ECDSA(hashes.SHA256()))
    key.public_key().verify(signature, data, ec.ECDSA(hashes.SHA256()))


# It works the same.


@pytest.mark.parametrize("tls", ["TLSv1.2", "TLSv1.3"])
@pytest.mark.parametrize("label", ["ec", "rsa"])
def test_a_handshake(token, tls, label, tmp_path):
    with Nginx(token.ca, tmp_path, NginxOptions(tls=tls)) as nginx:
        uri = f"{token.uri};object={label}"
        context = tokenauth.create_context(uri, pin=token.pin, module=token.module, cafile=nginx.cafile, isolate=True)
        assert fetch(context, nginx.port)
    assert is_there(pid_of(token.module))


@pytest.mark.parametrize("scheme", [padding.PKCS1v15(), PSS], ids=["pkcs1", "pss"])
@pytest.mark.parametrize("only", [None, [CKM_RSA_X_509]])
def test_rsa_signatures(card, token, scheme, only):
    card.set(only=only)
    key = key_of(card, token, "rsa")
    key.public_key().verify(key.sign(b"data", scheme, hashes.SHA256()), b"data", scheme, hashes.SHA256())


def test_a_mechanism_that_hashes(card, token):
    card.set(only=[CKM_SHA256_RSA_PKCS])
    key = key_of(card, token, "rsa")
    signature = key.sign(b"data", padding.PKCS1v15(), hashes.SHA256())
    key.public_key().verify(signature, b"data", padding.PKCS1v15(), hashes.SHA256())


def test_ed25519_does_not_pass_and_says_so(card, token):
    with pytest.raises(tokenauth.MechanismUnsupported, match="p11-kit passes no Ed25519") as caught:
        key_of(card, token, "ed25519").sign(b"data")
    assert "without TOKENAUTH_ISOLATE" in caught.value.hint


def test_a_key_that_asks_each_time(card, token):
    card.set(always_auth=True)
    asked = []

    def source(request):
        asked.append(request.per_signature)
        return token.pin

    key = key_of(card, token, "ec", source)
    sign(key)
    sign(key)
    assert asked == [False, True]  # the first entry serves for the login as well


def test_a_login_on_a_pin_pad_passes(card, token):
    card.set(pin_pad=True, pad_pin=token.pin)
    module = load_module(card.path, isolate=True)
    [found] = module.tokens()[0]
    assert found.pin_pad
    with found.session("testing") as session:
        module.cryptoki.login(session, None)


def test_paths_and_environment_stay_what_they_were(card, token):
    before = dict(os.environ)
    key_of(card, token, "ec")
    found = tokenauth.identity(f"{token.uri};object=ec", module=card.path, isolate=True)
    assert found.module == card.path
    assert found.uri == f"{token.uri};id=%01;object=ec"
    assert dict(os.environ) == before


def test_isolated_and_not_are_two_modules_with_their_own_logins(card, token, ec_key):
    sign(ec_key)
    beside = tokenauth.identity(f"{token.uri};object=ec", pin=token.pin, module=card.path, isolate=False)
    sign(beside.private_key)
    assert card.calls("C_Login") == 2
    assert load_module(card.path, isolate=True) is load_module(card.path, isolate=True)
    assert load_module(card.path, isolate=True) is not load_module(card.path, isolate=False)


def test_the_switch(card, monkeypatch):
    monkeypatch.setenv("TOKENAUTH_ISOLATE", "1")
    assert load_module(card.path).cryptoki.isolated
    monkeypatch.setenv("TOKENAUTH_ISOLATE", "0")
    assert not load_module(card.path).cryptoki.isolated
    monkeypatch.setenv("TOKENAUTH_ISOLATE", "perhaps")
    with pytest.raises(tokenauth.ModuleError, match="neither 1 nor 0"):
        load_module(card.path)


@pytest.mark.parametrize("value", ["soon", "-1", "0", "nan", "inf"])
def test_a_limit_that_is_none(card, monkeypatch, value):
    monkeypatch.setenv("TOKENAUTH_ISOLATE_TIMEOUT", value)
    with pytest.raises(tokenauth.ModuleError, match="no number of seconds"):
        load_module(card.path, isolate=True)


def test_threads(card, token):
    key = key_of(card, token, "ec")
    threads = [threading.Thread(target=lambda: [sign(key) for _ in range(20)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert card.calls("C_Sign") == 160
    assert card.calls("C_Login") == 1
    assert card.max_inside() == 1


def test_what_else_is_on_the_token_can_not_be_written(token):
    module = load_module(token.module, isolate=True)
    [found] = [found for found in module.tokens()[0] if found.label == "alone"]
    with (
        pytest.raises(tokenauth.ModuleError, match="nothing can be written"),
        writable_session(found, "testing"),
    ):
        pass


def test_a_new_configuration_of_softhsm_counts_at_once():
    for _ in range(2):
        with SoftToken("passing") as passing:
            key = tokenauth.identity(passing.uri, pin=passing.pin, module=passing.module, isolate=True).private_key
            sign(key)


# Crashes.


def test_a_crash_is_an_error_and_the_next_use_recovers(card, ec_key):
    sign(ec_key)
    pid = pid_of(card.path)
    card.set(crash__C_Sign=1)
    card.reset_counts()
    with pytest.raises(tokenauth.ModuleError, match=r"crashed in C_Sign \(SIGSEGV\)") as caught:
        sign(ec_key)
    assert card.path in str(caught.value)
    assert caught.value.ckr == "CKR_DEVICE_ERROR"
    assert "the next use starts it again" in caught.value.hint
    assert card.calls("C_Sign") == 1  # it was not tried again by itself
    assert not is_there(pid)
    card.set(crash__C_Sign=None)
    sign(ec_key)
    assert card.calls("C_Login") == 1
    assert pid_of(card.path) != pid


def test_a_crash_in_a_handshake_is_told_and_the_next_one_works(card, token, tmp_path):
    with Nginx(token.ca, tmp_path) as nginx:
        uri = f"{token.uri};object=ec"
        context = tokenauth.create_context(uri, pin=token.pin, module=card.path, cafile=nginx.cafile, isolate=True)
        card.set(crash__C_Sign=1)
        with pytest.raises(tokenauth.HandshakeFailed, match="crashed in C_Sign") as caught:
            fetch(context, nginx.port)
        assert isinstance(caught.value.__cause__, tokenauth.ModuleError)
        card.set(crash__C_Sign=None)
        assert fetch(context, nginx.port)


@pytest.mark.parametrize("function", ["C_Initialize", "C_GetInfo"])
def test_a_crash_while_it_is_loaded(card, token, function):
    card.set(**{f"crash__{function}": 1})
    with pytest.raises(tokenauth.ModuleError, match=rf"crashed in {function} \(SIGSEGV\)"):
        key_of(card, token, "ec")
    card.set(**{f"crash__{function}": None})
    sign(key_of(card, token, "ec"))


def test_a_crash_while_tokens_are_looked_at(card, token):
    card.set(crash__C_GetTokenInfo=1)
    uri = f"{token.uri};object=ec"
    assert tokenauth.identities(uri, module=card.path, isolate=True) == []
    with pytest.raises(tokenauth.ModuleError, match="crashed in C_GetTokenInfo"):
        key_of(card, token, "ec")
    card.set(crash__C_GetTokenInfo=None)
    sign(key_of(card, token, "ec"))


def test_a_process_that_was_killed_in_between_goes_unnoticed(card, token, ec_key):
    sign(ec_key)
    pid = pid_of(card.path)
    os.kill(pid, signal.SIGKILL)
    module = load_module(card.path, isolate=True)
    limit = time.monotonic() + 10
    while not module.gate.stale:
        assert time.monotonic() < limit
        time.sleep(0.001)
    sign(ec_key)
    assert not is_there(pid)


def test_a_module_that_only_crashes_is_not_started_for_ever(card, token, ec_key):
    sign(ec_key)
    card.set(crash__C_GetSlotList=1)
    card.reset_counts()
    load_module(card.path, isolate=True).gate.expire()
    for _ in range(20):
        with pytest.raises(tokenauth.ModuleError):
            sign(ec_key)
    assert card.calls("C_Initialize") == 5
    with pytest.raises(tokenauth.ModuleError, match="ended 5 times within 30 s"):
        sign(ec_key)


def test_an_error_of_the_module_itself_is_no_crash(card, ec_key):
    sign(ec_key)
    card.set(fail__C_Sign=(1, DEVICE_ERROR))
    card.reset_counts()
    sign(ec_key)  # restarted, as one that is not isolated
    assert card.calls("C_Finalize") == 1
    card.set(always__C_Sign=DEVICE_ERROR)
    with pytest.raises(tokenauth.SigningFailed, match="CKR_DEVICE_ERROR"):
        sign(ec_key)


def test_threads_in_a_module_that_crashes_all_get_an_error_and_all_recover(card, token, ec_key):
    sign(ec_key)
    outcomes: list[tokenauth.TokenAuthError | None] = []

    def work():
        for _ in range(30):
            try:
                sign(ec_key)
                outcomes.append(None)
            except tokenauth.TokenAuthError as error:
                outcomes.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        with suppress(AttributeError, ProcessLookupError):  # none just now
            os.kill(pid_of(card.path), signal.SIGKILL)
        time.sleep(0.1)
    for thread in threads:
        thread.join(30)
    assert len(outcomes) == 120
    for outcome in filter(None, outcomes):
        # A PIN error if it was killed during a login, which is not repeated.
        assert isinstance(outcome, tokenauth.ModuleError) or "may have counted as a PIN try" in str(outcome), outcome
    sign(ec_key)


# Hanging.


def test_a_module_that_hangs_is_ended(impatient, card, ec_key):
    sign(ec_key)
    pid = pid_of(card.path)
    card.set(hang__C_Sign=1)
    card.reset_counts()
    with pytest.raises(tokenauth.ModuleError, match=r"did not answer C_Sign within 0\.5 s, so its process was ended"):
        sign(ec_key)
    assert card.calls("C_Sign") == 1
    assert not is_there(pid)
    card.set(hang__C_Sign=None)
    sign(ec_key)


def test_a_module_that_hangs_while_it_is_loaded(impatient, card, token):
    card.set(hang__C_Initialize=1)
    with pytest.raises(tokenauth.ModuleError, match="did not answer C_Initialize"):
        key_of(card, token, "ec")
    card.set(hang__C_Initialize=None)
    sign(key_of(card, token, "ec"))


def test_a_slow_module_is_waited_for(impatient, card, ec_key):
    """Each call has its own time, also when the thread that watches naps for another."""
    card.set(delay__C_Sign=200)
    for _ in range(6):
        sign(ec_key)
    card.set(delay__C_Sign=None, hang__C_Sign=1)
    with pytest.raises(tokenauth.ModuleError, match="did not answer"):
        sign(ec_key)


def test_limits(card, monkeypatch):
    monkeypatch.delenv("TOKENAUTH_ISOLATE_TIMEOUT", raising=False)
    cryptoki = isolation.IsolatedCryptoki(card.path)
    assert cryptoki._limit_of("C_GetSlotList", (1, None, None)) == 60
    assert cryptoki._limit_of("C_Login", (1, 1, 4711, 4)) == 60
    assert cryptoki._limit_of("C_Login", (1, 1, None, 0)) == 300


# PINs.


def test_a_wrong_pin_is_sent_once(card, token):
    card.set(pin_tries=3)
    key = key_of(card, token, "ec", WRONG)
    with pytest.raises(tokenauth.PinIncorrect):
        sign(key)
    for _ in range(3):
        with pytest.raises(tokenauth.PinRefused):
            sign(key)
    assert card.calls("C_Login") == 1
    assert card.pin_left == 2


@pytest.mark.parametrize(("fault", "told"), [("crash", "crashed in C_Login"), ("hang", "did not answer C_Login")])
def test_a_login_during_which_it_died_is_not_repeated(impatient, card, token, fault, told):
    card.set(**{f"{fault}__C_Login": 1})
    key = key_of(card, token, "ec")
    with pytest.raises(tokenauth.errors.PinError, match=told) as caught:
        sign(key)
    assert "may have counted as a PIN try" in caught.value.hint
    assert card.calls("C_Login") == 1
    card.set(**{f"{fault}__C_Login": None})
    sign(key)  # who asks again is served
    assert card.calls("C_Login") == 2


def test_no_pin_in_errors(card, token):
    card.set(crash__C_Login=1)
    with pytest.raises(tokenauth.errors.PinError) as caught:
        sign(key_of(card, token, "ec"))
    chain: BaseException | None = caught.value
    while chain is not None:
        assert token.pin not in str(chain)
        chain = chain.__cause__ or chain.__context__


# Processes.


def script(card, token, mode):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), card.path, f"{token.uri};object=ec", "TEST_PIN", mode],
        env={
            **os.environ,
            "TEST_PIN": token.pin,
            "TOKENAUTH_ISOLATE_TIMEOUT": "2",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_program_whose_module_hangs_tells_it_and_ends(card, token):
    with script(card, token, "once") as program:
        pid = int(program.stdout.readline())
        card.set(hang__C_Sign=1)
        out, err = program.communicate("\n", timeout=30)
    seconds, _, message = out.partition(" ")
    assert float(seconds) < 10
    assert "did not answer C_Sign within 2 s" in message
    assert (program.returncode, err) == (0, "")
    await_gone(pid)


@pytest.mark.parametrize("mode", ["once", "busy"])
def test_a_program_that_ends_leaves_nothing_behind(card, token, mode, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with script(card, token, mode) as program:
        pid = int(program.stdout.readline())
        out, err = program.communicate("\n", timeout=30)
    assert (program.returncode, out, err) == (0, "", "")
    await_gone(pid)
    assert not list(tmp_path.glob("tokenauth-*"))


@pytest.mark.parametrize("hang", [False, True])
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process can not be made to die with its parent")
def test_a_program_that_is_killed_takes_the_module_with_it(card, token, hang):
    with script(card, token, "once") as program:
        pid = int(program.stdout.readline())
        if hang:
            card.set(hang__C_Sign=1, delay__C_Sign=100)
            card.reset_counts()
            program.stdin.write("\n")
            program.stdin.flush()
            while not card.calls("C_Sign"):
                time.sleep(0.01)
        program.kill()
        program.communicate(timeout=30)
    await_gone(pid)


def test_the_process_has_nothing_of_ours_but_the_connection(card, ec_key):
    with socket.create_server(("127.0.0.1", 0)) as inherited:
        inherited.set_inheritable(True)
        load_module(card.path, isolate=True).gate.expire()
        sign(ec_key)
        pid = pid_of(card.path)
        assert os.getpgid(pid) == os.getsid(pid) == pid
        if sys.platform == "linux":
            inode = f"socket:[{os.fstat(inherited.fileno()).st_ino}]"
            assert inode not in {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}


def test_our_children_do_not_inherit_the_connection(card, ec_key):
    sign(ec_key)
    assert not os.get_inheritable(connection_of(card.path))


def test_a_fork(card, token, ec_key):
    sign(ec_key)
    pid = pid_of(card.path)
    number = connection_of(card.path)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(number)  # or the parent's login would be the child's as well
            sign(ec_key)
            sign(ec_key)
            os.write(writing, str(pid_of(card.path)).encode())
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the child must end here
            os._exit(1)
    sign(ec_key)
    assert os.waitpid(child, 0)[1] == 0
    theirs = int(os.read(reading, 20))
    os.close(reading)
    os.close(writing)
    assert pid_of(card.path) == pid != theirs
    await_gone(theirs)
    sign(ec_key)


def test_two_modules_at_once(card, token, tmp_path):
    other = made_card(token, tmp_path / "other")
    keys = [key_of(card, token, "ec"), key_of(other, token, "ec")]
    for key in keys:
        sign(key)
    assert pid_of(card.path) != pid_of(other.path)
    card.set(crash__C_Sign=1)
    with pytest.raises(tokenauth.ModuleError, match="crashed"):
        sign(keys[0])
    sign(keys[1])
    assert other.calls("C_Login") == 1


# What is missing.


def test_a_file_that_is_no_module(tmp_path):
    path = tmp_path / "module.so"
    path.write_text("text")
    with pytest.raises(tokenauth.ModuleError, match=r"module\.so can not be loaded: .*(ELF|file|short)"):
        load_module(str(path), isolate=True)


@pytest.mark.parametrize("quirk", ["cant_lock", "null_only"])
def test_a_module_that_p11_kit_can_not_initialise(card, quirk):
    card.set(**{quirk: True})
    with pytest.raises(tokenauth.ModuleError, match="can not be initialised") as caught:
        load_module(card.path, isolate=True)
    assert "use it without TOKENAUTH_ISOLATE" in caught.value.hint


def test_a_path_with_odd_characters(token, tmp_path, monkeypatch):
    odd = tmp_path / "a %41;b ü"
    odd.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(odd))
    sign(key_of(made_card(token, odd / "card"), token, "ec"))


def test_a_temporary_directory_that_is_too_long_for_a_socket(card, token, tmp_path, monkeypatch):
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    sign(key_of(card, token, "ec"))


def test_p11_kit_is_not_installed(card, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(tokenauth.ModuleError, match="p11-kit can not be found") as caught:
        load_module(card.path, isolate=True)
    assert "apt install p11-kit p11-kit-modules" in caught.value.hint


def test_the_client_module_is_not_installed(card, monkeypatch):
    monkeypatch.setattr(isolation, "find_library", lambda _name: None)
    with pytest.raises(tokenauth.ModuleError, match="p11-kit-client can not be found"):
        load_module(card.path, isolate=True)


def test_windows(card, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(tokenauth.ModuleError, match="on Windows"):
        isolation.find_tools()


# The command line.


def test_list_and_show_say_the_same(token):
    for arguments in (("list", "--json", token.uri), ("show", f"{token.uri};object=ec")):
        assert output_of(run(*arguments)) == output_of(run(*arguments, TOKENAUTH_ISOLATE="1"))


def test_get(token, tmp_path):
    with Nginx(token.ca, tmp_path) as nginx:
        arguments = ("get", nginx.url, "--cacert", nginx.cafile, "-i", f"{token.uri};object=rsa")
        done = run(*arguments, TOKENAUTH_ISOLATE="1", TOKENAUTH_PIN_SOURCE="env:PIN", PIN=token.pin)
        assert output_of(done)


def test_list_with_a_module_that_crashes(card, token):
    card.set(crash__C_GetTokenInfo=1)
    done = run("list", "--module", card.path, TOKENAUTH_ISOLATE="1")
    assert "crashed in C_GetTokenInfo" in done.stderr
    assert done.returncode == 3
    assert "crashed in C_GetTokenInfo" in error_of(
        run("show", token.uri, "--module", card.path, TOKENAUTH_ISOLATE="1"), 3
    )


@pytest.mark.parametrize(
    ("variables", "status", "what"),
    [
        ({}, "ok", "off; TOKENAUTH_ISOLATE=1 runs"),
        ({"TOKENAUTH_ISOLATE": "1"}, "ok", "on: each module"),
        ({"TOKENAUTH_ISOLATE": "1", "PATH": "/nonexistent"}, "error", "p11-kit can not be found"),
        ({"PATH": "/nonexistent"}, "ok", "not possible here"),
        ({"TOKENAUTH_ISOLATE": "perhaps"}, "error", "neither 1 nor 0"),
    ],
)
def test_doctor(token, variables, status, what):
    findings = json.loads(run("doctor", "--json", **variables).stdout)
    [found] = [finding for finding in findings if finding["check"] == "isolation"]
    assert found["status"] == status
    assert what in found["what"]


def test_doctor_tells_of_a_module_that_crashes_at_work(card):
    card.set(crash__C_GetTokenInfo=1)
    findings = json.loads(run("doctor", "--json", "--module", card.path, TOKENAUTH_ISOLATE="1").stdout)
    assert any("crashed in C_GetTokenInfo" in finding["what"] for finding in findings)
