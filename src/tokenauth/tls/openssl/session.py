"""TLS sessions, copied from one connection and offered on another.

Python's own ``SSLSocket.session`` writes the session down as DER and reads it in again, certificates and all, when it
is read and once more when it is set: together a third of what a resumed connection takes. OpenSSL's own copy takes a
hundredth of that.

A ``connection`` here is the ``_ssl._SSLSocket`` inside a socket. Whoever calls holds it, so that OpenSSL's ``SSL``
lives on while another thread closes the socket.
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_uint, c_void_p, sizeof
from typing import Any

from tokenauth.tls.openssl.library import openssl

__all__ = ["TLSSession", "id_of_session"]

_WORD = sizeof(c_void_p)


class TLSSession:
    """A copy of the session that a connection has now.

    A copy, because OpenSSL takes the connection's own for spoilt once that ends without a closing alert, which is how
    Python's connections end.

    Args:
        connection: :func:`id_of_session` has said that there is one.

    Attributes:
        id: see there.
    """

    def __init__(self, connection: Any) -> None:
        lib = openssl()
        self._free = lib.SSL_SESSION_free  # found now: the interpreter may be ending when it is called
        self._address = lib.SSL_SESSION_dup(lib.SSL_get_session(_address_of(connection)))
        self.id = id_of_session(connection)

    def __del__(self) -> None:
        self._free(self._address)

    def offer(self, connection: Any) -> None:
        """Offer it to the server at the other end, before the handshake."""
        address = _address_of(connection)
        if address and self._address and not openssl().SSL_set_session(address, self._address):
            openssl().ERR_clear_error()  # the handshake will do without


def id_of_session(connection: Any) -> bytes:
    """The id of the session that a connection has now; in TLS 1.3 that of its ticket. Empty if it can not be kept."""
    lib, address = openssl(), _address_of(connection)
    session = lib.SSL_get_session(address) if address else None
    if not session:
        return b""
    size = c_uint()
    start = lib.SSL_SESSION_get_id(session, byref(size))
    return ctypes.string_at(start, size.value)


def _address_of(connection: Any) -> int | None:
    """The ``SSL``; None on a Python whose objects are laid out in another way.

    Behind the header of CPython's object are ``PyObject *Socket; SSL *ssl; PySSLContext *ctx; ...`` (Modules/_ssl.c);
    which context it is can be asked.
    """
    behind_header = id(connection) + object.__basicsize__
    context = c_void_p.from_address(behind_header + 2 * _WORD).value
    return c_void_p.from_address(behind_header + _WORD).value if context == id(connection.context) else None
