"""``tokenauth sign`` with many files: one login, and whatever may happen in the middle."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pexpect
import pytest
from pyhanko.pdf_utils.reader import PdfFileReader

from tests.support.asking import chain_of, wait_until
from tests.support.command_line import COMMAND, TIMEOUT, environment, error_of, output_of, run
from tests.support.faulty_module import FaultyModule
from tests.support.pdfs import one_page
from tests.support.signed_files import trusting
from tokenauth import signing
from tokenauth.signing import verify
from tokenauth.testing import SoftToken

if TYPE_CHECKING:
    from collections.abc import Iterator

PIN = "8675309174205"
MANY = 1000


@pytest.fixture(scope="module")
def token() -> Iterator[SoftToken]:
    with SoftToken("cli-batch", pin=PIN, key_type=None) as token:
        token.add_identity("signer", purposes=("document",))
        yield token


@pytest.fixture
def card(token: SoftToken, tmp_path: Path) -> FaultyModule:
    """Its files are not among those that are signed."""
    return FaultyModule(token, tmp_path / "card")


def pdfs(directory: Path, count: int) -> list[Path]:
    """PDFs, each another one."""
    directory.mkdir()
    files = [directory / f"{number:04}.pdf" for number in range(count)]
    for number, file in enumerate(files):
        file.write_bytes(one_page(filler=number + 1))
    return files


def signed(file: Path) -> Path:
    return file.with_suffix(".signed.pdf")


def arguments(card: FaultyModule, *more: str | Path) -> list[str]:
    return ["sign", "--module", card.path, *map(str, more)]


def sign(card: FaultyModule, *more: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return run(*arguments(card, *more), **{"TOKENAUTH_PIN_SOURCE": "env:PIN", "PIN": PIN} | variables)


def started(card: FaultyModule, *more: str | Path, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *arguments(card, *more)],
        env=environment(**{"TOKENAUTH_PIN_SOURCE": "env:PIN", "PIN": PIN} | variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def on_terminal(card: FaultyModule, *more: str | Path) -> pexpect.spawn:
    return pexpect.spawn(
        COMMAND[0],
        [*COMMAND[1:], *arguments(card, *more)],
        env=environment(TERM="xterm"),
        timeout=TIMEOUT,
        encoding="utf-8",
        dimensions=(24, 200),
    )


def end_of(terminal: pexpect.spawn) -> tuple[str, int | None]:
    """What else it shows, and its exit code."""
    terminal.expect(pexpect.EOF)
    terminal.close()
    return str(terminal.before), terminal.exitstatus


def done_in(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.signed.pdf"))


def unfinished(directory: Path) -> list[Path]:
    return list(directory.glob(".*"))


def assert_signed_once(file: Path, token: SoftToken) -> None:
    """That a file has one signature, of its original, and a good one."""
    content = signed(file).read_bytes()
    assert content.startswith(file.read_bytes())
    assert len(PdfFileReader(io.BytesIO(content)).embedded_signatures) == 1
    assert verify(signed(file), trust=trusting(token.ca.certificate)).status == "valid"


@pytest.mark.parametrize("jobs", [1, 4])
def test_many_files_cost_one_login(card, token, tmp_path, jobs):
    card.set(delay__C_Sign=20)
    files = pdfs(tmp_path / "in", 40)
    done = sign(card, *files, "--jobs", str(jobs))
    assert sorted(output_of(done).splitlines()) == [str(signed(file)) for file in files]
    assert done.stderr == "tokenauth: signed 40 of 40 as CN=signer\n"
    assert card.calls("C_Login") == 1
    assert (card.max_inside("C_Sign") > 1) == (jobs > 1)
    for file in files:
        assert_signed_once(file, token)


def test_killed_and_resumed(card, token, tmp_path):
    files = pdfs(tmp_path / "in", MANY)
    with started(card, *files, "--jobs", "4") as running:
        wait_until(lambda: len(done_in(tmp_path / "in")) >= MANY // 3)
        running.kill()
    before = {path: path.stat().st_mtime_ns for path in done_in(tmp_path / "in")}
    assert len(before) < MANY
    # As if it had been killed while it wrote this one.
    missing = next(file for file in files if signed(file) not in before)
    half = missing.with_name(f".{signed(missing).name}.a1b2c3d4")
    half.write_bytes(missing.read_bytes()[:100])
    other = missing.with_name(".somebody.elses")
    other.write_text("")
    card.reset_counts()
    # As a shell gives them: with what was signed before among them.
    done = sign(card, *sorted((tmp_path / "in").glob("*.pdf")), "--jobs", "4", "--resume")
    assert len(output_of(done).splitlines()) == MANY - len(before)
    assert f"signed {MANY - len(before)} of {MANY} as CN=signer; {len(before)} signed before" in done.stderr
    assert card.calls("C_Login") == 1
    assert card.calls("C_Sign") == MANY - len(before)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(done_in(tmp_path / "in")) == MANY
    assert unfinished(tmp_path / "in") == [other]
    assert all(signed(file).read_bytes().count(b"/ByteRange") == 1 for file in files)
    for file in files[::50]:
        assert_signed_once(file, token)


def test_a_thousand_files(card, tmp_path):
    files = pdfs(tmp_path / "in", MANY)
    done = sign(card, *files, "--jobs", "4")
    assert done.stderr == f"tokenauth: signed {MANY} of {MANY} as CN=signer\n"
    assert done.returncode == 0
    assert card.calls("C_Login") == 1
    assert card.calls("C_Sign") == MANY
    assert len(done_in(tmp_path / "in")) == MANY


def test_resumed_with_nothing_left(card, tmp_path):
    files = pdfs(tmp_path / "in", 2)
    output_of(sign(card, *files))
    card.reset_counts()
    done = sign(card, *files, "--resume")
    assert (output_of(done), done.stderr) == ("", "tokenauth: 2 signed before\n")
    assert card.calls("C_Initialize") == 0  # no card is needed


def test_what_only_looks_like_a_result_is_not_taken_for_one(card, token, tmp_path):
    changed, other, empty = files = pdfs(tmp_path / "in", 3)
    output_of(sign(card, *files))
    changed.write_bytes(changed.read_bytes())  # later than its result
    os.utime(changed, ns=(time.time_ns() + 10**9, time.time_ns() + 10**9))
    signed(other).write_bytes(one_page())
    signed(empty).write_bytes(b"")
    done = sign(card, *files, "--resume")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("but is not") == 3
    assert "--force replaces it" in done.stderr
    output_of(sign(card, *files, "--resume", "--force"))
    for file in files:
        assert_signed_once(file, token)


def test_a_wrong_pin_is_sent_once(card, tmp_path):
    card.set(pin_tries=3)
    files = pdfs(tmp_path / "in", 3)
    done = sign(card, *files, PIN="999999")
    assert done.returncode == 4
    assert card.pin_left == 2
    assert (done.stdout, done_in(tmp_path / "in"), unfinished(tmp_path / "in")) == ("", [], [])
    assert f"error: {files[0]}: token 'cli-batch': the PIN is wrong" in done.stderr
    assert f"1 failed; 2 not tried: {files[1]}, {files[2]}; --resume goes on" in done.stderr


@pytest.mark.parametrize("jobs", ["1", "4"])
def test_a_pin_refused_in_the_middle_ends_the_batch(card, token, tmp_path, jobs):
    card.set(pin_tries=3, delay__C_Sign=50)
    files = pdfs(tmp_path / "in", 40)
    pin = tmp_path / "pin"
    pin.touch(mode=0o600)
    pin.write_text(PIN)
    with started(card, *files, "--jobs", jobs, TOKENAUTH_PIN_SOURCE=f"file:{pin}") as running:
        wait_until(lambda: len(done_in(tmp_path / "in")) >= 3)
        pin.write_text("999999")
        card.log_out()
        output, errors = running.communicate(timeout=TIMEOUT)
    assert running.returncode == 4
    assert card.pin_left == 2
    done = done_in(tmp_path / "in")
    assert 3 <= len(done) < 40
    assert output.splitlines() == [str(path) for path in done] or jobs == "4"
    assert "not tried" in errors
    assert unfinished(tmp_path / "in") == []


@pytest.mark.parametrize("jobs", ["1", "4"])
def test_a_card_that_leaves_in_the_middle(card, token, tmp_path, jobs):
    card.set(delay__C_Sign=50)
    files = pdfs(tmp_path / "in", 40)
    with started(card, *files, "--jobs", jobs, "--json") as running:
        wait_until(lambda: len(done_in(tmp_path / "in")) >= 3)
        card.remove()
        output, errors = running.communicate(timeout=TIMEOUT)
    assert running.returncode == 3
    results = {one["files"][0]: one for one in json.loads(output)}
    assert list(results) == [str(file) for file in files]
    statuses = {one["status"] for one in results.values()}
    assert statuses == {"signed", "failed", "left"}
    done = done_in(tmp_path / "in")
    assert [one["output"] for one in results.values() if one["status"] == "signed"] == [str(path) for path in done]
    assert "not tried" in errors
    assert "removed" in errors
    assert unfinished(tmp_path / "in") == []
    card.insert()
    output_of(sign(card, *files, "--resume"))
    for file in files:
        assert_signed_once(file, token)


@pytest.mark.parametrize("jobs", ["1", "4"])
def test_a_card_that_is_back_at_once(card, token, tmp_path, jobs):
    """It is logged in to once more, and nothing is lost."""
    card.set(delay__C_Sign=50)
    files = pdfs(tmp_path / "in", 30)
    with started(card, *files, "--jobs", jobs) as running:
        wait_until(lambda: len(done_in(tmp_path / "in")) >= 3)
        card.exchange(token)  # out and in, with no moment in between at which it could be looked for
        _, errors = running.communicate(timeout=TIMEOUT)
    assert (running.returncode, errors) == (0, "tokenauth: signed 30 of 30 as CN=signer\n")
    assert card.calls("C_Login") == 2
    for file in files:
        assert_signed_once(file, token)


def test_a_pad_that_asks_each_time(card, token, tmp_path):
    card.set(always_auth=True, pin_pad=True, pad_pin=PIN)
    files = pdfs(tmp_path / "in", 2)
    done = sign(card, *files, "--pin-source", "pad")
    assert output_of(done).splitlines() == [str(signed(file)) for file in files]
    assert card.calls("C_Login") == 3  # the login, and one entry for each signature
    card.set(pin_tries=3, pad_pin="999999")
    done = sign(card, *files, "--force", "--pin-source", "pad")
    assert done.returncode == 4
    assert card.pin_left == 2


@pytest.mark.parametrize("format", ["cades", "xades", "asics", "jws"])
def test_other_formats_are_resumed_too(card, tmp_path, format):
    (tmp_path / "in").mkdir()
    files = [tmp_path / "in" / f"{number}.xml" for number in range(3)]
    for file in files:
        file.write_text("<order/>")
    made = output_of(sign(card, files[0], "--format", format)).splitlines()
    before = Path(made[0]).stat().st_mtime_ns
    done = sign(card, *files, "--format", format, "--resume")
    assert len(output_of(done).splitlines()) == 2
    assert done.stderr.endswith("signed 2 of 3 as CN=signer; 1 signed before\n")
    assert Path(made[0]).stat().st_mtime_ns == before


def test_a_container_of_other_files_is_no_result(card, tmp_path):
    first, second = (tmp_path / name for name in ("first.txt", "second.txt"))
    first.write_text("one")
    second.write_text("the other")
    output_of(sign(card, first))
    done = sign(card, first, second, "--resume")
    assert f"{tmp_path}/first.asice is there, but is not first.txt, second.txt signed" in done.stderr
    output_of(sign(card, first, second, "--resume", "--force"))
    assert output_of(sign(card, first, second, "--resume")) == ""


@pytest.mark.parametrize("jobs", ["1", "4"])
def test_interrupted_on_a_terminal(card, token, tmp_path, jobs):
    card.set(delay__C_Sign=300)  # long enough, together, for a machine that stands still for a moment
    files = pdfs(tmp_path / "in", 40)
    terminal = on_terminal(card, *files, "--jobs", jobs)
    terminal.expect(r"PIN for token 'cli-batch' \(serial [0-9a-f]+\) to sign 40 files: ")
    terminal.sendline(PIN)
    terminal.expect_exact("0002.signed.pdf")
    terminal.sendintr()
    screen, code = end_of(terminal)
    assert code == 130, screen
    assert "Traceback" not in screen
    done = done_in(tmp_path / "in")
    assert f"interrupted: signed {len(done)} of 40 as CN=signer; " in screen
    assert " not tried: " in screen
    assert 2 <= len(done) < 40
    assert unfinished(tmp_path / "in") == []
    card.set(delay__C_Sign=None)
    output_of(sign(card, *files, "--resume", "--jobs", jobs))
    for file in files:
        assert_signed_once(file, token)


@pytest.mark.parametrize("jobs", ["1", "4"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_ended_by_a_signal(card, tmp_path, jobs, number):
    card.set(delay__C_Sign=30)
    files = pdfs(tmp_path / "in", 40)
    with started(card, *files, "--jobs", jobs) as running:
        wait_until(lambda: len(done_in(tmp_path / "in")) >= 3)
        running.send_signal(number)
        _, errors = running.communicate(timeout=TIMEOUT)
    assert running.returncode == 130
    assert "interrupted: signed " in errors
    assert unfinished(tmp_path / "in") == []
    assert 3 <= len(done_in(tmp_path / "in")) < 40


def test_nobody_reads_the_results(card, tmp_path):
    card.set(delay__C_Sign=30)
    files = pdfs(tmp_path / "in", 40)
    with started(card, *files, "--jobs", "4") as running:
        assert running.stdout is not None
        running.stdout.readline()
        running.stdout.close()
        assert running.wait(TIMEOUT) == 1
    assert unfinished(tmp_path / "in") == []
    assert 1 <= len(done_in(tmp_path / "in")) < 40


def test_a_bar_on_a_terminal(card, tmp_path):
    files = pdfs(tmp_path / "in", 4)
    terminal = on_terminal(card, *files)
    terminal.expect("PIN for token")
    terminal.sendline(PIN)
    screen, code = end_of(terminal)
    assert code == 0
    assert "[#######-----------------------] 1/4 " in screen
    assert "3/4 " in screen
    assert "4/4" not in screen
    assert "signed 4 of 4 as CN=signer" in screen
    assert PIN not in screen


def test_a_key_that_asks_each_time(card, token, tmp_path):
    card.set(always_auth=True)
    files = pdfs(tmp_path / "in", 3)
    terminal = on_terminal(card, *files, "--jobs", "4")
    asked = []
    while terminal.expect([r"to sign ([^\r\n]*): ", pexpect.EOF]) == 0:
        asked.append(terminal.match[1])
        terminal.sendline(PIN)
    terminal.close()
    assert terminal.exitstatus == 0
    assert asked == [
        "3 files",
        "0001.pdf (2 of 3) (asked for each signature)",
        "0002.pdf (3 of 3) (asked for each signature)",
    ]
    for file in files:
        assert_signed_once(file, token)


def test_a_wrong_pin_at_the_second_signature_ends_the_batch(card, tmp_path):
    card.set(always_auth=True, pin_tries=3)
    files = pdfs(tmp_path / "in", 3)
    terminal = on_terminal(card, *files)
    for pin in (PIN, "999999"):
        terminal.expect("PIN for token")
        terminal.sendline(pin)
    screen, code = end_of(terminal)
    assert code == 4
    assert "PIN for token" not in screen
    assert card.pin_left == 2
    assert done_in(tmp_path / "in") == [signed(files[0])]
    assert f"signed 1 of 3 as CN=signer; 1 failed; 1 not tried: {files[2]}" in screen


def test_one_file_s_failure_is_that_file_s(card, token, tmp_path):
    good, broken, also_good = files = pdfs(tmp_path / "in", 3)
    broken.write_bytes(b"no PDF at all")
    missing = tmp_path / "in" / "none.pdf"
    done = sign(card, *files, missing)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [str(signed(good)), str(signed(also_good))]
    assert f"error: {broken} can not be signed: " in done.stderr
    assert f"error: {missing}: No such file or directory\n" in done.stderr
    assert done.stderr.endswith("signed 2 of 4 as CN=signer; 2 failed\n")
    assert_signed_once(good, token)


def test_broken_files_alone_cost_no_pin(card, tmp_path):
    files = pdfs(tmp_path / "in", 2)
    for file in files:
        file.write_bytes(b"%PDF-1.7 and no more")
    assert sign(card, *files).returncode == 1
    error_of(sign(card, files[0]), 1)
    assert card.calls("C_Login") == 0


def test_errors_that_are_kept_hold_no_files(token, tmp_path):
    """A thousand broken files of a MiB each are not to be in memory at the end."""
    files = pdfs(tmp_path / "in", 2)
    files[1].write_bytes(b"%PDF-1.7\n" + bytes(1 << 20))
    signer = signing.find_signer(token.uri, pin=PIN, module=token.module)
    _, outcome = signing.Batch(signing.plan_files(files), signer).run()
    assert outcome.status == "failed"
    frames = [frame for link in chain_of(outcome.error) for frame, _ in traceback.walk_tb(link.__traceback__)]
    assert len(frames) > 3
    assert [frame.f_code.co_name for frame in frames if frame.f_locals] == ["_make"]  # its own


def results_of(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


def test_waiting_for_the_card(card, token, tmp_path):
    [file] = pdfs(tmp_path / "in", 1)
    card.remove()
    error_of(sign(card, file), 3)
    with started(card, file, "--wait") as running:
        assert running.stderr is not None
        assert "waiting for a token" in running.stderr.readline()
        card.insert()
        assert running.communicate(timeout=TIMEOUT)[0] == f"{signed(file)}\n"
    assert running.returncode == 0
    assert_signed_once(file, token)


def test_results_as_json(card, tmp_path):
    first, second, third = files = pdfs(tmp_path / "in", 3)
    output_of(sign(card, first))
    second.write_bytes(b"")
    done = sign(card, *files, "--resume", "--json")
    assert done.returncode == 1
    assert results_of(done) == [
        {"files": [str(first)], "status": "skipped", "output": str(signed(first)), "error": None},
        {"files": [str(second)], "status": "failed", "output": None, "error": results_of(done)[1]["error"]},
        {"files": [str(third)], "status": "signed", "output": str(signed(third)), "error": None},
    ]
    assert "0001.pdf" in results_of(done)[1]["error"]


def test_nothing_that_is_there_is_replaced(card, token, tmp_path):
    [file] = pdfs(tmp_path / "in", 1)
    signed(file).write_text("mine")
    assert "is there already; --resume leaves it, --force replaces it" in error_of(sign(card, file), 1)
    assert signed(file).read_text() == "mine"
    output_of(sign(card, file, "--force"))
    assert_signed_once(file, token)


def test_results_are_no_sources(card, tmp_path):
    pdfs(tmp_path / "in", 3)
    output_of(sign(card, *sorted((tmp_path / "in").glob("*.pdf"))))
    done = sign(card, *sorted((tmp_path / "in").glob("*.pdf")))
    assert done.returncode == 1
    assert len(done_in(tmp_path / "in")) == 3
    assert "left out, as others of these files signed: " in done.stderr
    assert "and 2 more files" in done.stderr


def test_two_files_of_one_name(card, tmp_path):
    [first], [second] = pdfs(tmp_path / "a", 1), pdfs(tmp_path / "b", 1)
    (tmp_path / "out").mkdir()
    done = sign(card, first, second, "-o", tmp_path / "out")
    assert (done.returncode, done.stdout) == (1, f"{tmp_path}/out/0000.signed.pdf\n")
    assert "would be written twice" in done.stderr


@pytest.mark.parametrize("place", ["out.pdf", "-"])
def test_several_files_need_a_directory(card, tmp_path, place):
    files = pdfs(tmp_path / "in", 2)
    line = error_of(sign(card, *files, "-o", place if place == "-" else f"{tmp_path}/{place}"), 1)
    assert line.startswith("2 signed files can not be written to ")
    assert card.calls("C_Initialize") == 0


def test_the_same_file_twice_is_signed_once(card, tmp_path):
    [file] = pdfs(tmp_path / "in", 1)
    assert output_of(sign(card, file, file)) == f"{signed(file)}\n"
