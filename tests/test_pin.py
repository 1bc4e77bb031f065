"""PIN sources, on real terminals, pipes and files."""

from __future__ import annotations

import logging
import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pexpect
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.asking import SECRET, Child, Terminal, assert_hidden, wait_until
from tokenauth import pin
from tokenauth.errors import InvalidURI, PinRequired, TokenAuthError
from tokenauth.pin import Env, Fd, File, PinRequest, as_source, from_uri, parse_pin_source
from tokenauth.pin.reading import Buffer
from tokenauth.pin.terminal import question as question_of
from tokenauth.pin.windows_console import collect_keys

REQUEST = PinRequest("dev", "0042", "to authenticate to api.example")

posix_only = pytest.mark.skipif(os.name != "posix", reason="needs POSIX terminals and modes")


@contextmanager
def pipe_with(data: bytes) -> Iterator[int]:
    """The reading end of a pipe that holds ``data`` and has no writer any more."""
    reader, writer = os.pipe()
    try:
        os.write(writer, data)
        os.close(writer)
        yield reader
    finally:
        os.close(reader)


# --- what as_source takes


def test_a_str_becomes_a_source_that_hides_it() -> None:
    source = as_source(SECRET)
    assert source is not None
    assert source(REQUEST) == SECRET
    assert SECRET not in repr(source)
    assert SECRET not in f"{source}"


def test_a_callable_is_its_own_source_and_none_stays_none() -> None:
    def source(request: PinRequest) -> str | None:
        return request.token

    assert as_source(source) is source
    assert as_source(pin.prompt) is pin.prompt
    assert as_source(None) is None


def test_a_value_of_another_type_is_refused_and_not_shown() -> None:
    with pytest.raises(TypeError, match="not int") as caught:
        as_source(int("73519"))  # type: ignore[arg-type]
    assert_hidden(caught.value, "73519")


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("", "is empty"),
        (SECRET + "\n", "line break"),
        (SECRET + "\0", "NUL"),
        (SECRET + "\x1b[D", "control character"),
        (SECRET + "\udcff", "not UTF-8"),
    ],
)
def test_what_cannot_be_a_pin_is_never_given_out(value: str, fault: str) -> None:
    source = as_source(value)
    assert source is not None
    with pytest.raises(PinRequired, match=fault) as caught:
        source(REQUEST)
    assert caught.value.token == "dev"
    assert_hidden(caught.value)


# --- Env


def test_env_gives_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_PIN", SECRET)
    source = Env("TEST_PIN")
    assert source(REQUEST) == SECRET
    assert repr(source) == "Env('TEST_PIN')"


@pytest.mark.parametrize("name", ["TEST_PIN_THAT_IS_NOT_SET", "", "\0", "\ud800"])
def test_env_names_a_missing_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOTHER_PIN", SECRET)  # os.environ's own errors would show it
    with pytest.raises(PinRequired, match="is not set") as caught:
        Env(name)(REQUEST)
    assert repr(name) in str(caught.value)
    assert_hidden(caught.value)


def test_env_names_an_empty_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_PIN", "")
    with pytest.raises(PinRequired, match="'TEST_PIN' is empty"):
        Env("TEST_PIN")(REQUEST)


@posix_only
def test_env_with_bytes_that_are_not_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_PIN", os.fsdecode(SECRET.encode() + b"\xff"))
    with pytest.raises(PinRequired, match="'TEST_PIN' is not UTF-8") as caught:
        Env("TEST_PIN")(REQUEST)
    assert_hidden(caught.value)


# --- File and Fd: the same bytes give the same PIN

GOOD_LINES = [
    (SECRET.encode(), SECRET),
    (SECRET.encode() + b"\n", SECRET),
    (SECRET.encode() + b"\r\n", SECRET),
    (SECRET.encode() + b"\nsecond line\n", SECRET),
    (b"\xef\xbb\xbf" + SECRET.encode() + b"\r\n", SECRET),
    (b" 12 34 \n", " 12 34 "),
    ("gizli-şifre\n".encode(), "gizli-şifre"),
    (b"1" * 4096, "1" * 4096),
]
BAD_LINES = [
    (b"", "is empty"),
    (b"\n" + SECRET.encode(), "is empty"),
    (b"\r\n", "is empty"),
    (SECRET.encode() + b"\r\r\n", "line break"),
    (SECRET.encode() + b"\r", "line break"),
    (SECRET.encode() + b"\0\n", "NUL"),
    (SECRET.encode() + b"\xff\n", "not UTF-8"),
    (SECRET.encode("utf-16"), "not UTF-8"),
    (SECRET.encode() * 400, "larger than 4096 bytes"),
]


