"""PINs that are entered on the reader's pad, which here is a file of the faulty module's."""

from __future__ import annotations

import os
import shlex
import sys

import pexpect
import pytest

import tokenauth
from tests.support.cards import in_threads, key_on, sign
from tests.support.command_line import COMMAND, environment, error_of, output_of, run
from tests.support.faulty_module import FaultyModule
from tokenauth.errors import PinError
from tokenauth.pin import Env, Fd, File, OnPad, PinPad, PinRequest, prompt
from tokenauth.testing import MTLSServer, SoftToken

PIN = "5551-pad-pin"
CANCEL = 0x1

pytestmark = pytest.mark.xdist_group("pin_pad")


@pytest.fixture(scope="module")
def token():
    with SoftToken("pad", pin=PIN) as made:
        yield made


@pytest.fixture(scope="module")
def server(token):
    with MTLSServer(token.ca) as running:
        yield running


@pytest.fixture
def card(token, tmp_path):
    made = FaultyModule(token, tmp_path / "card")
    made.set(pin_pad=True, pad_pin=PIN)
    return made


class Notices(list[PinRequest]):
    """What was said to who stands at the pad."""

    def source(self) -> PinPad:
        return PinPad(self.append)


@pytest.fixture
def notices():
    return Notices()


def test_one_entry_serves_all_signatures(card, token, notices):
    key = key_on(card, token, notices.source())
    for _ in range(3):
        sign(key)
    assert card.calls("C_Login") == 1
    assert [(request.token, request.per_signature, request.pin_pad) for request in notices] == [("pad", False, True)]


def test_an_entry_for_each_signature(card, token, notices):
    card.set(always_auth=True)
    key = key_on(card, token, notices.source())
    for _ in range(3):
        sign(key)
    assert card.calls("C_Login") == 4
    assert [request.per_signature for request in notices] == [False, True, True, True]


def test_the_notice_comes_just_before_the_login(card, token):
    seen = []
    sign(key_on(card, token, PinPad(lambda request: seen.append(card.calls("C_Login")))))
    assert seen == [0]


def test_a_wrong_entry_is_one_try_and_the_next_action_may_ask_again(card, token, notices):
    card.set(pin_tries=4, pad_pin="wrong")
    key = key_on(card, token, notices.source())
    for left in (3, 2):
        with pytest.raises(tokenauth.PinIncorrect, match="pad"):
            sign(key)
        assert card.pin_left == left
    card.set(pad_pin=PIN)
    sign(key)
    assert card.calls("C_Login") == len(notices) == 3
    assert [request.tries for request in notices] == ["ok", "low", "low"]


def test_the_last_try_is_kept_on_a_pad_too(card, token, notices):
    card.set(pin_tries=(3, 1))
    with pytest.raises(tokenauth.PinRefused, match="only one PIN try is left"):
        sign(key_on(card, token, notices.source()))
    assert not notices
    sign(key_on(card, token, notices.source(), allow_final_try=True))
    assert [request.tries for request in notices] == ["final"]


def test_a_locked_token_lights_no_pad(card, token, notices):
    card.set(pin_tries=(3, 1), pad_pin="wrong")
    key = key_on(card, token, notices.source(), allow_final_try=True)
    with pytest.raises(tokenauth.PinLocked, match="that locked it"):
        sign(key)
    with pytest.raises(tokenauth.PinLocked):
        sign(key)
    assert card.calls("C_Login") == len(notices) == 1


@pytest.mark.parametrize("quirk", [{"pad": "cancel"}, {"always__C_Login": CANCEL}], ids=["CANCELED", "CANCEL"])
def test_the_cancel_key(card, token, notices, quirk):
    card.set(**quirk)
    key = key_on(card, token, notices.source())
    with pytest.raises(tokenauth.PinRefused, match="cancelled"):
        sign(key)
    card.set(pad=None, always__C_Login=None)
    sign(key)
    assert len(notices) == 2


def test_cancelled_for_a_signature(card, token, notices):
    card.set(always_auth=True, fail__C_Login=(2, 0x50))
    key = key_on(card, token, notices.source())
    with pytest.raises(tokenauth.PinRefused, match="cancelled"):
        sign(key)
    sign(key)  # the session of the broken operation was the only one, so the login went with it
    assert [request.per_signature for request in notices] == [False, True, False, True]


