"""The client's side of the Assuan protocol, as far as asking for a PIN needs it.

A line goes there, and lines come back up to ``OK`` or ``ERR`` ("Developing with Assuan", sections 2.3 and 2.4). What
comes back may be a PIN, so it is read into memory that nothing shows and that is overwritten, and no error repeats it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tokenauth.pin.reading import Buffer
from tokenauth.pin.wording import printable

if TYPE_CHECKING:
    from typing import Protocol

    class _Readable(Protocol):
        def readinto(self, buffer: memoryview, /) -> int | None:
            """Read into a buffer; how many bytes came, 0 at the end."""

    class _Writable(Protocol):
        def write(self, data: bytes, /) -> object:
            """Write all of the data."""


__all__ = ["Client", "Refusal", "Rubbish", "escape"]

_LONGEST_LINE = 1000  # bytes without the line end
_MOST_LINES = 1000  # of one answer: who sends more does not mean to come to an end
_MOST_DATA = 4096  # bytes: no PIN is longer
_HEX = b"0123456789abcdefABCDEF"
_MOST_SHOWN = 200  # characters of a message that is not ours


class Rubbish(Exception):
    """What came back is no Assuan."""


class Refusal(Exception):
    """The other side answered ``ERR``.

    Args:
        code: of libgpg-error, without its source; 0 if there is none.
        text: what it says of it.
    """

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        self.text = text
        super().__init__(code, text)


class Client:
    """A conversation.

    Args:
        reader: what the other side writes, unbuffered.
        writer: what it reads, unbuffered.
    """

    def __init__(self, reader: _Readable, writer: _Writable) -> None:
        self._reader = reader
        self._writer = writer

    def greet(self) -> None:
        """Read the greeting.

        Raises:
            Rubbish: it is none.
            Refusal: the other side does not want to talk.
            OSError: it can not be read.
        """
        with Buffer(_MOST_DATA) as data:
            self._answer(data)

    def ask(self, command: str) -> str:
        """Send a command.

        Args:
            command: one line; what is in it of others is escaped with :func:`escape`.

        Returns:
            The data that was answered; bytes that are not UTF-8 as lone surrogates.

        Raises:
            as :meth:`greet`.
        """
        self._writer.write(command.encode() + b"\n")
        with Buffer(_MOST_DATA) as data:
            size = self._answer(data)
            return str(memoryview(data)[:size], "utf-8", "surrogateescape")

    def _answer(self, data: Buffer) -> int:
        """Read lines up to the one that ends the answer; how many bytes of data were among them."""
        size = 0
        for _ in range(_MOST_LINES):
            with Buffer(_LONGEST_LINE + 2) as line:
                length = self._read_line(line)
                kind = _kind(line, length)
                if kind == b"OK":
                    return size
                if kind == b"ERR":
                    raise _refusal(line, length)
                if kind == b"D":
                    size = _unescape(memoryview(line)[2:length], data, size)
        raise Rubbish("its answer has no end")

    def _read_line(self, line: Buffer) -> int:
        """Read one line, byte by byte so that nothing of the next is in this buffer; its length without the end."""
        for size in range(len(line)):
            if not self._reader.readinto(memoryview(line)[size : size + 1]):
                raise EOFError
            if line[size] == ord("\n"):
                return size - 1 if size and line[size - 1] == ord("\r") else size
        raise Rubbish("it answered with a line that is too long")


def _kind(line: Buffer, length: int) -> bytes:
    """``OK``, ``ERR`` or ``D``; empty for a comment or a status, which say nothing that matters here."""
    for word in (b"OK", b"ERR", b"D", b"S"):
        if line.startswith(word, 0, length) and (length == len(word) or line[len(word)] == ord(" ")):
            return b"" if word == b"S" else word
    if line.startswith(b"#", 0, length):
        return b""
    raise Rubbish("its answer is not of the Assuan protocol")


def _refusal(line: Buffer, length: int) -> Refusal:
    text = str(memoryview(line)[:length], "utf-8", "replace")
    match = re.match(r"ERR ([0-9]{1,10})(?![0-9]) ?", text)
    code = int(match[1]) & 0xFFFF if match else 0  # gpg-error.h: GPG_ERR_CODE_MASK
    said = text[match.end() if match else len("ERR ") :]
    return Refusal(code, printable(said[:_MOST_SHOWN]))


def _unescape(escaped: memoryview, data: Buffer, size: int) -> int:
    """Append percent-escaped bytes to the first ``size`` bytes of data; how many there are then."""
    at = 0
    while at < len(escaped):
        if size == len(data):
            raise Rubbish(f"it gave more than {len(data)} bytes")
        if escaped[at] == ord("%"):
            digits = escaped[at + 1 : at + 3]
            if len(digits) < 2 or digits[0] not in _HEX or digits[1] not in _HEX:
                raise Rubbish("its answer is not of the Assuan protocol")
            data[size] = int(bytes(digits), 16)
            at += 3
        else:
            data[size] = escaped[at]
            at += 1
        size += 1
    return size


def escape(text: str, limit: int) -> str:
    """Text as an argument of a command.

    Args:
        text: of any characters; a line feed is a new line of a dialogue.
        limit: how many bytes at most; longer text loses its middle.
    """
    while True:
        escaped = re.sub(r"[\0-\x1f%\x7f]", lambda match: f"%{ord(match[0]):02X}", text)
        excess = len(escaped.encode("utf-8", "replace")) - limit
        if excess <= 0:
            return escaped.encode("utf-8", "replace").decode()
        kept = max(len(text) - max(excess // 4, 1) - 1, 2)
        text = f"{text[: kept // 2]}\u2026{text[len(text) - (kept - kept // 2) :]}"
