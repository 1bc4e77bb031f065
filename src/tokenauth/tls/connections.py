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
from tokenauth.pkcs11.gate import Gate
from tokenauth.tls import exchange
from tokenauth.tls.openssl.session import TLSSession, id_of_session
from tokenauth.tls.sessions import Kept, server_at

if TYPE_CHECKING:
    from tokenauth.inventory.identity import Identity
    from tokenauth.tls.offers import Offer
    from tokenauth.tls.sessions import Server, SessionStore

__all__ = ["TokenSSLObject", "TokenSSLSocket"]

#: The header of an encrypted alert in TLS 1.3: two bytes, their type and a tag of 16 bytes, in what all records are
#: from outside, "application data" of "TLS 1.2" (RFC 8446 section 5.2).
_ALERT = bytes([23, 3, 3, 0, 2 + 1 + 16])
#: What sending fails with when the peer has closed.
_BROKEN = (ssl.SSLEOFError, ConnectionResetError, BrokenPipeError, ConnectionAbortedError)
_TRY_AGAIN = (ssl.SSLWantReadError, ssl.SSLWantWriteError)


#: Held during handshakes. OpenSSL's locks, like a module's, are inherited by the child of a fork as another thread
#: holds them, and it holds some while it calls our provider, which waits for the interpreter's lock that who forks
#: has. A handshake may wait for the other end for long, so a fork does not wait for it as it does for a module.
_handshakes = Gate(shared=True, revive=lambda: None, patience=0.25)


class _Explains:
    """Makes a failed call say why; for both kinds of connections.

    A server may ask for a certificate after the handshake (TLS 1.3), and in TLS 1.3 it refuses one only after the
    client's side of the handshake is over; so reading can fail for the same reasons as the handshake.
    """

    #: Kept: its key has to sign although the context may have forgotten it meanwhile, because of another connection.
    _offer: Offer | None = None

    @property
    def identity(self) -> Identity | None:
        """The identity that this connection authenticated with; None while it has not."""
        return self._offer.identity if self._offer else None

    @classmethod
    def _create(cls, *args: Any, **kwargs: Any) -> Any:
        """What ``SSLContext.wrap_socket`` and ``wrap_bio`` make a connection with: the last moment before it is made.

        The context can still be limited to what the token can sign; the connection takes that over.
        """
        context: Any = kwargs["context"]
        if not kwargs.get("server_side"):
            context._tokenauth.prepare()
        with _handshakes:
            return super()._create(*args, **kwargs)  # type: ignore[misc]

    def do_handshake(self, *args: Any, **kwargs: Any) -> None:
        """As in ``ssl``.

        Raises:
            HandshakeFailed: the token or the peer refused; it is an :class:`ssl.SSLError`.
        """
        exchange.begin()
        try:
            with _handshakes:
                super().do_handshake(*args, **kwargs)  # type: ignore[misc]
        except ssl.SSLError as error:
            self._explain(error)
        finally:
            self._offer = exchange.end() or self._offer

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
            self._offer = exchange.end() or self._offer

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
        offer = exchange.offer() or self._offer
        used = offer.identity if offer else None
        message = f"{meaning.message} ({error.reason})"
        if used is not None:
            message += f"; it was {used.text_of('subject')}"
        raise HandshakeFailed(message, hint=meaning.hint, token=used.token.label if used else "") from error


class TokenSSLSocket(_Explains, ssl.SSLSocket):
    """A socket of a context that authenticates with a token, and that keeps its TLS session for the next one."""

    _begun = False
    _server: Server | None = None  # for whom the session is to be kept; None if not, or not any more
    _offered: Kept | None = None
    _looks_left = 3  # at what the server gives, after reading

    def do_handshake(self, *args: Any, **kwargs: Any) -> None:
        """As in ``ssl``.

        Raises:
            HandshakeFailed: the token or the peer refused; it is an :class:`ssl.SSLError`.
        """
        if not self._begun:
            self._begun = True
            self._offer_session()
        super().do_handshake(*args, **kwargs)
        self._know_session()

    def read(self, *args: Any, **kwargs: Any) -> Any:
        """As in ``ssl``.

        Raises:
            HandshakeFailed: the token or the peer refused; it is an :class:`ssl.SSLError`.
        """
        found = super().read(*args, **kwargs)
        if self._server is not None:
            self._looks_left -= 1
            self._keep_session(self._server)
        return found

    def _offer_session(self) -> None:
        """Before the handshake: offer a session that was kept, unless the caller offers one of his own."""
        context: Any = self.context
        store: SessionStore | None = context._tokenauth.sessions
        connection = self._sslobj  # type: ignore[attr-defined]
        if store is None or connection is None or self.server_side or self.session is not None:
            return
        self._server = server_at(self, self.server_hostname, context)
        self._offered = store.take(self._server) if self._server else None
        if self._offered is not None:
            self._offered.session.offer(connection)

    def _know_session(self) -> None:
        """After the handshake: which identity a resumed session stands for; in TLS 1.2 the session is there now."""
        if self._server is None:
            return
        if self._offered is not None and self.session_reused:
            self._offer = self._offered.offer
        if self.version() != "TLSv1.3":
            self._keep_session(self._server)

    def _keep_session(self, server: Server) -> None:
        """Keep the session if the server has given one; in TLS 1.3 it comes with the first data."""
        connection, offer = self._sslobj, self._offer  # type: ignore[attr-defined]
        if connection is not None and offer is not None and (number := id_of_session(connection)):
            # In TLS 1.3 the id is the ticket's: until a new one comes, it is that of the session that was used up.
            used_up = self._offered.session.id if self._offered and self.version() == "TLSv1.3" else b""
            if number != used_up:
                context: Any = self.context
                kept = Kept(TLSSession(connection), offer, offer.key.token.generation)
                context._tokenauth.sessions.keep(server, kept)
                self._looks_left = 0
        if self._looks_left <= 0:
            self._server = None

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
