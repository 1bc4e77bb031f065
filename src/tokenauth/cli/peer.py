"""What went wrong with the other side of a connection, in words."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, Any, NamedTuple

from tokenauth.cli.failures import PeerFailed, related
from tokenauth.errors import TokenAuthError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["explain"]


class _Words(NamedTuple):
    message: str
    hint: str = ""


#: Of X509_verify_cert: the certificate is not valid yet, has expired, is for another host name, for another address.
_NOT_YET_VALID, _EXPIRED, _OTHER_NAME, _OTHER_ADDRESS = 9, 10, 62, 64
_VERIFY_HINTS = {
    _NOT_YET_VALID: "check this machine's clock",
    _EXPIRED: "its operator must renew the certificate; check this machine's clock, too",
    _OTHER_NAME: "check the name in the URL",
    _OTHER_ADDRESS: "use the server's name in the URL, not its address",
}
_NO_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"}


def _untrusted(error: Any, peer: str) -> _Words:
    hint = _VERIFY_HINTS.get(error.verify_code, "name the file with the CA that issued it with --cacert")
    return _Words(f"the certificate of {peer} is not trusted: {error.verify_message}", hint)


def _tls(error: Any, peer: str) -> _Words:
    if error.reason in _NO_TLS:
        return _Words(f"{peer} does not speak TLS", "check the port in the URL")
    return _Words(f"TLS with {peer} failed: {error.reason or error.strerror or error}")


def _closed(_error: Any, peer: str) -> _Words:
    return _Words(f"{peer} closed the connection before it had answered")


_MEANINGS: tuple[tuple[type[Exception], Callable[[Any, str], _Words]], ...] = (
    (ssl.SSLCertVerificationError, _untrusted),
    (ssl.SSLEOFError, _closed),
    (ssl.SSLZeroReturnError, _closed),
    (ssl.SSLError, _tls),
    (socket.gaierror, lambda _error, peer: _Words(f"{peer} has no address", "check the name and the network")),
    (
        ConnectionRefusedError,
        lambda _error, peer: _Words(f"{peer} accepts no connections", "check that the server runs, and the port"),
    ),
    (TimeoutError, lambda _error, peer: _Words(f"{peer} did not answer in time", "give it more with --timeout")),
    (ConnectionResetError, _closed),
)


def explain(error: Exception, host: str) -> PeerFailed | None:
    """The error that tells a user why a request failed.

    Args:
        error: what requests raised.
        host: the host and port of the request.

    Returns:
        None if one of our own errors is the cause, which says more.
    """
    causes = list(related(error))
    if any(isinstance(cause, TokenAuthError) for cause in causes):
        return None
    through_proxy = any(type(cause).__name__ == "ProxyError" for cause in causes)
    peer = f"the proxy for {host}" if through_proxy else host
    for kind, words in _MEANINGS:
        for cause in causes:
            if isinstance(cause, kind):
                found = words(cause, peer)
                return PeerFailed(found.message, hint=found.hint)
    reasons = (cause.strerror for cause in causes if isinstance(cause, OSError) and cause.errno and cause.strerror)
    return PeerFailed(f"the connection to {peer} failed: {next(reasons, None) or causes[-1]}")
