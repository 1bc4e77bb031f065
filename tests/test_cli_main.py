"""The command as a whole: help, versions, completion, unexpected errors, the demonstration, the speed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import pytest

import tokenauth
from tests.support.command_line import COMMAND, TIMEOUT, environment, error_of, output_of, run
from tokenauth.cli.failures import related
from tokenauth.testing import SoftToken

COMMANDS = [
    *("list", "show", "get", "sign", "verify", "extend", "container"),
    *("readers", "softtoken", "demo", "doctor", "completion"),
]


def test_version():
    assert output_of(run("--version")) == f"tokenauth {tokenauth.__version__}\n"


def test_help_names_all_commands():
    listed = re.findall(r"^  (\w+) {2,}\w", output_of(run("--help")).split("Commands:")[1], re.MULTILINE)
    assert listed == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command):
    text = output_of(run(command, "--help"))
    assert text.startswith(f"Usage: tokenauth {command}")
    assert "--pin " not in text


def test_without_a_command_it_is_wrong_usage():
    done = run()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: tokenauth ")


@pytest.mark.parametrize("arguments", [("nonsense",), ("list", "--nonsense"), ("show",), ("completion", "tcsh")])
def test_wrong_usage(arguments):
    assert "--help'" in error_of(run(*arguments), 2)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_writes_a_script(shell):
    assert "_TOKENAUTH_COMPLETE" in output_of(run("completion", shell))


def test_bash_completes():
    completed = output_of(run(_TOKENAUTH_COMPLETE="bash_complete", COMP_WORDS="tokenauth do", COMP_CWORD="1"))
    assert completed.split() == ["plain,doctor"]


#: What makes a defect of one command: its module fails in a way that nobody foresaw.
DEFECT = """
import sys, tokenauth.cli.commands.list as listing
from tokenauth.cli.root import run
def fail(*_args, **_options):
    pin = "8675309"
    raise RuntimeError("first\\nsecond")
listing.command.callback = fail
sys.exit(run(sys.argv[1:]))
"""


def defect(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", DEFECT, "list", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def test_an_unexpected_error_is_one_line():
    assert error_of(defect(), 1).startswith("RuntimeError: first second; this is a defect of tokenauth")


def test_its_traceback_is_shown_to_those_who_ask():
    done = defect("-v")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "8675309" not in done.stderr  # no variables


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    with SoftToken("cli-pipe") as token:
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            [*COMMAND, "list", token.uri],
            env=environment(),
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_errors_are_found_where_libraries_hide_them():
    inner = ValueError("inner")
    hidden = RuntimeError("hidden", KeyError(inner))
    outer = RuntimeError("outer")
    outer.__context__ = hidden
    assert inner in related(outer)
    outer.__suppress_context__ = True
    assert list(related(outer)) == [outer]


def test_demo_shows_the_main_job_and_leaves_nothing(tmp_path):
    done = run("demo", TMPDIR=str(tmp_path), SOFTHSM2_CONF="", HTTPS_PROXY="http://127.0.0.1:9")
    text = output_of(done)
    assert text.count("the server saw CN=client over TLSv1.3") == 2
    assert "the private key can not leave it" in text
    assert "the PIN is wrong (CKR_PIN_INCORRECT)" in text
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_demo_without_softhsm(tmp_path):
    script = (
        "import sys, tokenauth.pkcs11.discovery as d, tokenauth.provisioning.softhsm as s; "
        "s.discover = lambda *a, **k: []; from tokenauth.cli.root import run; sys.exit(run(['demo']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert "SoftHSM is not installed; install it" in error_of(done, 3)


def test_list_imports_nothing_heavy():
    with SoftToken("cli-light") as token:
        script = "import sys; from tokenauth.cli.root import run; run(sys.argv[1:]); print(*sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", script, "list", token.uri],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=True,
        )
    loaded = set(done.stdout.split())
    assert "tokenauth.cli.commands.list" in loaded
    assert not loaded & {"requests", "urllib3", "asn1crypto", "tokenauth.tls.context", "tokenauth.cli.commands.get"}


def test_list_is_quick(tmp_path):
    with SoftToken("cli-quick") as token:
        times = []
        for _ in range(5):
            started = time.perf_counter()
            output_of(run("list", token.uri))
            times.append(time.perf_counter() - started)
    # It takes 0.1 s alone on a machine; the tests share theirs, and the best run of several is still a measure.
    assert min(times) < 0.5
