"""Programs that tests run: one that is missing fails the test, because a skipped test proves nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

# Where distributions put servers; the PATH of an ordinary user may lack them.
SYSTEM_DIRECTORIES = ("/usr/local/sbin", "/usr/sbin", "/sbin")
_TIMEOUT = 60.0  # seconds


def require(program: str) -> str:
    """The path of a program, or a failed test."""
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), *SYSTEM_DIRECTORIES])
    path = shutil.which(program, path=search)
    if path is None:
        pytest.fail(f"the program {program!r} is not installed and this test needs it", pytrace=False)
    return path


def find_module(name: str) -> Path:
    """The file of a PKCS#11 module, or a failed test.

    Args:
        name: the file's; ``*`` stands for anything.
    """
    for directory in map(Path, ("/usr/lib", "/usr/lib64")):
        for pattern in (name, f"*/{name}", f"*/pkcs11/{name}", f"pkcs11/{name}", f"*/nss/{name}"):
            for path in sorted(directory.glob(pattern)):
                return path
    pytest.fail(f"the PKCS#11 module {name!r} is not installed and this test needs it", pytrace=False)


def openssl(*args: str | Path, input: bytes | None = None) -> bytes:
    """What `openssl` with these arguments writes to stdout.

    Raises:
        AssertionError: it failed; the text is its stderr.
    """
    command = [require("openssl"), *map(str, args)]
    done = subprocess.run(command, input=input, capture_output=True, timeout=_TIMEOUT, check=False)
    if done.returncode != 0:
        raise AssertionError(
            f"{' '.join(command)} exited with {done.returncode}:\n{done.stderr.decode(errors='replace')}"
        )
    return done.stdout
