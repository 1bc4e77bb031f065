"""TLS sessions kept for the next connection, which then needs no signature of the token.

A session is kept for one server (its name, address and port), as it was verified, and for the identity that it was
made with. It is offered once (RFC 8446 appendix C.4), and only while the token that signed for it is there and
logged in to: whoever takes the card out, or lets the PIN be forgotten, ends what it was used for.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING

from tokenauth._records import Record
from tokenauth.pkcs11.gate import renew_after_fork

if TYPE_CHECKING:
    from tokenauth.tls.offers import Offer
    from tokenauth.tls.openssl.session import TLSSession

__all__ = ["Kept", "Server", "SessionStore", "server_at"]

_MOST_SERVERS = 256
_MOST_PER_SERVER = 16
#: Offset of tcpi_bytes_received, 64 bits, in Linux's struct tcp_info (linux/tcp.h).
_BYTES_RECEIVED, _TCP_INFO_SIZE = 128, 136


class Server(Record):
    """Whom a session is for, and how that was verified.

    Args:
        name: the name that it was verified for, and that was sent to it.
        address: address and port of the other end of the connection.
        verify_mode: of the context.
        check_hostname: of the context.
    """

    name: str
    address: tuple[str, int]
    verify_mode: ssl.VerifyMode
    check_hostname: bool


class Kept(Record):
    """A session that may be offered.

    Args:
        session: to be offered.
        offer: what the connection authenticated with.
        generation: of its token at that time.
    """

    session: TLSSession
    offer: Offer
    generation: int

    @property
    def good(self) -> bool:
        """Whether the token has been there, and logged in to, ever since."""
        token = self.offer.key.token
        return token.generation == self.generation and token.is_as_it_was()


class SessionStore:
    """The sessions of one context, for all its threads; each is given out once."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Server, list[Kept]] = OrderedDict()
        self._lock = threading.Lock()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """In the child of a fork: the parent offers what was kept before."""
        self._lock = threading.Lock()
        self._kept.clear()

    def keep(self, server: Server, kept: Kept) -> None:
        """Keep a session; the oldest go if there are too many."""
        with self._lock:
            sessions = self._kept.setdefault(server, [])
            sessions.append(kept)
            del sessions[:-_MOST_PER_SERVER]
            self._kept.move_to_end(server)
            if len(self._kept) > _MOST_SERVERS:
                self._kept.popitem(last=False)

    def take(self, server: Server) -> Kept | None:
        """The newest session for a server, which is not kept any longer; those that are no good are dropped."""
        while True:
            with self._lock:
                sessions = self._kept.get(server)
                if not sessions:
                    self._kept.pop(server, None)
                    return None
                newest = sessions.pop()
            if newest.good:
                return newest

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._kept.clear()


def server_at(plain: socket.socket, name: str | None, context: ssl.SSLContext) -> Server | None:
    """The server that a connection leads to; None if that can not be known for sure.

    Behind a proxy one address leads to many ports, and the only sign of a proxy is that the other end has spoken
    before TLS began. Linux tells that.

    Args:
        plain: the connected socket, before TLS.
        name: the server's name.
        context: as it verifies now.
    """
    with suppress(OSError):
        address = plain.getpeername()
        if name and isinstance(address, tuple) and not _has_spoken(plain):
            return Server(name, address[:2], context.verify_mode, context.check_hostname)
    return None


def _has_spoken(plain: socket.socket) -> bool:
    if not hasattr(socket, "TCP_INFO"):
        return False
    info = plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
    return len(info) < _TCP_INFO_SIZE or struct.unpack_from("=Q", info, _BYTES_RECEIVED) != (0,)
