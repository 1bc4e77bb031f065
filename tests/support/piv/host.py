"""The process that holds the virtual cards and pcscd, in namespaces of its own for the network and for mounts.

    python -m tests.support.piv.host DIRECTORY READER...

vpcd listens on all addresses; in this namespace there is nobody else. pcscd writes into /run/pcscd, which here is one
of its own, and which an ordinary user could not even make. The tests reach the process through the unix
socket ``control`` in the directory, one pickled request for each connection. It ends, and pcscd with it, when its
standard input does, so when the tests are killed. Then it removes the directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support import common_name
from tests.support.piv import objects
from tests.support.piv.card import Card
from tests.support.piv.keys import KEY_TYPES, generate
from tests.support.piv.profile import Profile
from tests.support.piv.vpcd import Reader
from tests.support.piv.watch import await_card

#: pcscd's driver for cards that come by TCP; the package vsmartcard-vpcd puts it there.
VPCD = Path("/usr/lib/pcsc/drivers/serial/libifdvpcd.so")
_FIRST_PORT = 35963
_STOP_TIMEOUT = 5.0  # seconds


class Pcscd:
    """pcscd, on a socket and with readers of our own.

    Args:
        directory: for its files.
        readers: their names.
    """

    def __init__(self, directory: Path, readers: list[str]) -> None:
        self._directory = directory
        self._socket = directory / "pcscd.comm"
        os.environ["PCSCLITE_CSOCK_NAME"] = str(self._socket)  # for this process's own look at it
        self._process: subprocess.Popen[bytes] | None = None
        (directory / "readers").mkdir()
        (directory / "usb-drivers").mkdir()
        for number, name in enumerate(readers):
            # The driver's state belongs to the loaded file, so that each reader needs a file of its own.
            driver = shutil.copy(VPCD, directory / f"vpcd-{number}.so")
            (directory / "readers" / f"reader-{number}").write_text(
                f'FRIENDLYNAME "{name}"\n'
                f"DEVICENAME /dev/null:{port_of(number):#x}\nLIBPATH {driver}\nCHANNELID {port_of(number):#x}\n"
            )

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self, *, without_readers: bool = False) -> None:
        if self._process is not None:
            raise ValueError("pcscd is running")
        # It takes a socket over from systemd: file descriptor 3, for the process that LISTEN_PID names.
        take_over = 'export LISTEN_PID=$$; exec "$@" 3<&0 </dev/null'
        readers = self._directory / ("usb-drivers" if without_readers else "readers")  # the first is empty
        command = ["pcscd", "--foreground", "--config", str(readers), *_options()]
        with socket.socket(socket.AF_UNIX) as listener, (self._directory / "pcscd.log").open("ab") as log:
            listener.bind(str(self._socket))
            listener.listen(64)
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "sh", "-c", take_over, "sh", *command],
                stdin=listener.fileno(),
                stdout=log,
                stderr=log,
                # Without drivers for USB it leaves the readers of the machine alone.
                env={**os.environ, "LISTEN_FDS": "1", "PCSCLITE_HP_DROPDIR": str(self._directory / "usb-drivers")},
            )

    def stop(self, *, kill: bool = False) -> None:
        """End it, without a chance to clean up if `kill`."""
        if self._process is None:
            raise ValueError("pcscd is not running")
        process, self._process = self._process, None
        process.kill() if kill else process.terminate()
        try:
            process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._socket.unlink()


def port_of(reader: int) -> int:
    """The driver has two slots a reader, at two ports; no card ever goes into the second."""
    return _FIRST_PORT + 2 * reader


def _options() -> list[str]:
    """Without D-Bus nobody answers polkit's questions; the socket's directory is what keeps others out."""
    known = subprocess.run(["pcscd", "--help"], capture_output=True, text=True, check=False).stdout
    return ["--disable-polkit"] if "--disable-polkit" in known else []


class Host:
    """What the tests may ask for: the methods whose names have no underscore. Cards have names."""

    def __init__(self, directory: Path, readers: list[str]) -> None:
        self._pcscd = Pcscd(directory, readers)
        self._names = [f"{name} 00 00" for name in readers]  # as pcscd calls them
        self._cards: dict[str, Card] = {}
        self._readers = [Reader(port_of(number)) for number in range(len(readers))]

    # --- pcscd ---

    def start_pcscd(self, without_readers: bool = False) -> None:
        self._pcscd.start(without_readers=without_readers)
        for number in range(0 if without_readers else len(self._readers)):
            self._await_pcscd(number)

    def stop_pcscd(self, kill: bool) -> None:
        self._pcscd.stop(kill=kill)

    def pcscd_pid(self) -> int | None:
        return self._pcscd.pid

    # --- cards in readers ---

    def make_card(self, name: str, profile: Profile) -> None:
        self._cards[name] = Card(profile)

    def profile(self, name: str) -> Profile:
        return self._cards[name].profile

    def insert(self, name: str, reader: int) -> None:
        self._readers[reader].insert(self._cards[name])
        self._await_pcscd(reader)

    def remove(self, name: str) -> None:
        number = self.reader_of(name)
        if number is None:
            raise ValueError("the card is in no reader")
        self._readers[number].remove()
        self._await_pcscd(number)

    def reader_of(self, name: str) -> int | None:
        """The number of the reader that the card is in."""
        card = self._cards[name]
        return next((number for number, reader in enumerate(self._readers) if reader.card is card), None)

    def _await_pcscd(self, reader: int) -> None:
        if self._pcscd.pid:
            await_card(self._names[reader], self._readers[reader].card is not None)

    # --- what is on cards ---

    def make_key(self, name: str, slot: int, key_type: str) -> None:
        self._cards[name].keys[slot] = generate(KEY_TYPES[key_type])

    def request(self, name: str, slot: int, subject: str) -> bytes:
        """A certificate signing request (DER) for the slot's key."""
        key = self._cards[name].keys[slot]
        builder = x509.CertificateSigningRequestBuilder().subject_name(common_name(subject))
        return builder.sign(key.private, hashes.SHA256()).public_bytes(Encoding.DER)

    def store_certificate(self, name: str, slot: int, der: bytes, compressed: bool) -> None:
        card = self._cards[name]
        card.objects[objects.CERTIFICATE_TAGS[slot]] = objects.certificate_object(der, compressed=compressed)
        retired = [tag for tag in card.objects if 0x5FC10D <= tag <= 0x5FC120]
        if retired:
            card.objects[objects.HISTORY] = objects.history_object(max(retired) - 0x5FC10C)

    def set_object(self, name: str, tag: int, value: bytes | None) -> None:
        if value is None:
            self._cards[name].objects.pop(tag, None)
        else:
            self._cards[name].objects[tag] = value

    def save(self, name: str) -> None:
        self._cards[name].save()

    def restore(self, name: str) -> None:
        self._cards[name].restore()

    def set_latency(self, name: str, instruction: int, seconds: float) -> None:
        self._cards[name].latency[instruction] = seconds

    def fail(self, name: str, instruction: int, status: list[int]) -> None:
        self._cards[name].faults.setdefault(instruction, []).extend(status)

    def state(self, name: str) -> dict[str, Any]:
        card = self._cards[name]
        return {
            "counters": card.counters,
            "pin_tries": card.pin.tries,
            "puk_tries": card.puk.tries,
            "busy": card.busy,
            "log": list(card.log),
        }

    def clear_counters(self, name: str) -> None:
        self._cards[name].clear_counters()


