"""PC/SC, through pyscard's plain functions; the only place that knows pyscard.

pyscard's own classes are not used: closing one of its connections powers the card down, which logs every program out,
and its monitor goes silent when pcscd was restarted. What is here never resets a card and never takes it for itself.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from tokenauth._records import Record
from tokenauth.cards import service
from tokenauth.errors import ReadersUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

__all__ = ["SHARING_VIOLATION", "TIMEOUT", "Connection", "Context", "PCSCError", "State"]

# Numbers of winscard.h, the same on all systems.
SHARING_VIOLATION, TIMEOUT = 0x8010000B, 0x8010000A
_CANCELLED, _NO_READERS, _UNKNOWN_READER = 0x80100002, 0x8010002E, 0x80100009
_READER_UNAVAILABLE, _SECURITY_VIOLATION = 0x80100017, 0x8010006A
#: What is answered when the service was stopped, or was restarted since: the context is of no more use. Besides
#: SCARD_E_NO_SERVICE, SCARD_E_SERVICE_STOPPED and SCARD_E_INVALID_HANDLE these are SCARD_F_COMM_ERROR, which
#: libpcsclite gives to the call that was waiting, and SCARD_E_SYSTEM_CANCELLED of Windows.
_LOST = frozenset({0x8010001D, 0x8010001E, 0x80100003, 0x80100013, 0x80100012})
_CHANGED, _PRESENT, _EXCLUSIVE, _INUSE, _MUTE = 0x2, 0x20, 0x80, 0x100, 0x200  # SCARD_STATE_...
_COUNTER = 16  # bits below the number of insertions and removals
_ATTEMPTS = 5
_HEADER = 4  # bytes of a command APDU: CLA, INS, P1, P2
#: The name under which the coming and going of readers is told; Windows wants to be told how many are known.
_NEW_READERS = "\\\\?PnP?\\Notification"


class PCSCError(Exception):
    """A call of PC/SC failed.

    Args:
        code: as in winscard.h, unsigned.
    """

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"PC/SC answers {code:#010x}")

    @property
    def lost(self) -> bool:
        """The service is gone, or another one since the context was made."""
        return self.code in _LOST

    @property
    def reason(self) -> ReadersUnavailable:
        """Why the readers can not be looked at, in words for people."""
        return service.refusal() if self.lost else service.failure(self.code)


class State(Record):
    """What PC/SC tells of a reader without touching the card.

    Args:
        reader: its name.
        flags: SCARD_STATE_..., and above them how often a card came or went.
        atr: the card's answer to reset; empty if there is no card, or it does not answer.
    """

    reader: str
    flags: int
    atr: bytes

    @property
    def present(self) -> bool:
        """A card is in it."""
        return bool(self.flags & _PRESENT)

    @property
    def exclusive(self) -> bool:
        """A program keeps the card for itself."""
        return bool(self.flags & _EXCLUSIVE)

    @property
    def in_use(self) -> bool:
        """Some program is connected to the card."""
        return bool(self.flags & _INUSE)

    @property
    def mute(self) -> bool:
        """The card does not answer."""
        return bool(self.flags & _MUTE)

    @property
    def changes(self) -> int:
        """How often a card came or went; always 0 where the system does not count."""
        return self.flags >> _COUNTER


class Context:
    """A connection to the service; to be closed.

    Attributes:
        tells_new_readers: :meth:`wait` also returns when a reader comes.

    Raises:
        ReadersUnavailable: there is no service, or it refuses, or pyscard is missing.
    """

    tells_new_readers = sys.platform != "darwin"

    def __init__(self) -> None:
        self._scard = _load()
        code, self._handle = self._scard.SCardEstablishContext(self._scard.SCARD_SCOPE_USER)
        if code := _unsigned(code):
            raise service.refusal(permission=code == _SECURITY_VIOLATION)

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the context back."""
        self._scard.SCardReleaseContext(self._handle)

    def cancel(self) -> None:
        """Let a :meth:`wait` on another thread return now."""
        self._scard.SCardCancel(self._handle)

    def readers(self) -> list[str]:
        """The names of the readers; none if there is none.

        Raises:
            PCSCError: it failed.
        """
        code, names = self._scard.SCardListReaders(self._handle, [])
        if _unsigned(code) in {_NO_READERS, _READER_UNAVAILABLE}:
            return []
        _check(code)
        return list(dict.fromkeys(names))

    def look(self) -> list[State]:
        """How the readers are now.

        Raises:
            PCSCError: it failed.
        """
        for _ in range(_ATTEMPTS):
            names = self.readers()
            try:
                return self._status(dict.fromkeys(names, 0), 0) if names else []
            except PCSCError as error:
                if error.code != _UNKNOWN_READER:
                    raise
        raise PCSCError(_UNKNOWN_READER)  # one after the other was unplugged between the two questions

    def wait(self, known: Mapping[str, int], seconds: float) -> bool:
        """Wait until a reader is not as it was known to be, or comes, or goes; without looking again and again.

        Args:
            known: reader: the flags that it had.
            seconds: the longest time to wait.

        Returns:
            Whether something may have changed; False if the time ran out.

        Raises:
            PCSCError: it failed.
        """
        flags = dict(known)
        if not flags and not self.tells_new_readers:
            time.sleep(seconds)
            return True
        if self.tells_new_readers:
            flags[_NEW_READERS] = len(known) << _COUNTER if sys.platform == "win32" else 0
        try:
            self._status(flags, int(seconds * 1000))
        except PCSCError as error:
            if error.code == TIMEOUT:
                return False
            if error.code not in {_CANCELLED, _UNKNOWN_READER}:
                raise
        return True

    def _status(self, flags: dict[str, int], milliseconds: int) -> list[State]:
        code, states = self._scard.SCardGetStatusChange(self._handle, milliseconds, list(flags.items()))
        _check(code)
        return [State(name, flag & ~_CHANGED, bytes(atr)) for name, flag, atr in states]

    def connect(self, reader: str) -> Connection:
        """Connect to the card, beside other programs, and have it for oneself until the connection is closed.

        This waits while another program is in a transaction with the card.

        Raises:
            PCSCError: it failed; :data:`SHARING_VIOLATION` if another program keeps the card for itself.
        """
        return Connection(self._scard, self._handle, reader)


