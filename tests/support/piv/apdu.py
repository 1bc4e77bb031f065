"""Command and response APDUs (ISO/IEC 7816-3 section 12.1.3), short and extended, and the chaining of both."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

__all__ = ["INSTRUCTIONS", "SW", "APDUError", "Chaining", "Command", "Refusal", "Response"]

SELECT = 0xA4
GET_RESPONSE = 0xC0
GET_DATA = 0xCB
PUT_DATA = 0xDB
VERIFY = 0x20
CHANGE_REFERENCE_DATA = 0x24
RESET_RETRY_COUNTER = 0x2C
GENERATE_KEY = 0x47
GENERAL_AUTHENTICATE = 0x87
GET_SERIAL = 0xF8
ATTEST = 0xF9
GET_VERSION = 0xFD

#: Names of the instructions that the card counts.
INSTRUCTIONS = {
    SELECT: "SELECT",
    GET_RESPONSE: "GET RESPONSE",
    GET_DATA: "GET DATA",
    PUT_DATA: "PUT DATA",
    VERIFY: "VERIFY",
    CHANGE_REFERENCE_DATA: "CHANGE REFERENCE DATA",
    RESET_RETRY_COUNTER: "RESET RETRY COUNTER",
    GENERATE_KEY: "GENERATE ASYMMETRIC KEY PAIR",
    GENERAL_AUTHENTICATE: "GENERAL AUTHENTICATE",
    GET_SERIAL: "GET SERIAL",
    ATTEST: "ATTEST",
    GET_VERSION: "GET VERSION",
}


class SW(IntEnum):
    """Status words (SP 800-73-4 part 1 section 5.6)."""

    OK = 0x9000
    MORE_DATA = 0x6100  # and how much
    TRIES_LEFT = 0x63C0  # and how many
    WRONG_LENGTH = 0x6700
    NO_SECURE_MESSAGING = 0x6882
    SECURITY_STATUS = 0x6982
    BLOCKED = 0x6983
    CONDITIONS = 0x6985
    WRONG_DATA = 0x6A80
    NOT_SUPPORTED = 0x6A81
    NOT_FOUND = 0x6A82
    WRONG_P1_P2 = 0x6A86
    NO_REFERENCE = 0x6A88
    NO_INSTRUCTION = 0x6D00
    NO_CLASS = 0x6E00
    INTERNAL = 0x6F00


class Refusal(Exception):
    """The card answers with a status word and no data."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{status:04X}")
        self.status = status


class APDUError(Refusal):
    """Bytes that are not a command APDU."""

    def __init__(self) -> None:
        super().__init__(SW.WRONG_LENGTH)


class Command(NamedTuple):
    """A command APDU.

    Args:
        le: how many bytes the caller takes at most, 1 to 65536; None: it did not say.
    """

    cla: int
    ins: int
    p1: int
    p2: int
    data: bytes = b""
    le: int | None = None

    @classmethod
    def parse(cls, raw: bytes) -> Command:
        """The command in `raw`.

        Raises:
            APDUError: it is none.
        """
        if len(raw) < 4:
            raise APDUError
        data, le = _body(raw[4:])
        return cls(raw[0], raw[1], raw[2], raw[3], data, le)

    @property
    def parameters(self) -> int:
        return self.p1 << 8 | self.p2

    @property
    def chained(self) -> bool:
        """Whether the rest of the command comes in the next one (ISO/IEC 7816-4 section 5.3.3)."""
        return bool(self.cla & 0x10)


def _body(body: bytes) -> tuple[bytes, int | None]:
    if not body:
        return b"", None
    if len(body) == 1:
        return b"", body[0] or 0x100
    if body[0]:
        return _with_data(body[1:], body[0], 1)
    if len(body) < 3:
        raise APDUError
    size = int.from_bytes(body[1:3], "big")
    if len(body) == 3:
        return b"", size or 0x10000
    return _with_data(body[3:], size, 2)


def _with_data(rest: bytes, size: int, le_size: int) -> tuple[bytes, int | None]:
    data, le = rest[:size], rest[size:]
    if size == 0 or len(data) < size or len(le) not in {0, le_size}:
        raise APDUError
    return data, (int.from_bytes(le, "big") or 0x100**le_size) if le else None


class Response(NamedTuple):
    """A response APDU."""

    data: bytes = b""
    status: int = SW.OK

    def __bytes__(self) -> bytes:
        return self.data + self.status.to_bytes(2, "big")


class Chaining:
    """Puts commands in parts together, and hands out answers in parts."""

    def __init__(self) -> None:
        self._command = b""
        self._header: tuple[int, ...] = ()
        self._answer = b""

    def collect(self, command: Command) -> Command | None:
        """The whole command, or None while parts of it are missing. One that differs ends an unfinished chain."""
        header = (command.ins, command.p1, command.p2)
        if header != self._header:
            self._command = b""
        self._header = header if command.chained else ()
        data = self._command + command.data
        self._command = data if command.chained else b""
        if command.chained:
            return None
        self._answer = b""
        return command._replace(data=data)

    def hand_out(self, answer: Response, le: int | None) -> Response:
        """As much of the answer as the caller takes; the rest waits for `more`."""
        size = le or 0x100
        self._answer = answer.data[size:]
        if not self._answer:
            return answer
        return Response(answer.data[:size], SW.MORE_DATA | min(len(self._answer), 0x100) & 0xFF)

    def more(self, le: int | None) -> Response:
        """The next part, for GET RESPONSE.

        Raises:
            Refusal: there is none.
        """
        if not self._answer:
            raise Refusal(SW.CONDITIONS)
        return self.hand_out(Response(self._answer), le)
