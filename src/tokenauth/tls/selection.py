"""Which identity answers a server's request for a certificate."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from tokenauth._records import Record
from tokenauth.errors import AmbiguousIdentity, IdentityNotFound, TokenAuthError, TokenNotFound, TokenRemoved
from tokenauth.inventory.search import credentials_for, find_identities
from tokenauth.pkcs11.gate import renew_after_fork
from tokenauth.tls import exchange
from tokenauth.tls.offers import Offer
from tokenauth.tls.openssl import handshake
from tokenauth.tls.schemes import SCHEMES, Limiter, schemes_of
from tokenauth.tls.sessions import SessionStore

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from tokenauth.inventory.identity import Identity
    from tokenauth.pin import PinSource
    from tokenauth.pkcs11.tokens import Credentials
    from tokenauth.tls.removal import Removal
    from tokenauth.uri import TokenURI

__all__ = ["CertificateRequest", "Selector", "Wanted"]

_TLS_1_3 = 0x0304
_MOST_ANSWERS = 256
_UNDECIDED = object()


class CertificateRequest(Record):
    """What a server says when it asks for a certificate.

    Args:
        host: the server's name, as sent to it; empty if none was.
        authorities: the distinguished names, DER, of the CAs that it accepts; empty if it accepts any.
        schemes: the TLS signature schemes it takes (RFC 8446 section 4.2.3).
        version: the TLS version on the wire, such as 0x0304.
    """

    host: str
    authorities: tuple[bytes, ...]
    schemes: frozenset[int]
    version: int


class Wanted(Record):
    """What the maker of a context asked for.

    Args:
        uri: selects the identities to choose from.
        identity: or the one to use whatever the server asks for.
        pin: the PIN, or where to get it.
        module: path of the only PKCS#11 module to look at.
        choose: picks one of several that all suit a server; None means none.
        allow_final_try: the token's last PIN try may be spent.
        forget_after: seconds after its last use at which a login ends; None for never.
        isolate: run modules in child processes; None: what ``TOKENAUTH_ISOLATE`` says.
        reuse_sessions: keep TLS sessions for the next connection to the same server.
        wait: wait so many seconds, or for ever, for a token to be inserted.
        on_remove: is told when a token leaves that was used.
    """

    uri: TokenURI
    identity: Identity | None
    pin: PinSource | None
    module: str | None
    choose: Callable[[list[Identity], CertificateRequest], Identity | None] | None
    allow_final_try: bool = False
    forget_after: float | None = None
    isolate: bool | None = None
    reuse_sessions: bool = True
    wait: float | bool = False
    on_remove: Removal | None = None

    @property
    def credentials(self) -> Credentials:
        """For the logins."""
        return credentials_for(self.pin, self.uri, allow_final_try=self.allow_final_try, forget_after=self.forget_after)


class Selector(handshake.Responder):
    """Chooses among the identities of a URI, and remembers the choice for each server.

    The tokens are looked at before the first connection, and again after a failure.

    Args:
        wanted: what to choose from.
        context: whose connections it answers on.

    Attributes:
        pinned: the identity of a server's context, which is never chosen anew.
        sessions: the TLS sessions kept, if that is wanted.
    """

    def __init__(self, wanted: Wanted, context: ssl.SSLContext) -> None:
        self.wanted = wanted
        self.pinned: Offer | None = None
        self.sessions = SessionStore() if wanted.reuse_sessions else None
        self._limiter = Limiter(context)
        self._prepared = False
        self._offers: list[Offer] | None = None
        self._answers: dict[tuple[str, tuple[bytes, ...]], Offer | object | None] = {}
        self._known = ""  # the label of the only token that was there before
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """In the child of a fork: whoever held the locks is not there any more."""
        self._lock = threading.Lock()
        self._preparing = threading.Lock()

    def forget(self) -> None:
        """Look at the tokens anew when the next server asks, which the next one to be connected to will."""
        if self.sessions is not None:
            self.sessions.clear()
        with self._lock:
            self._offers = None
            self._prepared = False
            self._answers = {}  # another one: who is about to answer from what was forgotten writes to the old one

    def prepare(self) -> None:
        """Before a connection begins: keep it to what the tokens can sign, see :class:`~tokenauth.tls.schemes.Limiter`.

        For that the tokens are looked at once, without a login. That none is there is no error yet: this server may
        not ask for a certificate.
        """
        self.await_token()
        if self._prepared:
            return
        with self._preparing:
            if not self._prepared:
                with suppress(TokenAuthError):
                    self.limit(self.offers(may_login=False))
                self._prepared = True

    def await_token(self) -> None:
        """Wait for the token if that is wanted and it is not there, before a server waits for us."""
        wanted = self.wanted
        if wanted.wait and not any(offer.key.token.is_present() for offer in self._offers or ()):
            from tokenauth.inventory.waiting import await_token

            await_token(wanted.uri, wait=wanted.wait, module=wanted.module, isolate=wanted.isolate)

    def limit(self, offers: list[Offer]) -> None:
        """Keep the context to what the tokens of some identities can sign.

        Raises:
            TokenAuthError: a token does not answer.
        """
        self._limiter.limit((offer.key.shape, offer.schemes) for offer in offers)

    def offers(self, *, may_login: bool = True) -> list[Offer]:
        """The identities to choose from; one that OpenSSL can not take counts only if there is no other.

        Args:
            may_login: log in to a token that shows no certificate before that.

        Raises:
            TokenAuthError: there is none.
        """
        with self._lock:
            if self._offers is None:
                self._offers = self._look(may_login=may_login)
            return self._offers

    def _look(self, *, may_login: bool) -> list[Offer]:
        wanted = self.wanted
        if wanted.identity is not None:
            found = [wanted.identity]
            credentials = wanted.identity.credentials if wanted.pin is None else wanted.credentials
        else:
            credentials = wanted.credentials
            try:
                found = find_identities(
                    wanted.uri, credentials, module=wanted.module, isolate=wanted.isolate, may_login=may_login
                )
            except TokenNotFound as error:
                if not self._known:
                    raise
                raise TokenRemoved("it was removed", token=self._known) from error
        offers, failures = [], []
        for identity in found:
            try:
                offers.append(Offer(identity, credentials))
            except TokenAuthError as error:
                failures.append(error)
        if not offers:
            raise failures[0]
        self._known = _only_token(offers)
        return offers

    def respond(self, connection: int) -> None:
        """Put the identity for the server at the other end on the connection."""
        offer = self.answer(connection)
        if offer is not None:
            handshake.use(connection, offer.certificate, offer.pkey, offer.stack)

    def answer(self, connection: int) -> Offer | None:
        """The identity for the server at the other end of an ``SSL``, ready to sign; None for none at all.

        Raises:
            IdentityNotFound: no identity suits the server; the text says why.
            AmbiguousIdentity: several do.
            PinError: the login failed.
            TokenAuthError: whatever else the token answers.
        """
        key = (handshake.host(connection), handshake.authorities(connection))
        offer = self._answers.get(key, _UNDECIDED)
        if offer is _UNDECIDED:
            offer = self._decide(connection, *key)
        if not isinstance(offer, Offer):
            return None
        exchange.use(offer)
        if not offer.key.ready:
            offer.key.prepare(f"to authenticate to {key[0] or 'the server'}")
        self.note_use(offer)
        return offer

    def note_use(self, offer: Offer) -> None:
        """An identity is used: from now on somebody may want to know when its token leaves."""
        if self.wanted.on_remove is not None:
            self.wanted.on_remove.used(offer.key.token, self)

    def _decide(self, connection: int, host: str, authorities: tuple[bytes, ...]) -> Offer | None:
        """Look at what the server asks for, choose, and remember the choice."""
        answers = self._answers
        version, schemes = handshake.version(connection), handshake.schemes(connection)
        offer = self._choose(CertificateRequest(host, authorities, schemes, version))
        if len(answers) >= _MOST_ANSWERS:
            answers.clear()
        answers[host, authorities] = offer
        return offer

    def _choose(self, request: CertificateRequest) -> Offer | None:
        offers = self.offers()
        if self.wanted.identity is not None:
            return offers[0]
        misfits = {offer: _misfit(offer, request) for offer in offers}
        fit = [offer for offer, misfit in misfits.items() if not misfit]
        if not fit:
            reasons = "; ".join(f"{offer.identity.uri}: {misfit}" for offer, misfit in misfits.items())
            raise IdentityNotFound(
                f"no identity suits {request.host or 'the server'}: {reasons}",
                token=_only_token(offers),
                hint="name an identity that this server accepts; 'tokenauth list' shows all of them",
            )
        if len(fit) == 1:
            return fit[0]
        if self.wanted.choose is None:
            raise AmbiguousIdentity(
                f"{len(fit)} identities suit {request.host or 'the server'}", [offer.identity.uri for offer in fit]
            )
        chosen = self.wanted.choose([offer.identity for offer in fit], request)
        return next((offer for offer in fit if offer.identity is chosen), None)


def _only_token(offers: list[Offer]) -> str:
    labels = {offer.identity.token.label for offer in offers}
    return labels.pop() if len(labels) == 1 else ""


def _misfit(offer: Offer, request: CertificateRequest) -> str:
    """Why an identity does not suit a request; empty if it does."""
    checks: tuple[tuple[Callable[[], bool], Callable[[], str]], ...] = (
        (
            offer.certificate.valid_now,
            lambda: f"its certificate is {next(iter(offer.identity.problems), 'not valid now')}",
        ),
        (
            lambda: offer.certificate.allows("tls-client"),
            lambda: "its key usage or extended key usage does not allow TLS client authentication",
        ),
        (
            lambda: not request.authorities or not offer.issuers.isdisjoint(request.authorities),
            lambda: f"the server accepts no certificate issued by {offer.identity.text_of('issuer')}",
        ),
        (
            lambda: bool(_common_schemes(offer, request)),
            lambda: f"the server takes no signature of its {offer.key.shape.type.upper()} key",
        ),
        (
            lambda: bool(_common_schemes(offer, request) & offer.schemes),
            lambda: (
                "its token makes none of the signatures that the server takes ("
                + ", ".join(sorted(SCHEMES[number].name for number in _common_schemes(offer, request)))
                + ")"
            ),
        ),
    )
    return next((explain() for suits, explain in checks if not suits()), "")


def _common_schemes(offer: Offer, request: CertificateRequest) -> frozenset[int]:
    """What the server takes of what such a key can sign, whatever its token can do."""
    possible = schemes_of(offer.key.shape, modern=request.version >= _TLS_1_3)
    return possible & request.schemes if request.schemes else possible
