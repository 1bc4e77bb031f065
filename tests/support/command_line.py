"""The real command in a process of its own, with an environment that holds nothing of the tester's."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest

import tokenauth
from tokenauth.cli import root
from tokenauth.provisioning.softhsm import softhsm_module, write_configuration

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT = 30.0  # seconds
COMMAND = (sys.executable, "-m", "tokenauth")


def environment(**more: str) -> dict[str, str]:
    """The variables for a command: SoftHSM as this process uses it, and what is given; "" leaves one out."""
    given = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(Path(tokenauth.__file__).parents[1]),
        "SOFTHSM2_CONF": os.environ.get("SOFTHSM2_CONF", "/nonexistent"),
        "TOKENAUTH_MODULE": softhsm_module(),
        "PCSCLITE_CSOCK_NAME": "/nonexistent/pcscd.comm",  # the tester's readers are left alone
    }
    return {name: value for name, value in (given | more).items() if value}


def run(*arguments: str, input: str | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    """Run ``tokenauth`` without a terminal."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(**more),
        input=input or "",
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=TIMEOUT,
        start_new_session=True,  # no controlling terminal, whoever runs the tests
        check=False,
    )


def run_inside(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """What :func:`run` does, in this process, which takes a tenth of the time; logins of this process serve as well."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
    variables = mock.patch.dict(os.environ, environment(**more))
    with variables, _loggers_as_before(), redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        code = root.run(arguments)
    output, errors = (stream.buffer.getvalue().decode() for stream in streams)
    return subprocess.CompletedProcess(["tokenauth", *arguments], code, output, errors)


@contextmanager
def _loggers_as_before() -> Iterator[None]:
    """The command sends the log to its stderr, where other tests would look for it in vain."""
    loggers = [logging.getLogger(name) for name in ("tokenauth", "urllib3")]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    try:
        yield
    finally:
        for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)


def run_here(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run ``tokenauth`` in this process: its exit code, stdout and stderr, neither of which shows a defect."""
    with _loggers_as_before():
        code = root.run(arguments)
    output, errors = capsys.readouterr()
    for text in (output, errors):
        assert "Traceback" not in text
        assert "defect of tokenauth" not in text
    return code, output, errors


def error_of(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line with which a command failed."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("tokenauth: error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("tokenauth: error: ").rstrip("\n")


def output_of(done: subprocess.CompletedProcess[str]) -> str:
    """What a command that succeeded wrote to stdout."""
    assert done.returncode == 0, done.stderr
    return done.stdout


def no_tokens(directory: Path) -> dict[str, str]:
    """Variables with which SoftHSM has no token."""
    return {"SOFTHSM2_CONF": str(write_configuration(directory / "empty"))}