@pytest.mark.parametrize(("data", "expected"), GOOD_LINES)
def test_first_line_of_a_file(data: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "pin"
    path.write_bytes(data)
    path.chmod(0o600)
    assert File(path)(REQUEST) == expected


@pytest.mark.parametrize(("data", "expected"), GOOD_LINES)
def test_first_line_of_a_pipe(data: bytes, expected: str) -> None:
    with pipe_with(data) as reader:
        source = Fd(reader)
        assert source(REQUEST) == expected
        assert source(REQUEST) == expected  # the pipe is empty now: it is remembered
        assert expected not in repr(source)
        assert repr(source) == f"Fd({reader})"


@pytest.mark.parametrize(("data", "fault"), BAD_LINES)
def test_a_bad_line_in_a_file(data: bytes, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "pin"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(PinRequired, match=fault) as caught:
        File(path)(REQUEST)
    assert repr(str(path)) in str(caught.value)
    assert_hidden(caught.value)


@pytest.mark.parametrize(("data", "fault"), [line for line in BAD_LINES if not line[0].endswith(b"\r")])
def test_a_bad_line_in_a_pipe_is_not_followed_by_the_next(data: bytes, fault: str) -> None:
    with pipe_with(data + b"\n24680\n") as reader:
        source = Fd(reader)
        for _ in range(2):
            with pytest.raises(PinRequired, match=f"file descriptor {reader}.*{fault}") as caught:
                source(REQUEST)
            assert_hidden(caught.value)


def test_a_large_file_is_refused_whatever_its_first_line(tmp_path: Path) -> None:
    path = tmp_path / "pin"
    path.write_bytes(SECRET.encode() + b"\n" + b"x" * 4096)
    with pytest.raises(PinRequired, match="larger than 4096 bytes"):
        File(path)(REQUEST)


@pytest.mark.parametrize("spell", ["missing", "", "a\0b"])
def test_a_file_that_cannot_be_read(spell: str, tmp_path: Path) -> None:
    path = f"{tmp_path}/{spell}"
    with pytest.raises(PinRequired, match="cannot be read") as caught:
        File(path)(REQUEST)
    assert repr(path) in str(caught.value)


def test_a_file_is_read_anew_and_its_repr_is_its_path(tmp_path: Path) -> None:
    path = tmp_path / "pin"
    source = File(path)
    assert repr(source) == f"File({str(path)!r})"
    for text in ("1111", "2222"):
        path.write_text(text)
        path.chmod(0o600)
        assert source(REQUEST) == text


@posix_only
@pytest.mark.parametrize(("mode", "warns"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_a_file_that_others_can_read(mode: int, warns: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "pin"
    path.write_text(SECRET)
    path.chmod(mode)
    with caplog.at_level(logging.WARNING, logger="tokenauth"):
        assert File(path)(REQUEST) == SECRET
    assert [record.name for record in caplog.records] == ["tokenauth"] * warns
    assert (str(path) in caplog.text) == warns
    assert SECRET not in caplog.text


def test_fd_leaves_what_follows_the_line() -> None:
    with pipe_with(SECRET.encode() + b"\nbody") as reader:
        assert Fd(reader)(REQUEST) == SECRET
        assert os.read(reader, 100) == b"body"


@pytest.mark.parametrize("number", [-1, 987654, 2**31, 10**30])
def test_fd_that_is_not_open(number: int) -> None:
    with pytest.raises(PinRequired, match=f"file descriptor {number} cannot be read"):
        Fd(number)(REQUEST)


@posix_only
def test_fd_in_non_blocking_mode_waits_for_the_whole_line() -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    found: list[str] = []
    waiting = threading.Thread(target=lambda: found.append(Fd(reader)(REQUEST)))
    waiting.start()
    try:
        for part in (b"12", b"34\n"):
            time.sleep(0.05)
            os.write(writer, part)
    finally:
        os.close(writer)
        waiting.join(10)
        os.close(reader)
    assert found == ["1234"]


def test_fd_is_read_once_by_many_threads() -> None:
    reader, writer = os.pipe()
    source = Fd(reader)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(source(REQUEST))) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)  # all wait now
    os.write(writer, SECRET.encode() + b"\n")
    os.close(writer)
    for thread in threads:
        thread.join()
    os.close(reader)
    assert found == [SECRET] * 8


def test_the_read_buffer_is_wiped_and_never_shown() -> None:
    with Buffer(SECRET.encode()) as buffer:
        assert SECRET not in repr(buffer)
    assert bytes(buffer) == bytes(len(SECRET))


@pytest.fixture(scope="module")
def fuzzed_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pin") / "fuzzed"
    path.touch(0o600)
    return path


def pin_or_none(source: Callable[[PinRequest], str]) -> str | None:
    with suppress(PinRequired):
        return source(REQUEST)
    return None


#: Now and then just around the largest size, where a cut could hide.
ANY_BYTES = st.binary(max_size=64) | st.builds(
    lambda start, size, end: start + b"7" * size + end,
    st.binary(max_size=4),
    st.integers(4088, 4100),
    st.binary(max_size=4),
)


@given(ANY_BYTES)
@example(b"\xef\xbb\xbf\n")
@example(b"\r\n\n")
def test_any_bytes_give_a_clean_pin_or_pin_required(fuzzed_file: Path, data: bytes) -> None:
    fuzzed_file.write_bytes(data)
    from_file = pin_or_none(File(fuzzed_file))
    with pipe_with(data) as reader:
        from_fd = pin_or_none(Fd(reader))
    # A descriptor is read up to the line's end only, so only a file can be too large behind it.
    assert from_file == from_fd or (from_file is None and len(data) > 4096)
    if from_fd is not None:
        assert from_fd
        assert not re.search(r"[\0\r\n]", from_fd)
        assert from_fd.encode() in data


# --- the forms of --pin-source


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("env:MY_PIN", "Env('MY_PIN')"),
        ("file:/run/pin", "File('/run/pin')"),
        ("file:C:\\pin.txt", "File('C:\\\\pin.txt')"),
        ("fd:3", "Fd(3)"),
    ],
)
def test_forms_of_pin_source(text: str, shown: str) -> None:
    assert repr(parse_pin_source(text)) == shown


def test_prompt_as_pin_source() -> None:
    assert parse_pin_source("prompt") is pin.prompt


@pytest.mark.parametrize(
    "text",
    ["73519", "pin:73519", "73519:", "fd:73519x", "prompt:73519", "", ":", "env:", "file:", "fd:", "fd:-1", "fd:٣"],
)
def test_other_pin_sources_are_refused_and_not_shown(text: str) -> None:
    with pytest.raises(PinRequired, match="env:VAR, file:PATH, fd:N, keyring, pinentry, pad, prompt") as caught:
        parse_pin_source(text)
    assert_hidden(caught.value, "73519")


def refusal_of(text: str) -> str | None:
    try:
        parse_pin_source(text)
    except TokenAuthError as error:
        return str(error)
    return None


@given(st.text() | st.builds("{}:{}".format, st.sampled_from(["env", "file", "fd", "prompt", "pin", ""]), st.text()))
def test_any_pin_source_text_is_a_source_or_a_token_error_without_it(text: str) -> None:
    # The message is the same whatever the text is: it cannot show it.
    assert refusal_of(text) in (None, refusal_of("none of the forms"))


# --- a URI's attributes


class UriPin(NamedTuple):
    pin_value: str | None = None
    pin_source: str | None = None

    def __repr__(self) -> str:
        return "UriPin(...)"


def test_a_uri_without_pin_attributes_has_no_source() -> None:
    assert from_uri(UriPin()) is None


def test_pin_value_is_given_and_hidden() -> None:
    source = from_uri(UriPin(pin_value=SECRET))
    assert source is not None
    assert source(REQUEST) == SECRET
    assert SECRET not in repr(source)


def test_an_empty_pin_value_is_not_sent() -> None:
    source = from_uri(UriPin(pin_value=""))
    assert source is not None
    with pytest.raises(PinRequired, match="pin-value is empty"):
        source(REQUEST)


@posix_only
@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/run/pin", "/run/pin"),
        ("/run/100%25", "/run/100%25"),
        ("file:/run/pin", "/run/pin"),
        ("FILE:/run/pin", "/run/pin"),
        ("file:///run/my%20pin", "/run/my pin"),
        ("file://localhost/run/pin", "/run/pin"),
    ],
)
def test_pin_source_names_a_file(text: str, path: str) -> None:
    assert repr(from_uri(UriPin(pin_source=text))) == f"File({path!r})"


