"""PINs by pinentry: real ones on real terminals, and programs that only pretend to be one."""

from __future__ import annotations

import io
import os
import shlex
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import tokenauth
from tests.support.asking import SECRET, Child, Terminal, assert_hidden, pretend_pinentry, wait_until
from tests.support.cards import key_on, sign
from tests.support.faulty_module import FaultyModule
from tests.support.programs import require
from tokenauth.errors import PinRequired
from tokenauth.pin import OnPad, Pinentry, PinRequest, parse_pin_source
from tokenauth.pin.assuan import Client, Refusal, Rubbish, escape
from tokenauth.testing import SoftToken

REQUEST = PinRequest("dev", "0042", "to authenticate to api.example")

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="needs POSIX terminals"),
    # pexpect forks; xdist has threads by then, which do nothing in the child.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]


# The protocol.


def answer_to(answer: bytes) -> str:
    return Client(io.BytesIO(answer), io.BytesIO()).ask("GETPIN")


@pytest.mark.parametrize(
    ("answer", "data"),
    [
        (b"OK\n", ""),
        (b"D 1234\nOK\n", "1234"),
        (b"D 1234\r\nOK closing\r\n", "1234"),
        (b"D 12\nD 34\nD\nOK\n", "1234"),
        (b"D 1%252%0d%0A3\nOK\n", "1%2\r\n3"),
        (b"D  1 2 \nOK\n", " 1 2 "),
        (b"# a remark\nS PASSWORD_FROM_CACHE\n#\nD \xc5\x9fifre\nS\nOK\nD more\n", "şifre"),
        (b"D \xff\nOK\n", "\udcff"),
        (b"D " + b"1" * 998 + b"\nD " + b"2" * 998 + b"\nOK\n", "1" * 998 + "2" * 998),
    ],
)
def test_answers(answer, data):
    assert answer_to(answer) == data


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (SECRET.encode() + b"\n", "not of the Assuan protocol"),
        (b"DATA\n", "not of the Assuan protocol"),
        (b"OKAY\n", "not of the Assuan protocol"),
        (b"\n", "not of the Assuan protocol"),
        (b"INQUIRE QUALITY\n", "not of the Assuan protocol"),
        (b"D " + SECRET.encode() + b"%zz\nOK\n", "not of the Assuan protocol"),
        (b"D " + SECRET.encode() + b"%4\nOK\n", "not of the Assuan protocol"),
        (b"D 1%+1\nOK\n", "not of the Assuan protocol"),
        (b"D " + b"1" * 1001 + b"\nOK\n", "too long"),
        (b"1" * 5000, "too long"),
        (b"D " + b"1" * 900 + b"\n", None),
        ((b"D " + b"1" * 900 + b"\n") * 5 + b"OK\n", "more than 4096 bytes"),
        (b"S x\n" * 2000, "no end"),
    ],
)
def test_rubbish(answer, why):
    with pytest.raises((Rubbish, EOFError), match=why) as failed:
        Client(io.BytesIO(answer), io.BytesIO()).ask("GETPIN")
    assert_hidden(failed.value)


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        (b"ERR 83886179 Operation cancelled <Pinentry>", 99, "Operation cancelled <Pinentry>"),
        (b"ERR 99", 99, ""),
        (b"ERR", 0, ""),
        (b"ERR nothing \x1b[2J\xff", 0, "nothing \ufffd[2J\ufffd"),
        (b"ERR 99999999999 x", 0, "99999999999 x"),
        (b"ERR 1 " + b"x" * 900, 1, "x" * 200),
    ],
)
def test_refusals(line, code, text):
    with pytest.raises(Refusal) as failed:
        answer_to(line + b"\n")
    assert (failed.value.code, failed.value.text) == (code, text)


LINES = st.lists(
    st.sampled_from([b"OK", b"D ", b"D", b"ERR ", b"S ", b"# ", b"%", b"%41", b"\n", b"\r\n", b" 83886179 "])
    | st.binary(max_size=8)
    | st.just(b"x" * 999)
).map(b"".join)