class Connection:
    """A transaction with a card, made by :meth:`Context.connect`. The card is left as it is."""

    def __init__(self, scard: Any, context: Any, reader: str) -> None:
        self._scard = scard
        protocols = scard.SCARD_PROTOCOL_T0 | scard.SCARD_PROTOCOL_T1
        code, self._card, protocol = scard.SCardConnect(context, reader, scard.SCARD_SHARE_SHARED, protocols)
        _check(code)
        self._header = scard.SCARD_PCI_T0 if protocol == scard.SCARD_PROTOCOL_T0 else scard.SCARD_PCI_T1
        try:
            _check(scard.SCardBeginTransaction(self._card))
        except PCSCError:
            scard.SCardDisconnect(self._card, scard.SCARD_LEAVE_CARD)
            raise

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._scard.SCardEndTransaction(self._card, self._scard.SCARD_LEAVE_CARD)
        self._scard.SCardDisconnect(self._card, self._scard.SCARD_LEAVE_CARD)

    def transmit(self, command: bytes) -> int:
        """Send a command.

        Args:
            command: the command APDU (ISO 7816-4).

        Returns:
            The status word, such as 0x9000.

        Raises:
            PCSCError: it failed.
        """
        if self._header == self._scard.SCARD_PCI_T0 and len(command) == _HEADER:
            command += b"\0"  # T=0 has no command without P3 (ISO 7816-3 section 12.2.1)
        code, response = self._scard.SCardTransmit(self._card, self._header, list(command))
        _check(code)
        return int.from_bytes(bytes(response[-2:]), "big")


def _unsigned(code: int) -> int:
    """A return value as winscard.h writes it; some systems give it with a sign."""
    return int(code) & 0xFFFFFFFF


def _check(code: int) -> None:
    if code := _unsigned(code):
        raise PCSCError(code)


def _load() -> Any:
    """pyscard's functions.

    Raises:
        ReadersUnavailable: it is missing, or the library that it needs is.
    """
    try:
        from smartcard import scard
    except ImportError as error:
        raise ReadersUnavailable(
            "the readers can not be looked at: " + _missing(error), reason="pyscard", hint=service.INSTALL_PYSCARD
        ) from error
    return scard


def _missing(error: ImportError) -> str:
    return "pyscard is not installed" if error.name == "smartcard" else f"pyscard can not be used ({error})"
