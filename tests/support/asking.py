"""Programs that ask for a PIN on a real terminal, and what must show it nowhere."""

from __future__ import annotations

import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import pexpect
import pytest

__all__ = ["SECRET", "Child", "Terminal", "assert_hidden", "chain_of", "pretend_pinentry", "wait_until"]

#: Occurs nowhere by chance.
SECRET = "73519-geheim"


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def assert_hidden(error: BaseException, secret: str = SECRET) -> None:
    """No part of the error, of those behind it, or of a traceback with all locals shows the secret."""
    for link in chain_of(error):
        # The first frame is the test's own, which does hold the secret.
        frames = link.__traceback__.tb_next if link.__traceback__ else None
        printed = traceback.TracebackException(type(link), link, frames, capture_locals=True)
        assert secret not in "".join(printed.format(chain=False))
        assert secret not in repr(link)
        assert secret not in repr(link.args)
        assert secret not in repr(vars(link))


#: Asks, and writes the outcome to a file: the terminal shows only what the prompt shows.
CHILD = """
import os, sys, threading, time, traceback
from pathlib import Path
from tokenauth.pin import *

outcome, tries, where, source = sys.argv[1:]

def ask():
    try:
        found = eval(source)(PinRequest("dev", "", "to authenticate to api.example", tries))
    except BaseException as error:
        shown = traceback.TracebackException.from_exception(error, capture_locals=True).format()
        Path(outcome).write_text(f"{type(error).__name__}: {error}\\n" + "".join(shown))
    else:
        Path(outcome).write_text("PIN " + found)

Path(outcome + ".pid").write_text(str(os.getpid()))
if where == "main":
    ask()
else:
    for _ in where.split():
        threading.Thread(target=ask, daemon=True).start()
    while not Path(outcome + ".end").exists():
        time.sleep(0.01)
"""


class Child(NamedTuple):
    """A program that asks for a PIN, and where it leaves its outcome and its process id."""

    command: str
    outcome: Path

    @classmethod
    def make(cls, folder: Path, tries: str = "ok", where: str = "main", source: str = "prompt") -> Child:
        script, outcome = folder / "child.py", folder / "outcome"
        script.write_text(CHILD)
        return cls(shlex.join([sys.executable, str(script), str(outcome), tries, where, source]), outcome)

    @property
    def pid(self) -> int:
        return int(Path(f"{self.outcome}.pid").read_text())


class Terminal:
    """A shell on a pseudo-terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.screen = StringIO()
        self.spawned: Any = pexpect.spawn(
            "/bin/sh", list(arguments), encoding="utf-8", timeout=30, dimensions=(24, 300)
        )
        self.spawned.logfile_read = self.screen

    @classmethod
    def running(cls, command: str, before: str = ":") -> Terminal:
        """Run one command, then show its exit status and the terminal's modes. Ctrl-C does not end the shell."""
        return cls("-c", f"trap : INT QUIT HUP; {before}; {command}; printf 'status <%s>' $?; stty -a")

    def wait_for(self, text: str) -> None:
        self.spawned.expect_exact(text)

    def type(self, text: str) -> None:
        self.spawned.send(text)

    def echoes(self, mode: str = " icanon") -> bool:
        """Whether the listing of ``stty -a`` that comes next says that the echo is on."""
        self.spawned.expect(mode + r".*?([ -])echo\s")
        return str(self.spawned.match[1]) == " "

    def close(self) -> str:
        """End the shell; give what was on the screen."""
        self.spawned.close(force=True)
        return self.screen.getvalue()


def wait_until(is_true: Callable[[], bool]) -> None:
    for _ in range(3000):
        if is_true():
            return
        time.sleep(0.01)
    pytest.fail("waited 30 s in vain")


def pretend_pinentry(folder: Path, body: str) -> str:
    """A pinentry that is told what to do by Python code; `say` writes a line, `hear` reads one."""
    path = folder / "pinentry-that-pretends"
    path.write_text(
        f"#!{sys.executable}\nimport os, sys, time, signal\n"
        "def say(line): sys.stdout.write(line + '\\n'); sys.stdout.flush()\n"
        "def hear(): return sys.stdin.readline().rstrip('\\n')\n"
        f"def serve(answer):\n"
        "    say('OK')\n"
        f"    with open({str(folder / 'heard')!r}, 'w') as log:\n"
        "        while line := hear():\n"
        "            print(line, file=log, flush=True)\n"
        "            say(answer if line in ('GETPIN', 'MESSAGE') else 'OK')\n"
        f"{body}\n"
    )
    path.chmod(0o700)
    return str(path)
