"""The processes of isolated modules."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tokenauth.pkcs11.modules import load_module

__all__ = ["await_gone", "connection_of", "is_there", "pid_of"]

_PATIENCE = 10.0  # seconds


def pid_of(module: str) -> int:
    """The id of the process that an isolated module runs in."""
    pid: int = _process(module)._process.pid
    return pid


def connection_of(module: str) -> int:
    """The descriptor of our end of the connection to an isolated module."""
    number: int = _process(module)._number
    return number


def _process(module: str) -> Any:
    cryptoki: Any = load_module(module, isolate=True).cryptoki
    return cryptoki._process


def is_there(pid: int) -> bool:
    """Whether a process runs; one that only waits for its parent to notice does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with suppress(FileNotFoundError):  # no /proc, or gone just now
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return not Path("/proc/self").exists()


def await_gone(pid: int) -> None:
    """Until a process is gone."""
    limit = time.monotonic() + _PATIENCE
    while is_there(pid):
        assert time.monotonic() < limit, f"process {pid} is still there"
        time.sleep(0.01)
