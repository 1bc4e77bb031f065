"""Which identity answers a server's request for a certificate."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from tokenauth._records import Record
from tokenauth.errors import AmbiguousIdentity, IdentityNotFound, TokenAuthError
from tokenauth.inventory.search import credentials_for, require_some, take_inventory
from tokenauth.tls import exchange
from tokenauth.tls.offers import Offer
from tokenauth.tls.openssl import handshake

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenauth.inventory.identity import Identity
    from tokenauth.pin import PinSource
    from tokenauth.pkcs11.tokens import Credentials
    from tokenauth.uri import TokenURI

__all__ = ["CertificateRequest", "Selector", "Wanted"]

_TLS_1_3 = 0x0304
_MOST_ANSWERS = 256
_UNDECIDED = object()
#: Signature schemes (RFC 8446 section 4.2.3) that a kind of key can make; in TLS 1.3, and besides in TLS 1.2.
_SCHEMES = {
    "rsa": ({0x0804, 0x0805, 0x0806}, {0x0201, 0x0301, 0x0401, 0x0501, 0x0601}),
    "ec": ({0x0403, 0x0503, 0x0603}, {0x0203, 0x0303}),
    "ed25519": ({0x0807}, set()),
}
#: In TLS 1.3 a curve goes with one hash only.
_EC_SCHEMES_1_3 = {256: 0x0403, 384: 0x0503, 521: 0x0603}


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
    """

    uri: TokenURI
    identity: Identity | None
    pin: PinSource | None
    module: str | None
    choose: Callable[[list[Identity], CertificateRequest], Identity | None] | None
    allow_final_try: bool = False
    forget_after: float | None = None
    isolate: bool | None = None

    @property
    def credentials(self) -> Credentials:
        """For the logins."""
        return credentials_for(
            self.pin, self.uri, allow_final_try=self.allow_final_try, forget_after=self.forget_after
        )


class Selector(handshake.Responder):
    """Chooses among the identities of a URI, and remembers the choice for each server.

    The tokens are looked at when the first server asks, and again after a failure.

    Args:
        wanted: what to choose from.
    """

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self._offers: list[Offer] | None = None
        self._answers: dict[tuple[str, tuple[bytes, ...]], Offer | object | None] = {}
        self._lock = threading.Lock()

    def forget(self) -> None:
        """Look at the tokens anew when the next server asks."""
        with self._lock:
            self._offers = None
            self._answers.clear()

    def offers(self) -> list[Offer]:
        """The identities to choose from; one that OpenSSL can not take counts only if there is no other.

        Raises:
            TokenAuthError: there is none.
        """
        with self._lock:
            if self._offers is None:
                self._offers = self._look()
            return self._offers

    def _look(self) -> list[Offer]:
        wanted = self.wanted
        if wanted.identity is not None:
            found = [wanted.identity]
            credentials = wanted.identity.credentials if wanted.pin is None else wanted.credentials
        else:
            credentials = wanted.credentials
            inventory = take_inventory(
                wanted.uri, module=wanted.module, credentials=credentials, isolate=wanted.isolate
            )
            found = require_some(inventory, wanted.uri)
        offers, failures = [], []
        for identity in found:
            try:
                offers.append(Offer(identity, credentials))
            except TokenAuthError as error:
                failures.append(error)
        if not offers:
            raise failures[0]
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
        exchange.use(offer.identity)
        if not offer.key.ready:
            offer.key.prepare(f"to authenticate to {key[0] or 'the server'}")
        return offer

    def _decide(self, connection: int, host: str, authorities: tuple[bytes, ...]) -> Offer | None:
        """Look at what the server asks for, choose, and remember the choice."""
        version, schemes = handshake.version(connection), handshake.schemes(connection)
        offer = self._choose(CertificateRequest(host, authorities, schemes, version))
        if len(self._answers) >= _MOST_ANSWERS:
            self._answers.clear()
        self._answers[host, authorities] = offer
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
        (offer.certificate.valid_now, lambda: f"its certificate is {offer.identity.problems[0]}"),
        (
            lambda: offer.certificate.allows("tls-client"),
            lambda: "its key usage or extended key usage does not allow TLS client authentication",
        ),
        (
            lambda: not request.authorities or not offer.issuers.isdisjoint(request.authorities),
            lambda: f"the server accepts no certificate issued by {offer.identity.certificate.issuer.rfc4514_string()}",
        ),
        (
            lambda: _shares_scheme(offer, request),
            lambda: f"the server takes no signature of its {offer.key.shape.type.upper()} key",
        ),
    )
    return next((explain() for suits, explain in checks if not suits()), "")


def _shares_scheme(offer: Offer, request: CertificateRequest) -> bool:
    modern, older = _SCHEMES[offer.key.shape.type]
    if request.version < _TLS_1_3:
        return not request.schemes or bool(request.schemes & (modern | older))
    if offer.key.shape.type == "ec":
        return _EC_SCHEMES_1_3.get(offer.key.shape.bits) in request.schemes
    return bool(request.schemes & modern)
