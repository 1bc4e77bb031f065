"""SSL contexts that authenticate with a key in a token."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from tokenauth.errors import AmbiguousIdentity, IdentityNotFound
from tokenauth.inventory.identity import Identity
from tokenauth.inventory.search import as_uri
from tokenauth.pin import as_source
from tokenauth.pkcs11.discovery import discover
from tokenauth.pkcs11.expiry import require_seconds
from tokenauth.tls.connections import TokenSSLObject, TokenSSLSocket
from tokenauth.tls.openssl import handshake
from tokenauth.tls.selection import CertificateRequest, Selector, Wanted

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenauth.pin import PinSource
    from tokenauth.tls.offers import Offer
    from tokenauth.tls.removal import Removal
    from tokenauth.uri import TokenInfo, TokenURI

__all__ = ["configure", "create_context", "removal_of", "wanted"]


def create_context(
    uri: str | TokenURI | Identity = "pkcs11:",
    *,
    pin: str | PinSource | None = None,
    module: str | None = None,
    cafile: str | None = None,
    capath: str | None = None,
    cadata: str | bytes | None = None,
    server_side: bool = False,
    choose: Callable[[list[Identity], CertificateRequest], Identity | None] | None = None,
    allow_final_try: bool = False,
    forget_after: float | None = None,
    isolate: bool | None = None,
    reuse_sessions: bool = True,
    wait: float | bool = False,
    on_remove: Callable[[TokenInfo], object] | Removal | None = None,
) -> ssl.SSLContext:
    """Make an :class:`ssl.SSLContext` that authenticates with a key in a token.

    A client's context verifies the server and its name exactly as :func:`ssl.create_default_context` does. It looks
    at tokens before its first connection, and logs in and signs only when a server asks for a certificate. With a
    token that can not sign what TLS 1.3 wants it speaks TLS 1.2 at most.

    Args:
        uri: a ``pkcs11:`` URI (RFC 7512) that selects the identities to choose from; a bare word is a token's
            label; an :class:`~tokenauth.Identity` is used whatever the server asks for.
        pin: the PIN, or where to get it: see :mod:`tokenauth.pin`. None: what the URI's ``pin-source`` or
            ``pin-value`` says, and nothing is asked.
        module: path of the only PKCS#11 module to look at.
        cafile: file of CA certificates (PEM) to trust instead of the system's.
        capath: directory of CA certificates to trust instead of the system's.
        cadata: CA certificates (PEM text or DER bytes) to trust instead of the system's.
        server_side: make a server's context. Its identity is chosen, and its key logged in to, here and now.
        choose: called with the identities that all suit a server, and with its request, when there are several;
            returns one of them, or None to send no certificate. Without it several are an error.
        allow_final_try: the token's last PIN try may be spent; without it that is refused.
        forget_after: seconds after its last use at which a login ends, so that the next use asks for the PIN again;
            None for never. The login is the process's: the shortest time that any user of it gave counts.
        isolate: run the PKCS#11 module in a child process, so that a module that crashes or hangs costs an error and
            not the program; needs p11-kit. None: what ``TOKENAUTH_ISOLATE`` says.
        reuse_sessions: keep TLS sessions, so that the next connection to the same server, by the same name, address
            and port, costs no signature. For connections over sockets of clients that read from them; each session is
            used once, and only while the token is there and logged in to. The context's method ``forget()`` ends what
            was kept.
        wait: before a connection, wait at most so many seconds for a token to be inserted if there is none, or True:
            for ever; the person at the machine is told so by a warning in the log ``tokenauth``.
        on_remove: called with the token (``label``, ``serial``, ``manufacturer``, ``model``) when the card leaves that
            this context has used, on a thread of its own, once each time. By then the TLS sessions kept for it are
            dropped, and its login is forgotten. Connections that are open stay so.

    Raises:
        InvalidURI: the URI is wrong.
        ModuleError: the module asked for does not exist.
        UnsupportedOpenSSL: this Python's OpenSSL can not do it.
        TokenAuthError: for a server's context, whatever keeps its key from being used.
    """
    purpose = ssl.Purpose.CLIENT_AUTH if server_side else ssl.Purpose.SERVER_AUTH
    context = ssl.create_default_context(purpose, cafile=cafile, capath=capath, cadata=cadata)
    pin = as_source(pin)
    configure(
        context,
        uri,
        pin=pin,
        module=module,
        choose=choose,
        allow_final_try=allow_final_try,
        forget_after=forget_after,
        isolate=isolate,
        reuse_sessions=reuse_sessions,
        wait=wait,
        on_remove=on_remove,
    )
    return context


def configure(
    context: ssl.SSLContext,
    uri: str | TokenURI | Identity = "pkcs11:",
    *,
    pin: str | PinSource | None = None,
    module: str | None = None,
    choose: Callable[[list[Identity], CertificateRequest], Identity | None] | None = None,
    allow_final_try: bool = False,
    forget_after: float | None = None,
    isolate: bool | None = None,
    reuse_sessions: bool = True,
    wait: float | bool = False,
    on_remove: Callable[[TokenInfo], object] | Removal | None = None,
) -> None:
    """Make a context that exists already authenticate with a key in a token.

    What the context verifies and which TLS versions it speaks stay as they are. A certificate loaded into it before
    is not used any more.

    Args:
        context: a client's or a server's context; do this before its first connection.
        uri: as in :func:`create_context`.
        pin: as in :func:`create_context`.
        module: as in :func:`create_context`.
        choose: as in :func:`create_context`.
        allow_final_try: as in :func:`create_context`.
        forget_after: as in :func:`create_context`.
        isolate: as in :func:`create_context`.
        reuse_sessions: as in :func:`create_context`.
        wait: as in :func:`create_context`.
        on_remove: as in :func:`create_context`.

    Raises:
        as :func:`create_context`.
    """
    pin = as_source(pin)
    selector = Selector(
        wanted(
            uri,
            pin=pin,
            module=module,
            choose=choose,
            allow_final_try=allow_final_try,
            forget_after=forget_after,
            isolate=isolate,
            reuse_sessions=reuse_sessions,
            wait=wait,
            on_remove=on_remove,
        ),
        context,
    )
    configured: Any = context
    if context.protocol == ssl.PROTOCOL_TLS_SERVER:
        offer = selector.pinned = _server_offer(selector)
        selector.note_use(offer)
        handshake.use_in_context(context, offer.certificate, offer.pkey, offer.stack)
    else:
        handshake.respond_with(context, selector)
    configured._tokenauth = selector
    configured.forget = selector.forget
    configured.sslsocket_class = TokenSSLSocket
    configured.sslobject_class = TokenSSLObject


def wanted(
    uri: str | TokenURI | Identity,
    *,
    pin: PinSource | None = None,
    module: str | None = None,
    choose: Callable[[list[Identity], CertificateRequest], Identity | None] | None = None,
    allow_final_try: bool = False,
    forget_after: float | None = None,
    isolate: bool | None = None,
    reuse_sessions: bool = True,
    wait: float | bool = False,
    on_remove: Callable[[TokenInfo], object] | Removal | None = None,
) -> Wanted:
    """What a context is to choose from. No token is looked at yet; a module that is not there fails now.

    Raises:
        InvalidURI: the URI is wrong.
        ModuleError: the module asked for does not exist.
    """
    require_seconds(forget_after)
    fixed = uri if isinstance(uri, Identity) else None
    parsed = as_uri(uri.uri if isinstance(uri, Identity) else uri)
    if fixed is None:
        discover(module or parsed.module_path, module_name=parsed.module_name)
    return Wanted(
        parsed,
        fixed,
        pin,
        module,
        choose,
        allow_final_try,
        forget_after,
        isolate,
        reuse_sessions,
        wait,
        removal_of(on_remove),
    )


def removal_of(on_remove: Callable[[TokenInfo], object] | Removal | None) -> Removal | None:
    """See :func:`tokenauth.tls.removal.as_removal`, which few need, so that it is imported then."""
    if on_remove is None:
        return None
    from tokenauth.tls.removal import as_removal

    return as_removal(on_remove)


def _server_offer(selector: Selector) -> Offer:
    """A server's one identity, logged in to: a wrong PIN stops the server and not its first client."""
    offers = selector.offers()
    fit = [offer for offer in offers if selector.wanted.identity or offer.certificate.allows("tls-server")]
    fit = [offer for offer in fit if offer.certificate.valid_now()]
    shown = selector.wanted.uri.without_pin()
    if not fit:
        problems = "; ".join(f"{offer.identity.uri}: {_why_not(offer)}" for offer in offers)
        raise IdentityNotFound(f"no identity that {shown} selects can be a server's: {problems}")
    if len(fit) > 1:
        raise AmbiguousIdentity(f"{shown} selects {len(fit)} servers' identities", [o.identity.uri for o in fit])
    fit[0].key.prepare("to start the server")
    selector.limit(fit)
    return fit[0]


def _why_not(offer: Offer) -> str:
    problems = offer.identity.problems
    return problems[0] if problems else "its key usage or extended key usage does not allow TLS server authentication"