@given(LINES)
@example(b"D %")
@example(b"ERR \xff\n")
def test_any_bytes_are_an_answer_or_an_error_of_ours(answer):
    try:
        found = answer_to(answer)
    except (Rubbish, Refusal, EOFError):
        return
    assert len(found.encode("utf-8", "surrogateescape")) <= 4096


@given(st.binary(max_size=1200), st.integers(1, 300))
def test_any_data_arrives_as_it_was_sent(data, step):
    lines = [data[at : at + step] for at in range(0, len(data), step)]
    sent = b"".join(b"D " + b"".join(b"%%%02X" % byte for byte in line) + b"\n" for line in lines) + b"OK\n"
    assert answer_to(sent).encode("utf-8", "surrogateescape") == data


@given(st.text(), st.integers(20, 950))
@example("%" * 400, 300)
@example("\U0001f511" * 400, 300)
def test_escaped_text_is_one_line_that_fits(text, limit):
    escaped = escape(text, limit)
    assert len(escaped.encode()) <= limit
    assert not [char for char in escaped if ord(char) < 0x20]
    unescaped = answer_to(b"D " + escaped.encode() + b"\nOK\n")
    if len(escape(text, 10**6).encode()) <= limit:
        assert unescaped == text.encode("utf-8", "replace").decode()


# Real programs on real terminals.

#: The tester's own terminal and windows are left alone.
PLAIN = "unset GPG_TTY DISPLAY WAYLAND_DISPLAY; export TERM=xterm"


def make(folder: Path, program: str, where: str = "main") -> Child:
    return Child.make(folder, where=where, source=f"Pinentry({require(program)!r})")


