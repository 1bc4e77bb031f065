"""The ``ssl`` module's connections, with the token's errors in place of OpenSSL's.

``SSLContext.sslsocket_class`` and ``sslobject_class`` decide what a context's connections are made of; the second
serves asyncio and everything else that brings its own transport.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Any, NoReturn

from tokenauth.errors import HandshakeFailed, TokenAuthError
from tokenauth.tls import exchange

if TYPE_CHECKING:
    from tokenauth.inventory.identity import Identity

__all__ = ["TokenSSLObject", "TokenSSLSocket"]

#: The header of an encrypted alert in TLS 1.3: two bytes, their type and a tag of 16 bytes, in what all records are
#: from outside, "application data" of "TLS 1.2" (RFC 8446 section 5.2).
_ALERT = bytes([23, 3, 3, 0, 2 + 1 + 16])
#: What sending fails with when the peer has closed.
_BROKEN = (ssl.SSLEOFError, ConnectionResetError, BrokenPipeError, ConnectionAbortedError)
_TRY_AGAIN = (ssl.SSLWantReadError, ssl.SSLWantWriteError)


class _Explains:
    """Makes a failed call say why; for both kinds of connections.

    A server may ask for a certificate after the handshake (TLS 1.3), and in TLS 1.3 it refuses one only after the
    client's side of the handshake is over; so reading can fail for the same reasons as the handshake.
    """

    #: The identity that this connection authenticated with; None while it has not.
    identity: Identity | None = None

    @classmethod
    def _create(cls, *args: Any, **kwargs: Any) -> Any:
        """What ``SSLContext.wrap_socket`` and ``wrap_bio`` make a connection with: the last moment before it is made.

        The context can still be limited to what the token can sign; the connection takes that over.
        """
        context: Any = kwargs["context"]
        if not kwargs.get("server_side"):
            context._tokenauth.prepare()
        return super()._create(*args, **kwargs)  # type: ignore[misc]

    def do_handshake(self, *args: Any, **kwargs: Any) -> None:
        """As in ``ssl``.

        Raises:
            HandshakeFailed: the token or the peer refused; it is an :class:`ssl.SSLError`.
        """
        exchange.begin()
        try:
            super().do_handshake(*args, **kwargs)  # type: ignore[misc]
        except ssl.SSLError as error:
            self._explain(error)
        finally:
            self.identity = exchange.identity() or self.identity

    def read(self, *args: Any, **kwargs: Any) -> Any:
        """As in ``ssl``.

        Raises:
            HandshakeFailed: the token or the peer refused; it is an :class:`ssl.SSLError`.
        """
        exchange.begin()
        try:
            return super().read(*args, **kwargs)  # type: ignore[misc]
        except ssl.SSLError as error:
            self._explain(error)
        finally:
            self.identity = exchange.identity() or self.identity

    def _explain(self, error: ssl.SSLError) -> NoReturn:
        if isinstance(error, _TRY_AGAIN):
            raise error
        cause = exchange.take()
        if cause is None:
            self._explain_alert(error)
        context: Any = self.context  # type: ignore[attr-defined]
        context._tokenauth.forget()
        if not isinstance(cause, Exception):
            raise cause  # Ctrl-C at a PIN prompt
        if isinstance(cause, TokenAuthError):
            raise HandshakeFailed(cause.message, hint=cause.hint, token=cause.token, ckr=cause.ckr) from cause
        raise HandshakeFailed(f"the token's key could not be used: {type(cause).__name__}: {cause}") from cause

    def _explain_alert(self, error: ssl.SSLError) -> NoReturn:
        from tokenauth.tls.alerts import meaning_of  # only when something went wrong

        meaning = None if self.server_side else meaning_of(error.reason)  # type: ignore[attr-defined]
        if meaning is None:
            raise error
        used = exchange.identity() or self.identity
        message = f"{meaning.message} ({error.reason})"
        if used is not None:
            message += f"; it was {used.certificate.subject.rfc4514_string()}"
        raise HandshakeFailed(message, hint=meaning.hint, token=used.token.label if used else "") from error


class TokenSSLSocket(_Explains, ssl.SSLSocket):
    """A socket of a context that authenticates with a token."""

    def send(self, data: Any, flags: int = 0) -> int:
        """As in ``ssl``; :meth:`sendall` comes here, too.

        In TLS 1.3 a server may refuse the certificate, and close, while the client is sending already. Then sending
        fails for no reason; the alert with the reason has arrived before.

        Raises:
            HandshakeFailed: the peer refused; it is an :class:`ssl.SSLError`.
        """
        try:
            return super().send(data, flags)
        except _BROKEN:
            if self._alert_waits():
                with contextlib.suppress(*_BROKEN):
                    self.read(1)
            raise

    def _alert_waits(self) -> bool:
        """Whether the next record that the peer sent can only be an alert, so that reading it loses no data."""
        with contextlib.suppress(OSError):
            return socket.socket.recv(self, len(_ALERT), socket.MSG_PEEK) == _ALERT
        return False


class TokenSSLObject(_Explains, ssl.SSLObject):
    """A connection in memory of a context that authenticates with a token."""
