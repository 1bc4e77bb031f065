"""What a server asks for on a connection while its handshake is under way, and how to answer."""

from __future__ import annotations

import ctypes
import itertools
import ssl
import weakref
from ctypes import CFUNCTYPE, byref, c_int, c_void_p
from typing import TYPE_CHECKING, Any

from tokenauth.errors import UnsupportedOpenSSL
from tokenauth.tls import exchange
from tokenauth.tls.openssl.dispatch import address_of
from tokenauth.tls.openssl.library import openssl
from tokenauth.tls.openssl.x509 import name_der

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tokenauth.tls.openssl.provider import TokenPKey
    from tokenauth.tls.openssl.x509 import Certificate, Stack

__all__ = [
    "Responder",
    "authorities",
    "host",
    "limit_own_schemes",
    "respond_with",
    "schemes",
    "use",
    "use_in_context",
    "version",
]

_HOST_NAME = 0  # TLSEXT_NAMETYPE_host_name
_SET_SIGALGS_LIST, _SET_CLIENT_SIGALGS_LIST = 98, 102  # SSL_CTRL_..., openssl/ssl.h


class Responder:
    """Answers the requests for a certificate that come in on a context's connections."""

    def respond(self, connection: int) -> None:
        """Put a certificate and a key on the connection with :func:`use`, or nothing.

        Args:
            connection: the ``SSL``.

        Raises:
            Exception: anything; it ends the handshake and waits in :mod:`tokenauth.tls.exchange`.
        """
        raise NotImplementedError


#: The number that OpenSSL hands to the callback -> who answers. They live as long as their contexts.
_responders: weakref.WeakValueDictionary[int, Responder] = weakref.WeakValueDictionary()
_numbers = itertools.count(1)


def _certificate_wanted(connection: int, number: int) -> int:
    try:
        responder = _responders.get(number)
        if responder is not None:
            responder.respond(connection)
    except BaseException as error:  # noqa: BLE001 - nothing may unwind into C; the connection raises it again
        exchange.keep(error)
        return 0
    return 1


_callback = address_of(CFUNCTYPE(c_int, c_void_p, c_void_p)(_certificate_wanted))


def respond_with(context: ssl.SSLContext, responder: Responder) -> None:
    """Let a responder answer all requests for a certificate on a client's context.

    OpenSSL asks it after the server's own certificate was verified, and only if the server wants one, also after
    the handshake (``SSL_CTX_set_cert_cb``).

    Args:
        context: the context.
        responder: kept by the caller as long as the context lives.
    """
    number = next(_numbers)
    _responders[number] = responder
    openssl().SSL_CTX_set_cert_cb(openssl().pointer(context), _callback, number)


def use(connection: int, certificate: Certificate, key: TokenPKey, chain: Stack) -> None:
    """Put certificate, key and chain on a connection.

    Raises:
        UnsupportedOpenSSL: OpenSSL does not take them.
    """
    _put(openssl().SSL_use_cert_and_key, connection, certificate, key, chain)


def use_in_context(context: ssl.SSLContext, certificate: Certificate, key: TokenPKey, chain: Stack) -> None:
    """Put certificate, key and chain on a context, for all its connections.

    Raises:
        UnsupportedOpenSSL: OpenSSL does not take them.
    """
    _put(openssl().SSL_CTX_use_cert_and_key, openssl().pointer(context), certificate, key, chain)


def limit_own_schemes(context: ssl.SSLContext, own: Iterable[str], peers: Iterable[str]) -> None:
    """Say which signatures the key of this side makes; what the other side may sign with stays as wide as it is.

    A client's list is that of "client" signatures alone. A server's general list is about both sides, so that the one
    for the clients has to be widened again (SSL_CTX_set1_sigalgs, SSL_CTX_set1_client_sigalgs).

    Args:
        context: the context.
        own: names of TLS signature schemes, as OpenSSL spells them.
        peers: those that a server accepts from clients.
    """
    lib, address = openssl(), openssl().pointer(context)
    server = context.protocol == ssl.PROTOCOL_TLS_SERVER
    lists = {_SET_SIGALGS_LIST: own, _SET_CLIENT_SIGALGS_LIST: peers} if server else {_SET_CLIENT_SIGALGS_LIST: own}
    for command, names in lists.items():
        if not lib.SSL_CTX_ctrl(address, command, 0, ":".join(names).encode()):
            raise UnsupportedOpenSSL(f"OpenSSL does not take a list of signature algorithms: {lib.errors()}")


def _put(function: Any, target: int, certificate: Certificate, key: TokenPKey, chain: Stack) -> None:
    if not function(target, certificate.address, key.address, chain.address, 1):
        raise UnsupportedOpenSSL(
            f"OpenSSL does not take the token's certificate and key: {openssl().errors()}",
            hint="if its key is short or its hash old, lower the context's level: set_ciphers('DEFAULT@SECLEVEL=1')",
        )


def version(connection: int) -> int:
    """The TLS version on the wire, such as 0x0304."""
    number: int = openssl().SSL_version(connection)
    return number


def host(connection: int) -> str:
    """The name that the client sent (SNI); empty if it sent none."""
    name: bytes | None = openssl().SSL_get_servername(connection, _HOST_NAME)
    return (name or b"").decode("ascii", "replace")


def authorities(connection: int) -> tuple[bytes, ...]:
    """The names, DER, of the CAs that the server accepts; empty if it named none."""
    lib = openssl()
    names = lib.SSL_get0_peer_CA_list(connection)
    count = lib.OPENSSL_sk_num(names) if names else 0
    return tuple([name_der(lib.OPENSSL_sk_value(names, index)) for index in range(count)])


def schemes(connection: int) -> frozenset[int]:
    """The TLS signature schemes (RFC 8446 section 4.2.3) that the server takes."""
    lib = openssl()
    count = lib.SSL_get_sigalgs(connection, -1, None, None, None, None, None)
    signature, digest = ctypes.c_ubyte(), ctypes.c_ubyte()
    schemes = set()
    for index in range(count):
        lib.SSL_get_sigalgs(connection, index, None, None, None, byref(signature), byref(digest))
        schemes.add(digest.value << 8 | signature.value)
    return frozenset(schemes)
