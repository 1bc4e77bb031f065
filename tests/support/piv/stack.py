"""A pcscd of the test's own with virtual cards, and the environment in which programs use it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.piv.handle import CONTROL, CardHandle, ask
from tests.support.piv.host import VPCD
from tests.support.piv.profile import Profile
from tests.support.programs import SYSTEM_DIRECTORIES, find_module, require

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["READER", "YUBIKEY_READER", "CardStack", "opensc_module", "ykcs11_module"]

READER = "Virtual PCD"
#: libykcs11 uses only readers whose names have this maker's in them.
YUBIKEY_READER = "Yubico YubiKey OTP+FIDO+CCID"
_ROOT = Path(__file__).parents[3]
_TIMEOUT = 30.0  # seconds
_CONFIGURATION = """\
app default {{
    framework pkcs15 {{
        use_file_caching = {caching};
        file_cache_dir = {cache};
    }}
}}
"""


class CardStack:
    """pcscd with one virtual card or more, in a private directory and private namespaces.

    Nothing of the machine's own pcscd, readers or OpenSC configuration is touched, any number of stacks can run at
    the same time, and all of it ends with `close` or with the process that made it, however that ends.

    Args:
        profile: the card's.
        readers: names of the readers, all different. To each pcscd adds `` 00 00``, and makes another one `` 00 01``
            that is always empty. The card is in the first.
        file_cache: whether OpenSC keeps what it has read in files.
        directory: a new directory for it all, which only its owner may enter; None makes one.

    Attributes:
        card: the card.
        directory: where the files are; it goes at the end.
        pid: of the process that the cards live in.

    Raises:
        RuntimeError: it does not start; the text is its log.
    """

    def __init__(
        self,
        profile: Profile | None = None,
        *,
        readers: tuple[str, ...] = (READER,),
        file_cache: bool = False,
        directory: Path | None = None,
    ) -> None:
        _require_programs()
        self.directory = directory or Path(tempfile.mkdtemp(prefix="tokenauth-piv-"))
        self._control = self.directory / "control"
        self._write_configuration(file_cache)
        self._cards = 0
        self._process = self._start(readers)
        self.pid = self._process.pid
        try:
            self._await_ready()
            self.card = self.new_card(profile or Profile())
            self.card.insert()
        except BaseException:
            self.close()
            raise

    @property
    def environment(self) -> dict[str, str]:
        """The variables that programs need: for this pcscd, OpenSC's configuration, and `attach`."""
        return {
            # libpcsclite reads it once in a process.
            "PCSCLITE_CSOCK_NAME": str(self.directory / "pcscd.comm"),
            "OPENSC_CONF": str(self.directory / "opensc.conf"),
            CONTROL: str(self._control),
        }

    def new_card(self, profile: Profile | None = None) -> CardHandle:
        """Make another card; it is in no reader yet."""
        self._cards += 1
        card = CardHandle(self._control, f"card {self._cards}", profile or Profile())
        self._ask("make_card", card.name, card.profile)
        return card

    # --- pcscd ---

    def stop_pcscd(self, *, kill: bool = False) -> None:
        """End pcscd, with SIGKILL if `kill`; the cards stay in their readers."""
        self._ask("stop_pcscd", kill)

    def start_pcscd(self, *, without_readers: bool = False) -> None:
        """Start pcscd again; returns when it has noticed the cards, unless it is to have no readers."""
        self._ask("start_pcscd", without_readers)

    def restart_pcscd(self, *, kill: bool = False) -> None:
        """Stop and start pcscd."""
        self.stop_pcscd(kill=kill)
        self.start_pcscd()

    @property
    def pcscd_pid(self) -> int | None:
        """pcscd's process id, or None."""
        pid: int | None = self._ask("pcscd_pid")
        return pid

    def log(self) -> str:
        """What pcscd and the process of the cards have said."""
        logs = (self.directory / "host.log", self.directory / "pcscd.log")
        return "".join(log.read_text(errors="replace") for log in logs if log.exists())

    # --- programs ---

    def plain_environment(self) -> dict[str, str]:
        """All variables of a program that uses the card; none of the tester's."""
        return {**_plain_environment(), **self.environment}

    def run(
        self, *command: str | Path, input: str | bytes = b"", timeout: float = _TIMEOUT, **more: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program that uses the card.

        Args:
            *command: the program, which must be there, and its arguments.
            input: its standard input.
            timeout: seconds.
            **more: more variables.
        """
        program, *arguments = command
        return subprocess.run(
            [require(str(program)), *map(str, arguments)],
            env={**self.plain_environment(), **more},
            input=input.encode() if isinstance(input, str) else input,
            capture_output=True,
            timeout=timeout,
            start_new_session=True,  # no controlling terminal, whoever runs the tests
            check=False,
        )

    def python(self, script: str, *arguments: str | Path, **more: Any) -> subprocess.CompletedProcess[bytes]:
        """Run a Python script, given as its text; it can import tokenauth and the tests' support."""
        return self.run(sys.executable, "-c", script, *arguments, **more)

    # --- its life ---

    def close(self) -> None:
        """End it all. May be called again."""
        process = self._process
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> CardStack:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, method: str, *arguments: Any) -> Any:
        return ask(self._control, method, *arguments)

    def _write_configuration(self, file_cache: bool) -> None:
        caching = "public" if file_cache else "no"
        text = _CONFIGURATION.format(caching=caching, cache=self.directory / "opensc-cache")
        (self.directory / "opensc.conf").write_text(text)

    def _start(self, readers: tuple[str, ...]) -> subprocess.Popen[bytes]:
        as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        apart = [require("unshare"), "--net", "--mount", *as_root, "--"]
        with (self.directory / "host.log").open("ab") as log:
            return subprocess.Popen(
                [*apart, sys.executable, "-m", "tests.support.piv.host", str(self.directory), *readers],
                cwd=_ROOT,
                env=_plain_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # what the terminal sends to the tests does not keep it from cleaning up
            )

    def _await_ready(self) -> None:
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"the virtual card does not start:\n{self.log()}")


def _require_programs() -> None:
    for program in ("pcscd", "unshare", "setpriv", "mount"):
        require(program)
    if not VPCD.exists():
        pytest.fail(f"{VPCD} is not installed (package vsmartcard-vpcd) and this test needs it", pytrace=False)


def _plain_environment() -> dict[str, str]:
    """An environment that holds nothing of the tester's."""
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), *SYSTEM_DIRECTORIES])
    paths = os.pathsep.join(map(str, (_ROOT, _ROOT / "src")))
    return {"PATH": search, "HOME": "/nonexistent", "LANG": "C.UTF-8", "PYTHONPATH": paths}


def opensc_module() -> Path:
    """OpenSC's PKCS#11 module, or a failed test."""
    return find_module("opensc-pkcs11.so")


def ykcs11_module() -> Path:
    """Yubico's PKCS#11 module, or a failed test."""
    return find_module("libykcs11.so")
