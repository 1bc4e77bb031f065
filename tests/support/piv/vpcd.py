"""The card's side of vpcd's protocol: the reader that a card is in.

Each message, either way, is its length in two bytes and that many bytes. A message of one byte from vpcd is a control
code, any other a command APDU, and only "send the ATR" and APDUs are answered.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.piv.card import Card

__all__ = ["Reader", "read_message", "write_message"]

_OFF, _ON, _RESET, _ATR = (bytes([code]) for code in (0, 1, 2, 4))
_BARE = 5  # bytes of a command without data
_RETRY = 0.01  # seconds
_NOTICED = 10.0  # seconds; vpcd looks every 0.4


class _Gone(Exception):
    """The other side has closed the connection."""


def read_message(connection: socket.socket) -> bytes:
    """The next message.

    Raises:
        OSError, _Gone: there is none.
    """
    size = int.from_bytes(_exactly(connection, 2), "big")
    # vpcd sends the two parts apart, and its kernel holds the second back until the first is acknowledged, which ours
    # would put off for 40 ms. The option does not last.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    return _exactly(connection, size)


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise _Gone
        data += part
    return data


def write_message(connection: socket.socket, message: bytes) -> None:
    connection.sendall(len(message).to_bytes(2, "big") + message)


class Reader:
    """A slot of vpcd that cards go in and out of.

    While a card is in, it is there again by itself when pcscd was restarted.

    Args:
        port: on which vpcd listens for this slot's card, on 127.0.0.1.

    Attributes:
        card: the card in it, or None.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.card: Card | None = None
        self._connection: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._out = threading.Event()

    def insert(self, card: Card) -> None:
        """Put a card in."""
        if self.card is not None:
            raise ValueError("there is a card in the reader")
        self.card = card
        self._out = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(card, self._out), daemon=True)
        self._thread.start()

    def remove(self) -> None:
        """Pull the card out, in the middle of a command or not, and wait until vpcd has noticed."""
        if self._thread is None:
            raise ValueError("there is no card in the reader")
        self._out.set()
        if self._connection is not None:
            with contextlib.suppress(OSError):
                # vpcd sees the end at its next look, and closes its side. Only by that we see that it has noticed.
                self._connection.shutdown(socket.SHUT_WR)
        self._thread.join(_NOTICED)
        if self._thread.is_alive():
            raise TimeoutError("vpcd does not notice that the card is gone")
        self.card = self._thread = None

    def _serve(self, card: Card, out: threading.Event) -> None:
        while not out.is_set():
            try:
                self._connection = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                time.sleep(_RETRY)  # pcscd is not running, or not yet
                continue
            with self._connection, contextlib.suppress(OSError, _Gone):
                while True:
                    self._answer(self._connection, read_message(self._connection), card, out)

    def _answer(self, connection: socket.socket, message: bytes, card: Card, out: threading.Event) -> None:
        if message == _ATR:
            answer = card.profile.atr
        elif message in {_ON, _RESET}:
            card.reset()
            return
        elif len(message) < 2:  # power off, which needs nothing, or no code at all
            return
        else:
            seconds = card.latency.get(message[1], 0.0) if len(message) > _BARE else 0.0
            card.busy = message[1] if seconds else None
            out.wait(seconds)
            answer = b"" if out.is_set() else card.transmit(message)
            card.busy = None
        if not out.is_set():
            write_message(connection, answer)
