"""The ``ssl`` module's connections, with the token's errors in place of OpenSSL's.

``SSLContext.sslsocket_class`` and ``sslobject_class`` decide what a context's connections are made of; the second
serves asyncio and everything else that brings its own transport.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, NoReturn

from tokenauth.errors import HandshakeFailed, TokenAuthError
from tokenauth.tls import exchange

if TYPE_CHECKING:
    from tokenauth.inventory.identity import Identity
    from tokenauth.tls.offers import Offer

__all__ = ["TokenSSLObject", "TokenSSLSocket"]

_TRY_AGAIN = (ssl.SSLWantReadError, ssl.SSLWantWriteError)


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
            message += f"; it was {used.certificate.subject.rfc4514_string()}"
        raise HandshakeFailed(message, hint=meaning.hint, token=used.token.label if used else "") from error


class TokenSSLSocket(_Explains, ssl.SSLSocket):
    """A socket of a context that authenticates with a token."""


class TokenSSLObject(_Explains, ssl.SSLObject):
    """A connection in memory of a context that authenticates with a token."""