@pytest.mark.parametrize("answer", [{"pad_pin": "wrong"}, {"pad": "cancel"}], ids=["wrong", "cancel"])
def test_threads_that_wait_share_a_failed_login(card, token, notices, answer):
    card.set(pin_tries=20, delay__C_Login=300, **answer)
    key = key_on(card, token, notices.source())
    errors = in_threads(8, lambda: sign(key))
    assert len(errors) == 8
    assert card.calls("C_Login") == len(notices) == 1


@pytest.mark.parametrize("quirk", [{}, {"removable": True}, {"cant_lock": True}], ids=str)
def test_threads_that_wait_share_a_failed_entry_for_a_signature(card, token, notices, quirk):
    card.set(always_auth=True, pin_tries=20, **quirk)
    key = key_on(card, token, notices.source())
    sign(key)
    card.set(pad_pin="wrong", delay__C_Login=300)
    card.reset_counts()
    notices.clear()
    errors = in_threads(6, lambda: sign(key))
    assert [type(error) for error in errors] == [tokenauth.PinIncorrect] * 6
    assert card.calls("C_Login") == len(notices) == 1
    card.set(pad_pin=PIN, delay__C_Login=None)
    sign(key)


def test_the_pad_asks_for_one_signature_after_the_other(card, token, notices):
    card.set(always_auth=True)
    key = key_on(card, token, notices.source())
    sign(key)
    card.set(delay__C_Login=20)
    card.reset_counts()
    assert in_threads(6, lambda: sign(key)) == []
    assert card.calls("C_Login") == 6
    assert card.max_inside("C_Login") == 1


def test_an_entry_that_fails_for_no_known_reason_is_not_repeated(card, token, notices):
    card.set(always_auth=True)
    key = key_on(card, token, notices.source())
    sign(key)
    card.set(always__C_Login=0x6)  # CKR_FUNCTION_FAILED, as when nobody comes to the pad
    card.reset_counts()
    with pytest.raises(PinError, match="CKR_FUNCTION_FAILED"):
        sign(key)
    assert card.calls("C_Login") == 1


def test_a_pin_in_hand_is_not_sent_again_when_a_signature_fails_for_no_known_reason(card, token):
    card.set(pin_pad=False, always_auth=True, fail__C_Login=(2, 0x5))
    key = key_on(card, token, PIN)
    with pytest.raises(PinError, match="CKR_GENERAL_ERROR"):
        sign(key)
    assert card.calls("C_Login") == 2


# Which source does what.


def test_without_a_source_the_hint_names_the_pad(card, token):
    with pytest.raises(tokenauth.PinRequired, match=r"--pin-source pad.*PinPad") as failed:
        sign(key_on(card, token, None))
    assert failed.value.token == "pad"
    assert card.calls("C_Login") == 0


def test_a_token_without_a_pad(card, token, notices):
    card.set(pin_pad=False)
    with pytest.raises(tokenauth.PinRequired, match=r"can not be entered on a pad.*--pin-source prompt"):
        sign(key_on(card, token, notices.source()))
    with pytest.raises(tokenauth.PinRequired, match="it has no pad"):
        sign(key_on(card, token, lambda request: OnPad()))
    assert card.calls("C_Login") == 0
    assert not notices


def test_a_pin_in_hand_is_sent(card, token, tmp_path, monkeypatch):
    card.set(pad="cancel")
    (tmp_path / "pin").write_text(PIN)
    (tmp_path / "pin").chmod(0o600)
    monkeypatch.setenv("PAD_TEST_PIN", PIN)
    reader, writer = os.pipe()
    os.write(writer, PIN.encode())
    os.close(writer)
    for source in (PIN, Env("PAD_TEST_PIN"), File(tmp_path / "pin"), Fd(reader), lambda request: PIN):
        tokenauth.pkcs11.modules.load_module(card.path).reload()
        sign(key_on(card, token, source))
    os.close(reader)


def test_a_function_of_yours_may_answer_that_the_pad_is_used(card, token):
    sign(key_on(card, token, lambda request: OnPad()))
    assert card.calls("C_Login") == 1