@pytest.mark.parametrize(
    "text",
    ["", SECRET, f"|echo {SECRET}", f"file:{SECRET}", f"file://{SECRET}/x", f"file://h/{SECRET}", f"env:{SECRET}"],
)
def test_other_uri_pin_sources_are_refused_and_not_shown(text: str) -> None:
    with pytest.raises(InvalidURI, match="pin-source is") as caught:
        from_uri(UriPin(pin_source=text))
    assert_hidden(caught.value)


def test_a_command_as_pin_source_is_refused_in_so_many_words() -> None:
    with pytest.raises(InvalidURI, match="is a command, which is not run"):
        from_uri(UriPin(pin_source="|/usr/bin/pin"))


def test_a_uri_with_both_attributes_is_refused() -> None:
    with pytest.raises(InvalidURI, match="both") as caught:
        from_uri(UriPin(SECRET, "/run/pin"))
    assert_hidden(caught.value)


@given(st.text() | st.builds("file:{}".format, st.text()))
def test_any_uri_pin_source_is_a_file_or_an_invalid_uri(text: str) -> None:
    with suppress(InvalidURI):
        assert isinstance(from_uri(UriPin(pin_source=text)), File)


# --- the prompt


@pytest.mark.parametrize(
    ("request_", "question"),
    [
        (REQUEST, "PIN for token 'dev' (serial 0042) to authenticate to api.example: "),
        (PinRequest("dev"), "PIN for token 'dev': "),
        (PinRequest("dev", per_signature=True), "PIN for token 'dev' (asked for each signature): "),
        (PinRequest("a\x1b[2Jb\n\u202e", reason="to\rx"), "PIN for token 'a\ufffd[2Jb\ufffd\ufffd' to\ufffdx: "),
    ],
)
def test_question(request_: PinRequest, question: str) -> None:
    assert question_of(request_) == question