def pinentries_of(child: Child) -> list[str]:
    """Programs that were started by the one that asked, and are still there."""
    listed = subprocess.run(["ps", "-eo", "ppid=,pid=,args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if line.split()[0] == str(child.pid)]


@pytest.mark.parametrize("program", ["pinentry-tty", "pinentry-curses"])
class TestRealPrograms:
    @pytest.mark.parametrize("redirected", ["", "</dev/null >/dev/null 2>&1"])
    def test_pin_is_read_without_echo(self, tmp_path, program, redirected):
        child = make(tmp_path, program)
        terminal = Terminal.running(f"{child.command} {redirected}", before=PLAIN)
        terminal.wait_for("Enter the PIN of token 'dev'")
        terminal.wait_for("to authenticate to api.example")
        terminal.wait_for("PIN:")
        terminal.type(SECRET + "\r")
        terminal.wait_for("status <0>")
        assert terminal.echoes()
        assert SECRET not in terminal.close()
        assert child.outcome.read_text() == f"PIN {SECRET}"

    @pytest.mark.parametrize(("tries", "words"), [("low", "few tries are left"), ("final", "this is the last try")])
    def test_tries_left_in_words(self, tmp_path, program, tries, words):
        child = Child.make(tmp_path, tries, source=f"Pinentry({require(program)!r})")
        terminal = Terminal.running(child.command, before=PLAIN)
        terminal.wait_for(words)
        terminal.wait_for("PIN:")
        terminal.type("\x03")
        terminal.wait_for("status")
        terminal.close()

    def test_nothing_entered(self, tmp_path, program):
        child = make(tmp_path, program)
        terminal = Terminal.running(child.command, before=PLAIN)
        terminal.wait_for("PIN:")
        terminal.type("\r")
        terminal.wait_for("status <0>")
        terminal.close()
        assert child.outcome.read_text().startswith("PinRequired: token 'dev': no PIN entered")

    def test_cancelled(self, tmp_path, program):
        child = make(tmp_path, program)
        terminal = Terminal.running(child.command, before=PLAIN)
        terminal.wait_for("PIN:")
        terminal.type({"pinentry-tty": "\x04", "pinentry-curses": "12\t\t\r"}[program])  # Ctrl-D; the button
        terminal.wait_for("status <0>")
        assert terminal.echoes()
        terminal.close()
        assert child.outcome.read_text().startswith("PinRequired: token 'dev': the PIN entry was cancelled; try again")

    def test_control_c(self, tmp_path, program):
        child = make(tmp_path, program)
        terminal = Terminal.running(child.command, before=PLAIN)
        terminal.wait_for("PIN:")
        terminal.type(SECRET + "\x03")
        terminal.wait_for("status <0>")
        assert terminal.echoes()
        assert pinentries_of(child) == []
        assert SECRET not in terminal.close()
        outcome = child.outcome.read_text()
        assert outcome.startswith("KeyboardInterrupt")
        assert SECRET not in outcome

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
    def test_a_signal_that_ends_the_program_ends_pinentry(self, tmp_path, program, number):
        child = make(tmp_path, program)
        terminal = Terminal.running(child.command, before=PLAIN)
        terminal.wait_for("PIN:")
        (pinentry,) = [line.split()[1] for line in pinentries_of(child)]
        os.kill(child.pid, number)
        terminal.wait_for(f"status <{128 + number}>")
        assert terminal.echoes()
        terminal.close()
        wait_until(lambda: not Path(f"/proc/{pinentry}").exists() or "State:\tZ" in status_of(pinentry))

    def test_a_program_that_ends_while_a_thread_asks(self, tmp_path, program):
        child = make(tmp_path, program, where="thread")
        terminal = Terminal.running(child.command, before=PLAIN)
        terminal.wait_for("PIN:")
        (pinentry,) = [line.split()[1] for line in pinentries_of(child)]
        Path(f"{child.outcome}.end").touch()
        terminal.wait_for("status <0>")
        assert terminal.echoes()
        terminal.close()
        wait_until(lambda: not Path(f"/proc/{pinentry}").exists() or "State:\tZ" in status_of(pinentry))

    def test_two_threads_ask_one_after_the_other(self, tmp_path, program):
        child = make(tmp_path, program, where="thread thread")
        terminal = Terminal.running(child.command, before=PLAIN)
        for _ in range(2):
            terminal.wait_for("PIN:")
            assert len(pinentries_of(child)) == 1
            terminal.type(SECRET + "\r")
        wait_until(child.outcome.exists)
        Path(f"{child.outcome}.end").touch()
        terminal.wait_for("status <0>")
        assert SECRET not in terminal.close()

    def test_control_z_does_not_leave_it_alone_with_the_shell(self, tmp_path, program):
        child = make(tmp_path, program)
        terminal = Terminal.running(child.command, before=PLAIN)
        terminal.wait_for("PIN:")
        terminal.type("\x1a" + SECRET + "\r")
        terminal.wait_for("status <0>")
        terminal.close()
        assert child.outcome.read_text() == f"PIN {SECRET}"

    def test_without_a_terminal(self, program, monkeypatch, tmp_path):
        child = make(tmp_path, program)
        subprocess.run(
            shlex.split(child.command),
            input=SECRET,
            text=True,
            start_new_session=True,
            check=True,
            timeout=30,
            env={"PATH": os.environ["PATH"]},
        )
        outcome = child.outcome.read_text()
        assert outcome.startswith("PinRequired: token 'dev': ")
        first = outcome.splitlines()[0]
        assert "could not ask for the PIN: " in first or "was cancelled; try again; if nobody was asked: " in first
        assert "export GPG_TTY=$(tty); or give another --pin-source" in first


def status_of(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return "State:\tZ"


# Programs that only pretend.


def heard(folder: Path) -> list[str]:
    return (folder / "heard").read_text().splitlines()


def test_what_it_is_told(tmp_path, monkeypatch):
    for name in ("LC_ALL", "LC_CTYPE", "LC_MESSAGES", "DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GPG_TTY", "/dev/pts/no-such")
    monkeypatch.setenv("TERM", "vt100")
    monkeypatch.setenv("LANG", "tr_TR.UTF-8")
    monkeypatch.setenv("LC_MESSAGES", "de_DE.UTF-8")
    monkeypatch.setenv("DISPLAY", ":7")
    source = Pinentry(pretend_pinentry(tmp_path, f"serve('D {SECRET}\\nOK')"))
    request = PinRequest("50%\x1b[2J\n", "00\r42", "to sign \u202e", "low", per_signature=True)
    assert source(request) == SECRET
    assert heard(tmp_path) == [
        "OPTION ttyname=/dev/pts/no-such",
        "OPTION ttytype=vt100",
        "OPTION lc-ctype=tr_TR.UTF-8",
        "OPTION lc-messages=de_DE.UTF-8",
        "OPTION display=:7",
        "SETTITLE tokenauth",
        "SETDESC Enter the PIN of token '50%25\ufffd[2J\ufffd' (serial 00\ufffd42)%0Ato sign \ufffd (asked for each"
        " signature)%0AWarning: a wrong PIN was sent before; few tries are left.",
        "SETPROMPT PIN:",
        "GETPIN",
        "BYE",
    ]
    assert SECRET not in repr(source)


def test_options_that_it_does_not_know_are_left_out(tmp_path):
    body = (
        "say('OK')\nwhile line := hear():\n"
        f"    say('ERR 83886254 Unknown option' if line.startswith('OPTION') else 'D {SECRET}\\nOK')"
    )
    assert Pinentry(pretend_pinentry(tmp_path, body))(REQUEST) == SECRET


@pytest.mark.parametrize(
    ("body", "message", "hint"),
    [
        ("serve('ERR 83886179 Operation cancelled <Pinentry>')", "the PIN entry was cancelled", "try again"),
        ("serve('ERR 83886194 not confirmed')", "the PIN entry was cancelled", "try again"),
        ("serve('ERR 83886278 Fully cancelled')", "the PIN entry was cancelled", "try again"),
        ("serve('ERR 83886142 Timeout')", "nobody entered the PIN in time", "try again"),
        ("serve('ERR 83918950 Inappropriate ioctl')", "could not ask for the PIN: Inappropriate ioctl", "GPG_TTY"),
        ("say('ERR 1 go away')", "could not ask for the PIN: go away", "--pin-source"),
        ("sys.exit(3)", "ended too early", "PINENTRY_PROGRAM"),
        ("say('OK'); sys.exit(3)", "ended too early", "PINENTRY_PROGRAM"),
        (f"say('{SECRET}')", "is no pinentry that can be used", "PINENTRY_PROGRAM"),
        (f"serve('D {SECRET}%')", "is no pinentry that can be used", "PINENTRY_PROGRAM"),
        (f"serve('{SECRET}' * 200)", "is no pinentry that can be used: it answered with a line that is too long", ""),
        (f"serve('D {SECRET}%00\\nOK')", "the PIN entered holds a NUL", "again"),
        ("serve('OK')", "no PIN entered", "again"),
        ("os.write(1, b'OK\\nOK')\nos.close(1); time.sleep(60)", "ended too early", ""),
    ],
)
def test_what_goes_wrong(tmp_path, body, message, hint):
    with pytest.raises(PinRequired, match=message) as failed:
        Pinentry(pretend_pinentry(tmp_path, body))(REQUEST)
    assert hint in failed.value.hint
    assert failed.value.token == "dev"
    assert_hidden(failed.value)


def test_one_that_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tokenauth.pin.pinentry._PATIENCE", 0.3)
    with pytest.raises(PinRequired, match=r"did not answer within 0\.3 s"):
        Pinentry(pretend_pinentry(tmp_path, "time.sleep(60)"))(REQUEST)


def test_one_that_does_not_want_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr("tokenauth.pin.child._GRACE", 0.2)
    body = (
        f"signal.signal(signal.SIGTERM, signal.SIG_IGN)\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        f"serve('D {SECRET}\\nOK')\ntime.sleep(60)"
    )
    assert Pinentry(pretend_pinentry(tmp_path, body))(REQUEST) == SECRET
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_what_a_wrapper_started_ends_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr("tokenauth.pin.pinentry._PATIENCE", 0.5)
    path = tmp_path / "wrapper"
    path.write_text(f"#!/bin/sh\nsleep 60 &\necho $! >{tmp_path}/pid\nwait\n")
    path.chmod(0o700)
    with pytest.raises(PinRequired, match="did not answer"):
        Pinentry(path)(REQUEST)
    pid = (tmp_path / "pid").read_text().strip()
    wait_until(lambda: "State:\tZ" in status_of(pid))


def test_a_program_that_is_not_there(monkeypatch, tmp_path):
    with pytest.raises(PinRequired, match=r"no program '/nonexistent/pinentry'.*install a pinentry.*--pin-source"):
        Pinentry("/nonexistent/pinentry")(REQUEST)
    monkeypatch.setenv("PINENTRY_PROGRAM", "pinentry-nonexistent")
    with pytest.raises(PinRequired, match="no program 'pinentry-nonexistent'"):
        Pinentry()(REQUEST)
    monkeypatch.delenv("PINENTRY_PROGRAM")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PinRequired, match="no program 'pinentry'"):
        Pinentry()(REQUEST)


def test_a_file_that_can_not_be_run(tmp_path):
    path = tmp_path / "pinentry"
    path.write_bytes(b"\x7fELF no program")
    path.chmod(0o700)
    with pytest.raises(PinRequired, match=r"failed: Exec format error") as failed:
        Pinentry(path)(REQUEST)
    assert failed.value.hint


def test_which_pretend_pinentry(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    named = pretend_pinentry(tmp_path, f"serve('D {SECRET}\\nOK')")
    monkeypatch.setenv("PINENTRY_PROGRAM", named)
    assert Pinentry()(REQUEST) == SECRET
    monkeypatch.setenv("PINENTRY_PROGRAM", "")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin" / "pinentry-mac").symlink_to(named)
    assert Pinentry()(REQUEST) == SECRET
    assert repr(Pinentry()) == repr(parse_pin_source("pinentry")) == "Pinentry()"
    assert repr(Pinentry("x")) == "Pinentry('x')"


def test_many_threads(tmp_path):
    source = Pinentry(pretend_pinentry(tmp_path, f"serve('D {SECRET}\\nOK')"))
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(source(REQUEST))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [SECRET] * 4


# With a token.


def test_a_signature(tmp_path):
    with SoftToken("pinentry", pin=SECRET) as token:
        card = FaultyModule(token, tmp_path / "card")
        sign(key_on(card, token, Pinentry(pretend_pinentry(tmp_path, f"serve('D {SECRET}\\nOK')"))))


def test_a_pad_is_pointed_to(tmp_path):
    with SoftToken("pinentry-pad", pin=SECRET) as token:
        card = FaultyModule(token, tmp_path / "card")
        card.set(pin_pad=True, pad_pin=SECRET)
        answering = Pinentry(pretend_pinentry(tmp_path, "serve('OK')"))
        sign(key_on(card, token, answering))
        (shown,) = [line for line in heard(tmp_path) if line.startswith("SETDESC")]
        assert shown.startswith("SETDESC After this, enter the PIN of token 'pinentry-pad' (serial ")
        assert shown.endswith(") on the reader's pad")
        assert "MESSAGE" in heard(tmp_path)
        assert "GETPIN" not in heard(tmp_path)
        tokenauth.pkcs11.modules.load_module(card.path).reload()
        card.reset_counts()
        cancelled = Pinentry(pretend_pinentry(tmp_path, "serve('ERR 83886179 Operation cancelled')"))
        with pytest.raises(PinRequired, match="cancelled"):
            sign(key_on(card, token, cancelled))
        assert card.calls("C_Login") == 0
        assert isinstance(answering(REQUEST._replace(pin_pad=True)), OnPad)