def test_a_handshake(card, token, server, notices):
    uri = f"{token.uri};object=client"
    session = tokenauth.Session(uri, pin=notices.source(), module=card.path, verify=server.cafile)
    assert session.get(server.url, timeout=10).status_code == 200
    session.close()
    assert [request.reason for request in notices] == ["to authenticate to localhost"]


# The line that says so.

REQUEST = PinRequest("pad", "0042", "to authenticate to api.example", "low", per_signature=True, pin_pad=True)
LINE = (
    "tokenauth: enter the PIN of token 'pad' on the reader's pad to authenticate to api.example (asked for each"
    " signature)\n"
)
WARNING = "Warning: a wrong PIN was sent before; few tries are left.\n"
SCRIPT = f"import tokenauth.pin; tokenauth.pin.PinPad()(tokenauth.pin.{REQUEST!r}).notice()"


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_the_notice_is_on_the_terminal_whatever_stderr_is():
    command = f"{shlex.join([sys.executable, '-c', SCRIPT])} </dev/null >/dev/null 2>&1"
    terminal = pexpect.spawn("/bin/sh", ["-c", command], encoding="utf-8", timeout=30, dimensions=(24, 300))
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.before.replace("\r", "") == WARNING + LINE


def test_the_notice_is_on_stderr_if_there_is_no_terminal(capfd):
    pid = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-c", f"import os; os.setsid(); {SCRIPT}"])
    assert os.waitpid(pid, 0)[1] == 0
    assert capfd.readouterr().err == WARNING + LINE


def test_text_from_the_token_is_printable(capfd, monkeypatch):
    monkeypatch.setattr("tokenauth.pin.pad._TERMINAL", "/nonexistent/tty")
    answer = PinPad()(PinRequest("a\x1b[2Jb\n", reason="to\rx", pin_pad=True))
    assert answer.notice is not None
    answer.notice()
    assert (
        capfd.readouterr().err
        == "tokenauth: enter the PIN of token 'a\ufffd[2Jb\ufffd' on the reader's pad to\ufffdx\n"
    )


def test_no_stderr_at_all(monkeypatch):
    monkeypatch.setattr("tokenauth.pin.pad._TERMINAL", "/nonexistent/tty")
    monkeypatch.setattr("sys.stderr", None)
    sign_on = PinPad()(REQUEST).notice
    assert sign_on is not None
    sign_on()


def test_prompt_lets_the_pad_ask(capfd, monkeypatch):
    monkeypatch.setattr("tokenauth.pin.pad._TERMINAL", "/nonexistent/tty")
    answer = prompt(REQUEST)
    assert isinstance(answer, OnPad)
    assert capfd.readouterr().err == ""  # the pad is not lit yet
    assert answer.notice is not None
    answer.notice()
    assert "pad" in capfd.readouterr().err


# The command line.


def test_get_on_a_pad(card, token, server):
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
    done = run(*arguments, "--pin-source", "pad")
    assert '"CN=client"' in output_of(done)
    assert "enter the PIN of token 'pad' on the reader's pad to authenticate to localhost" in done.stderr
    card.set(pad="cancel")
    assert "PIN entry was cancelled" in error_last_line(run(*arguments), 4)  # the default source does it as well
    card.set(pin_pad=False)
    assert "can not be entered on a pad" in error_of(run(*arguments, "--pin-source", "pad"), 4)


def error_last_line(done, code):
    assert done.returncode == code, done.stderr
    return done.stderr.splitlines()[-1]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_get_at_a_terminal_points_to_the_pad(card, token, server):
    card.set(delay__C_Login=300)
    arguments = [
        "get",
        server.url,
        "-i",
        f"{token.uri};object=client",
        "--cacert",
        server.cafile,
        "--module",
        card.path,
    ]
    terminal = pexpect.spawn(
        COMMAND[0], [*COMMAND[1:], *arguments], env=environment(), encoding="utf-8", timeout=30, dimensions=(24, 300)
    )
    terminal.expect_exact("enter the PIN of token 'pad' on the reader's pad to authenticate to localhost")
    terminal.expect_exact('"CN=client"')
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
