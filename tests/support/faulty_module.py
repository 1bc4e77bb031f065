"""A PKCS#11 module that behaves badly on request: ``faulty/faulty.c``, in front of SoftHSM."""

from __future__ import annotations

import functools
import itertools
import os
import re
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.programs import require
from tokenauth.provisioning.softhsm import softhsm_module
from tokenauth.testing import SoftToken

__all__ = ["FaultyModule", "Setting"]

#: A switch or number; a text; several numbers. None takes the setting back.
Setting = bool | int | str | Sequence[int] | None

_SOURCE = Path(__file__).with_name("faulty") / "faulty.c"
#: Where p11-kit's header is, in Debian's package libp11-kit-dev, under the system's own directory and Homebrew's.
_INCLUDE = [f"{prefix}/include/p11-kit-1" for prefix in ("/usr", "/usr/local", "/opt/homebrew")]
_FLAGS = (
    *("-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror"),
    *("-O2", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden"),
)
_COMPILE_TIMEOUT = 60.0  # seconds
_WORD = 8  # bytes of each number in the state file


class _Names(NamedTuple):
    """What can be counted and set, as the tables in the C file have it."""

    functions: tuple[str, ...]
    settings: frozenset[str]
    function_settings: frozenset[str]
    armed: frozenset[str]


@functools.cache
def _names() -> _Names:
    source = _SOURCE.read_text()

    def listed(kind: str) -> list[str]:
        return re.findall(rf"(?<!define )\b{kind}\((\w+)\)", source)

    armed = [name for name in listed("SHOT") if name != "fail"]
    return _Names(
        functions=tuple(listed("FUNCTION")),
        settings=frozenset([*listed("NUMBER"), *listed("TEXT"), *listed("LIST"), *armed]),
        function_settings=frozenset([*listed("EACH"), "fail"]),
        armed=frozenset([*armed, "fail"]),
    )


@functools.cache
def _library() -> bytes:
    """The compiled module; each process that runs tests compiles it once."""
    with tempfile.TemporaryDirectory(prefix="tokenauth-") as directory:
        made = Path(directory) / "faulty.so"
        include = [option for path in _INCLUDE for option in ("-isystem", path)]
        command = [require("cc"), *_FLAGS, *include, str(_SOURCE), "-o", str(made), "-ldl"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_TIMEOUT, check=False)
        if done.returncode != 0:
            pytest.fail(f"{' '.join(command)} failed; it needs p11-kit's pkcs11.h:\n{done.stderr}", pytrace=False)
        return made.read_bytes()


class FaultyModule:
    """A module with one token of SoftHSM's in slot 1; its faults are set, and its calls counted, in all processes.

    Each instance is another module, with sessions and logins of its own, also beside the SoftHSM of the same process.
    SoftHSM's configuration is the one in use when the module is initialised (``SOFTHSM2_CONF``).

    Args:
        token: the token to show; None for the first one that SoftHSM has.
        directory: for its files; made if it does not exist, and not shared with another instance.

    Attributes:
        path: the module's file.
    """

    def __init__(self, token: SoftToken | None, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._written_at = 0
        # Files of their own: the same file is loaded once, whatever its names.
        self.path = str(directory / "faulty.so")
        Path(self.path).write_bytes(_library())
        (directory / "softhsm.so").write_bytes(Path(token.module if token else softhsm_module()).read_bytes())
        self._always: dict[str, str] = {"serial": token.serial} if token else {}
        self._settings: dict[str, str] = {}
        self._write()

    def __repr__(self) -> str:
        return f"<FaultyModule {self.path}>"

    def set(self, **settings: Setting) -> None:
        """Change settings; from now on each call obeys them. Those not named stay.

        ``tests/support/faulty/faulty.c`` lists them and what they do. Settings of a function have two underscores::

            set(delay__C_Sign=450, always__C_OpenSession=0x30)  # 450 ms; CKR_DEVICE_ERROR
            set(fail__C_Sign=(3, 0x32))  # the third call from now on answers CKR_DEVICE_REMOVED
            set(pin_tries=3)  # three wrong PINs lock it
            set(pin_tries=(3, 1))  # two of the three were used up before
            set(only=[0x1], pin_pad=True, pad_pin="1234")

        Raises:
            ValueError: there is no such setting or function, or a text has several lines.
        """
        named = {self._key(name): value for name, value in settings.items()}
        with self._lock:
            for key, text in {key: self._text(key, value) for key, value in named.items()}.items():
                if text is None:
                    self._settings.pop(key, None)
                else:
                    self._settings[key] = text
            self._write()

    def clear(self) -> None:
        """Take all settings back: an ordinary token, in slot 1."""
        with self._lock:
            self._settings.clear()
            self._write()

    def remove(self) -> None:
        """Take the token out: sessions, handles of objects and the login are gone."""
        self._happen("removals", present="0")

    def insert(self, slot: int | None = None) -> None:
        """Put the token back.

        Args:
            slot: into another slot; the one where it was stays, and is empty. Not given: where it was.
        """
        with self._lock:
            before = self._settings.get("slot", "1")
            self._settings.pop("present", None)
            if slot is not None and str(slot) != before:
                empty = {*self._settings.get("empty", "").split(","), before} - {"", str(slot)}
                self._settings |= {"slot": str(slot), "empty": ",".join(sorted(empty))}
            self._write()

    def exchange(self, token: SoftToken) -> None:
        """Take the token out and put another one into the same slot."""
        with self._lock:
            self._always["serial"] = token.serial
        self._happen("removals")

    def log_out(self) -> None:
        """Log out behind the caller's back, as another user of the same module in the process can."""
        self._happen("logouts")

    def close_sessions(self) -> None:
        """Close all sessions behind the caller's back."""
        self._happen("closings")

    def calls(self, function: str) -> int:
        """How often a function was called, in all processes, since :meth:`reset_counts`.

        Raises:
            ValueError: there is no such function.
        """
        return self._state(self._index(function))

    def max_inside(self, function: str | None = None) -> int:
        """How many threads of one process were in a function at the same time; None: in the whole module."""
        functions = len(_names().functions)
        return self._state(functions + (functions if function is None else self._index(function)))

    @property
    def violations(self) -> int:
        """How many calls came while another thread was in the module, of which one had to be alone.

        In a module that was initialised without locking all have to, and else those that initialise and finalise it.
        """
        return self._state(2 * len(_names().functions) + 1)

    @property
    def pin_left(self) -> int:
        """How many wrong PINs are left, with ``pin_tries`` set and after any call."""
        return self._state(2 * len(_names().functions) + 2)

    def reset_counts(self) -> None:
        """Count calls, threads and violations from 0 again."""
        if self._state_path.exists():
            with self._state_path.open("r+b") as file:
                file.write(bytes(_WORD * (2 * len(_names().functions) + 2)))

    @property
    def _state_path(self) -> Path:
        return self._directory / "state"

    def _state(self, index: int) -> int:
        """A number of the C file's ``struct state``, which exists once the module was loaded."""
        try:
            with self._state_path.open("rb") as file:
                file.seek(_WORD * index)
                return int(struct.unpack("=q", file.read(_WORD))[0])
        except FileNotFoundError:
            return 0

    @staticmethod
    def _index(function: str) -> int:
        functions = _names().functions
        if function not in functions:
            raise ValueError(f"PKCS#11 has no function {function}")
        return functions.index(function)

    @staticmethod
    def _key(name: str) -> str:
        setting, dot, function = name.partition("__")
        names = _names()
        known = setting in names.function_settings and function in names.functions if dot else name in names.settings
        if not known:
            raise ValueError(f"faulty.c has no setting {name}")
        return f"{setting}.{function}" if dot else name

    def _text(self, key: str, value: Setting) -> str | None:
        if value is None:
            return None
        armed = key.partition(".")[0] in _names().armed
        if isinstance(value, Sequence) and not isinstance(value, str):
            text = (":" if armed else ",").join(map(str, value))
        else:
            text = str(int(value)) if isinstance(value, bool) else str(value)
        if "\n" in text:
            raise ValueError(f"the setting {key} has several lines")
        return f"{text}@{next(self._numbers)}" if armed else text  # the same words again are another order

    def _happen(self, event: str, **settings: str) -> None:
        with self._lock:
            self._always[event] = str(int(self._always.get(event, "0")) + 1)
            self._settings |= settings
            self._write()

    def _write(self) -> None:
        """Replace the control file. Its time grows each time: a module that looks at each call sees each change."""
        lines = {**self._settings, **self._always}
        new = self._directory / "control.new"
        new.touch(mode=0o600)
        new.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
        self._written_at = max(time.time_ns(), self._written_at + 1)
        os.utime(new, ns=(self._written_at, self._written_at))
        new.replace(self._directory / "control")
