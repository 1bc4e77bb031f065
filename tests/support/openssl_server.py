"""``openssl s_server``: for servers that Python's ssl module can not be."""

from __future__ import annotations

import re
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support.programs import require

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tokenauth.testing.authority import Authority

__all__ = ["s_server"]


@contextmanager
def s_server(authority: Authority, directory: Path, *options: str) -> Iterator[int]:
    """A server for ``localhost`` that answers HTTP with a status page; yields its port.

    Args:
        authority: issues its certificate, and is the one that clients' certificates must come from.
        directory: an existing directory for its files.
        *options: of ``openssl s_server``.
    """
    certificate, key = authority.issue_server(["localhost"])
    files = {"s_server.pem": certificate, "s_server.key": key, "s_server-ca.pem": authority.root.pem}
    for name, content in files.items():
        (directory / name).touch(mode=0o600)
        (directory / name).write_bytes(content)
    command = [
        *(require("openssl"), "s_server", "-accept", "127.0.0.1:0", "-www", "-naccept", "100"),
        *("-cert", "s_server.pem", "-key", "s_server.key", "-CAfile", "s_server-ca.pem", *options),
    ]
    process = subprocess.Popen(
        command, cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    with process:
        try:
            yield _port(process)
        finally:
            process.terminate()


def _port(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None
    said = b""
    for line in process.stdout:
        said += line
        if found := re.match(rb"ACCEPT .*:(\d+)", line):
            return int(found[1])
    raise AssertionError(f"openssl s_server ended:\n{said.decode(errors='replace')}")
