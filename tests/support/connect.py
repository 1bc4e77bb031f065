"""TLS handshakes with a server on loopback."""

from __future__ import annotations

import socket
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.support import read_to_end

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["connected", "fetch", "handshake"]

_TIMEOUT = 10.0  # seconds


@contextmanager
def connected(context: ssl.SSLContext, port: int, name: str = "localhost") -> Iterator[Any]:
    """A connection after its handshake: an ``ssl.SSLSocket``, or what the context makes of one."""
    with (
        socket.create_connection(("127.0.0.1", port), _TIMEOUT) as plain,
        context.wrap_socket(plain, server_hostname=name) as tls,
    ):
        yield tls


def handshake(context: ssl.SSLContext, port: int, name: str = "localhost") -> None:
    """A handshake and nothing else."""
    with connected(context, port, name):
        pass


def fetch(context: ssl.SSLContext, port: int, name: str = "localhost") -> bytes:
    """The body that an HTTP server answers; in TLS 1.3 only an answer shows that it took the certificate."""
    with connected(context, port, name) as tls:
        tls.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        answer: bytes = read_to_end(tls).partition(b"\r\n\r\n")[2]
        return answer
