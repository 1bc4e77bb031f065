"""Why the PC/SC service can not be used, and what to do about it."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tokenauth.errors import ReadersUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["INSTALL_PYSCARD", "failure", "no_reader", "programs", "refusal", "users_of_pcsc"]

INSTALL_PYSCARD = (
    "pip install pyscard (on Linux it is compiled: that takes gcc, Python's headers and libpcsclite-dev), or for the "
    "system's Python: apt-get install python3-pyscard"
)
#: By ``sys.platform``.
_START = {
    "win32": "start the service 'Smart Card' (SCardSvr); Windows starts it when a reader is plugged in",
    "darwin": "plug the reader in; macOS starts the service with the first one",
}
_START_PCSCD = "start it: systemctl enable --now pcscd.socket"
_INSTALL_PCSCD = "install it (the package pcscd, or pcsc-lite), then: systemctl enable --now pcscd.socket"
_RESTART_PCSCD = "restart it: systemctl restart pcscd"
_PLUG_IN_ANEW = "unplug the readers, and plug them in again"
_PERMIT = (
    "pcscd asks polkit, which often refuses in SSH sessions and services: let a rule in /etc/polkit-1/rules.d allow "
    "org.debian.pcsc-lite.access_pcsc and org.debian.pcsc-lite.access_card to this user, or be in a session at the "
    "machine itself"
)
_SOCKET = "/run/pcscd/pcscd.comm"
#: The variable that names another socket (pcsc-lite's README).
_OTHER_SOCKET = "PCSCLITE_CSOCK_NAME"
_PLUG_IN = "plug the reader in; if it is, its driver may be missing: for most readers the package libccid, or ccid"
_LIBRARY = "libpcsclite.so"
_PROC = Path("/proc")


def refusal(*, permission: bool = False) -> ReadersUnavailable:
    """The error for a service that takes no clients.

    Args:
        permission: the service itself said that it refuses this user.
    """
    if permission or (sys.platform == "linux" and _listens_but_refuses()):
        return ReadersUnavailable(
            "the PC/SC service pcscd does not let this user at the readers", reason="permission", hint=_PERMIT
        )
    if sys.platform != "linux":
        return ReadersUnavailable(
            "the PC/SC service does not run", reason="service", hint=_START.get(sys.platform, "start it")
        )
    installed = shutil.which("pcscd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
    return ReadersUnavailable(
        "the PC/SC service pcscd does not run" if installed else "the PC/SC service pcscd is not installed",
        reason="service",
        hint=_START_PCSCD if installed else _INSTALL_PCSCD,
    )


def _listens_but_refuses() -> bool:
    """Whether somebody listens on pcscd's socket, though libpcsclite says that there is no service."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        try:
            connection.connect(os.environ.get(_OTHER_SOCKET) or _SOCKET)
        except OSError as error:
            return error.errno in {errno.EACCES, errno.EPERM}
        return True


def failure(code: int) -> ReadersUnavailable:
    """The error for a service that is there and fails.

    Args:
        code: what it answers, as in winscard.h.
    """
    hint = _RESTART_PCSCD if sys.platform == "linux" else _PLUG_IN_ANEW
    return ReadersUnavailable(f"the PC/SC service fails: it answers {code:#010x}", reason="service", hint=hint)


def no_reader() -> ReadersUnavailable:
    """The error for a service without readers."""
    return ReadersUnavailable("no reader is there", reason="reader", hint=_PLUG_IN)


def programs() -> list[tuple[int, str]]:
    """The programs of this user, on Linux.

    Returns:
        Process id and name of each.
    """
    found = []
    for pid, name, directory in _processes():
        with suppress(OSError):  # it has ended
            if directory.stat().st_uid == os.getuid():
                found.append((pid, name))
    return found


def users_of_pcsc() -> list[tuple[int, str]]:
    """Other programs that have PC/SC's library loaded, one of which may be the one that keeps a card for itself.

    Returns:
        Process id and name of each; only those that this user may look into, on Linux.
    """
    found = []
    for pid, name, directory in _processes():
        with suppress(OSError):  # it has ended, or is somebody else's
            if pid != os.getpid() and _LIBRARY in (directory / "maps").read_text():
                found.append((pid, name))
    return found


def _processes() -> Iterator[tuple[int, str, Path]]:
    """Those that use the same pcscd as this one, if any."""
    for directory in sorted(_PROC.glob("[0-9]*")) if sys.platform == "linux" else ():
        with suppress(OSError):
            if _uses_our_service(directory):
                yield int(directory.name), (directory / "comm").read_text().strip(), directory


def _uses_our_service(directory: Path) -> bool:
    try:
        variables = (directory / "environ").read_bytes().split(b"\0")
    except OSError:  # somebody else's: that does not show
        return True
    name = os.fsencode(f"{_OTHER_SOCKET}=")
    theirs = next((each.removeprefix(name) for each in variables if each.startswith(name)), b"")
    return theirs == os.fsencode(os.environ.get(_OTHER_SOCKET, ""))