def serve(host: Host, listener: socket.socket) -> None:
    """Answer requests until standard input ends.

    One at a time and in this thread, because pcscd dies with the thread that started it.
    """
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is sys.stdin:
                    return
                connection, _ = listener.accept()
                with connection, connection.makefile("rwb") as stream, contextlib.suppress(OSError, EOFError):
                    pickle.dump(_answer(host, *pickle.load(stream)), stream)


def _answer(host: Host, method: str, *arguments: Any) -> tuple[bool, Any]:
    """Whether it went well, and the result or the exception."""
    try:
        function: Callable[..., Any] = getattr(host, method)
        return True, function(*arguments)
    except Exception as error:  # noqa: BLE001 # it is raised again on the other side
        return False, error


def loopback_up() -> None:
    """In a new network namespace even the loopback interface is down (netdevice(7))."""
    set_flags, up = 0x8914, 0x1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, set_flags, struct.pack("16sh", b"lo", up))


def hide_run() -> None:
    """An empty /run for this process and those that it starts."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)


def main(directory: Path, readers: list[str]) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    loopback_up()
    hide_run()
    host = Host(directory, readers)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "control"))
        listener.listen(64)
        host.start_pcscd()
        print("ready", flush=True)
        try:
            serve(host, listener)
        finally:
            if host.pcscd_pid():
                host.stop_pcscd(True)
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