def typed_keys(keys: str) -> str:
    """What ``keys``, as a Windows console gives them, leave behind."""
    units = keys.encode("utf-16-le")
    typed = Buffer()
    collect_keys(
        iter(units[i : i + 2].decode("utf-16-le", "surrogatepass") for i in range(0, len(units), 2)).__next__, typed
    )
    return typed.decode("utf-16-le")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("1234\r", "1234"),
        ("129\b34\n", "1234"),
        ("\b\b1\r", "1"),
        ("1\xe0K2\x00;3\r", "123"),  # arrow left, F1
        ("\uffff", ""),
        ("a\U0001f511b\r", "a\U0001f511b"),
    ],
)
def test_keys_of_a_windows_console(keys: str, expected: str) -> None:
    assert typed_keys(keys) == expected


def test_control_c_on_a_windows_console() -> None:
    with pytest.raises(KeyboardInterrupt):
        typed_keys("12\x03")


QUESTION = "PIN for token 'dev' to authenticate to api.example: "


@posix_only
# pexpect forks; xdist has threads by then, which do nothing in the child.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
class TestPromptOnATerminal:
    @pytest.mark.parametrize("redirected", ["", "</dev/null >/dev/null 2>&1"])
    @pytest.mark.parametrize("where", ["main", "thread"])
    def test_pin_is_read_without_echo(self, tmp_path: Path, redirected: str, where: str) -> None:
        child = Child.make(tmp_path, where=where)
        terminal = Terminal.running(f"{child.command} {redirected}")
        terminal.wait_for(QUESTION)
        terminal.type(SECRET + "\n")
        wait_until(child.outcome.exists)
        Path(f"{child.outcome}.end").touch()
        terminal.wait_for("status <0>")
        assert terminal.echoes()
        assert SECRET not in terminal.close()
        assert child.outcome.read_text() == f"PIN {SECRET}"

    @pytest.mark.parametrize(
        ("tries", "warning"), [("ok", ""), ("low", "few tries are left"), ("final", "this is the last try")]
    )
    def test_warning_when_few_tries_are_left(self, tmp_path: Path, tries: str, warning: str) -> None:
        terminal = Terminal.running(Child.make(tmp_path, tries).command)
        terminal.wait_for(QUESTION)
        screen = terminal.close()
        assert ("Warning" in screen) == bool(warning)
        assert warning in screen

    @pytest.mark.parametrize(
        ("keys", "error"),
        [
            ("\n", "PinRequired: token 'dev': no PIN entered"),
            ("\x04", "PinRequired: token 'dev': no PIN entered"),
            (SECRET + "\x1b[D\n", "PinRequired: token 'dev': the PIN entered holds a control character"),
            (SECRET + "\x03", "KeyboardInterrupt"),
        ],
        ids=["enter", "ctrl-d", "arrow", "ctrl-c"],
    )
    def test_no_pin(self, tmp_path: Path, keys: str, error: str) -> None:
        child = Child.make(tmp_path)
        terminal = Terminal.running(child.command)
        terminal.wait_for(QUESTION)
        terminal.type(keys)
        terminal.wait_for("status <0>")
        assert terminal.echoes()
        assert SECRET not in terminal.close()
        assert child.outcome.read_text().startswith(error)
        assert SECRET not in child.outcome.read_text()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
    def test_a_signal_that_ends_the_program_leaves_the_echo_on(self, tmp_path: Path, number: int) -> None:
        child = Child.make(tmp_path)
        terminal = Terminal.running(child.command, before="ulimit -c 0")
        terminal.wait_for(QUESTION)
        terminal.type(SECRET)
        os.kill(child.pid, number)
        terminal.wait_for(f"status <{128 + number}>")
        assert terminal.echoes()
        assert SECRET not in terminal.close()
        assert not child.outcome.exists()

    def test_a_program_that_ends_while_a_thread_asks_leaves_the_echo_on(self, tmp_path: Path) -> None:
        child = Child.make(tmp_path, where="thread")
        terminal = Terminal.running(child.command)
        terminal.wait_for(QUESTION)
        Path(f"{child.outcome}.end").touch()
        terminal.wait_for("status <0>")
        assert terminal.echoes()
        terminal.close()

    def test_control_z_gives_the_echo_back_and_fg_asks_again(self, tmp_path: Path) -> None:
        child = Child.make(tmp_path)
        terminal = Terminal("-i")
        terminal.type(f"{child.command}\n")
        terminal.wait_for(QUESTION)
        terminal.type("never-entered\x1a")
        terminal.wait_for("Stopped")
        terminal.type("stty -a\n")
        assert terminal.echoes()
        terminal.type("fg\n")
        terminal.wait_for(QUESTION)
        terminal.type(SECRET + "\n")
        terminal.wait_for("\n")  # the prompt's own line end
        wait_until(child.outcome.exists)
        terminal.type("stty -a\n")
        assert terminal.echoes()
        screen = terminal.close()
        assert SECRET not in screen
        assert "never-entered" not in screen
        assert child.outcome.read_text() == f"PIN {SECRET}"

    def test_a_terminal_left_raw_and_silent_stays_so_and_enter_works(self, tmp_path: Path) -> None:
        child = Child.make(tmp_path)
        terminal = Terminal.running(child.command, before="stty raw -echo")
        terminal.wait_for(QUESTION)
        terminal.type("9\x7f" + SECRET + "\r")  # line mode: the erase key works
        terminal.wait_for("status <0>")
        assert not terminal.echoes(mode="-icanon")
        assert SECRET not in terminal.close()
        assert child.outcome.read_text() == f"PIN {SECRET}"

    def test_what_is_pasted_after_the_pin_does_not_reach_the_shell(self, tmp_path: Path) -> None:
        child = Child.make(tmp_path)
        terminal = Terminal.running(child.command + "; printf 'next: '; read -r line; echo \"<$line>\"")
        terminal.wait_for(QUESTION)
        terminal.type(f"{SECRET}\n{SECRET}\n")
        terminal.wait_for("next: ")
        terminal.type("typed later\n")
        terminal.wait_for("<typed later>")
        assert SECRET not in terminal.close()

    def test_control_c_works_on_a_terminal_left_raw(self, tmp_path: Path) -> None:
        child = Child.make(tmp_path)
        terminal = Terminal.running(child.command, before="stty raw -echo")
        terminal.wait_for(QUESTION)
        terminal.type("\x03")
        terminal.wait_for("status <0>")
        terminal.close()
        assert child.outcome.read_text().startswith("KeyboardInterrupt")

    def test_two_threads_ask_one_after_the_other(self, tmp_path: Path) -> None:
        child = Child.make(tmp_path, where="thread thread")
        terminal = Terminal.running(child.command)
        terminal.wait_for(QUESTION)
        assert terminal.spawned.expect_exact([QUESTION, pexpect.TIMEOUT], timeout=0.5) == 1
        terminal.type(SECRET + "\n")
        terminal.wait_for(QUESTION)
        wait_until(child.outcome.exists)
        child.outcome.unlink()
        terminal.type(SECRET + "\n")
        # It is read before the program ends: what a terminal has not handed on when the echo comes back, it shows.
        wait_until(child.outcome.exists)
        Path(f"{child.outcome}.end").touch()
        terminal.wait_for("status <0>")
        assert terminal.echoes()
        assert SECRET not in terminal.close()


@posix_only
def test_without_a_terminal_stdin_is_not_read(tmp_path: Path) -> None:
    child = Child.make(tmp_path)
    subprocess.run(
        shlex.split(child.command), input=f"{SECRET}\n", text=True, start_new_session=True, check=True, timeout=30
    )
    outcome = child.outcome.read_text()
    assert outcome.startswith("PinRequired: token 'dev': there is no terminal to ask for the PIN on")
    assert "--pin-source" in outcome
    assert SECRET not in outcome
