"""Finding identities by URI, on all modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenauth.errors import AmbiguousIdentity, IdentityNotFound, TokenNotFound
from tokenauth.inventory.survey import Inventory, take_inventory
from tokenauth.pin import as_source
from tokenauth.pkcs11.expiry import require_seconds
from tokenauth.pkcs11.tokens import Credentials
from tokenauth.uri import TokenURI

if TYPE_CHECKING:
    from tokenauth.inventory.identity import Identity
    from tokenauth.pin import PinSource
    from tokenauth.pkcs11.tokens import Token

__all__ = ["as_uri", "credentials_for", "find_identities", "identities", "identity"]


def as_uri(uri: str | TokenURI) -> TokenURI:
    """A URI as given by a user: text is parsed, and a bare word is a token's label.

    Raises:
        InvalidURI: the text is no such URI.
    """
    return uri if isinstance(uri, TokenURI) else TokenURI.from_user(uri)


def credentials_for(
    pin: str | PinSource | None, uri: TokenURI, *, allow_final_try: bool = False, forget_after: float | None = None
) -> Credentials:
    """Who is asked for the PIN: what the caller gave, or else what the URI names."""
    require_seconds(forget_after)
    source = as_source(pin)
    if source is None:
        from tokenauth.pin import from_uri

        source = from_uri(uri)
    return Credentials(source, allow_final_try=allow_final_try, forget_after=forget_after)


def identities(
    uri: str | TokenURI = "pkcs11:", *, module: str | None = None, isolate: bool | None = None
) -> list[Identity]:
    """The identities that a URI selects, on all tokens of all modules. Never logs in.

    Args:
        uri: a ``pkcs11:`` URI (RFC 7512); a bare word is a token's label.
        module: path of the only PKCS#11 module to look at.
        isolate: as in :func:`tokenauth.create_context`.

    Returns:
        Possibly none. The same identity seen through two modules is there once.

    Raises:
        InvalidURI: the URI is wrong.
        ModuleError: there is no module, or the one asked for does not load.
    """
    return distinct(take_inventory(as_uri(uri), module=module, isolate=isolate))


def distinct(inventory: Inventory) -> list[Identity]:
    """All identities of an inventory, each once, even if two modules show the same token.

    Two modules may give one token different names, but its certificates are the same: the first module's count.
    """
    shown_by: dict[bytes, str] = {}
    seen: dict[tuple[str, bytes], Identity] = {}
    for entry in inventory.entries:
        for found in entry.identities:
            if shown_by.setdefault(found.certificate_der, found.module) == found.module:
                seen.setdefault((found.uri, found.certificate_der), found)
    return list(seen.values())


def identity(
    uri: str | TokenURI = "pkcs11:",
    *,
    pin: str | PinSource | None = None,
    module: str | None = None,
    allow_final_try: bool = False,
    forget_after: float | None = None,
    isolate: bool | None = None,
) -> Identity:
    """The one identity that a URI selects. Does not log in; the first signature of its key does.

    Only where a single token is there that shows no certificate at all before a login is it logged in to at once.

    Args:
        uri: a ``pkcs11:`` URI (RFC 7512); a bare word is a token's label.
        pin: the PIN, or where to get it: see :mod:`tokenauth.pin`. None: what the URI's ``pin-source`` or
            ``pin-value`` says, and nothing is asked.
        module: path of the only PKCS#11 module to look at.
        allow_final_try: the token's last PIN try may be spent.
        forget_after: as in :func:`tokenauth.create_context`.
        isolate: as in :func:`tokenauth.create_context`.

    Raises:
        InvalidURI: the URI is wrong.
        ModuleError: there is no module, or the one asked for does not load.
        TokenNotFound: no token matches.
        IdentityNotFound: tokens match, but no identity on them does.
        AmbiguousIdentity: several identities match; ``candidates`` has their URIs.
    """
    pin = as_source(pin)
    parsed = as_uri(uri)
    credentials = credentials_for(pin, parsed, allow_final_try=allow_final_try, forget_after=forget_after)
    found = find_identities(parsed, credentials, module=module, isolate=isolate)
    if len(found) > 1:
        raise AmbiguousIdentity(
            f"{parsed.without_pin()} selects {len(found)} identities", [candidate.uri for candidate in found]
        )
    return found[0]


def find_identities(
    uri: TokenURI,
    credentials: Credentials,
    *,
    module: str | None = None,
    isolate: bool | None = None,
    may_login: bool = True,
) -> list[Identity]:
    """The identities that a URI selects, at least one.

    Args:
        uri: selects them.
        credentials: for the logins.
        module: path of the only PKCS#11 module to look at.
        isolate: as in :func:`tokenauth.create_context`.
        may_login: log in to the only token that the URI selects if that shows no certificate before a login.

    Raises:
        TokenNotFound: no token matches.
        IdentityNotFound: tokens match, but no identity on them does.
        PinError: the login failed.
        TokenAuthError: what kept the only token from being read.
    """

    def look() -> Inventory:
        return take_inventory(uri, module=module, credentials=credentials, isolate=isolate)

    inventory = look()
    hiding = _hiding(inventory)
    if hiding is not None and may_login and credentials.source is not None:
        hiding.login(credentials._replace(reason="to read its certificates"))
        inventory = look()
    return _require_some(inventory, uri)


def _hiding(inventory: Inventory) -> Token | None:
    """The one token that may show certificates after a login; a PIN is sent to no token that was not meant."""
    if len(inventory.entries) != 1 or not inventory.entries[0].blank:
        return None
    token = inventory.entries[0].token
    return None if token.logged_in else token


def _require_some(inventory: Inventory, uri: TokenURI) -> list[Identity]:
    """The identities of an inventory, or the error that says why there is none.

    Raises:
        TokenNotFound: no token matches.
        IdentityNotFound: tokens match, but no identity on them does.
        TokenAuthError: what kept a token that matches from being read.
    """
    found = distinct(inventory)
    if found:
        return found
    shown = uri.without_pin()
    if not inventory.entries:
        if inventory.failures and inventory.modules == 1:
            raise inventory.failures[0]
        failed = f"; {len(inventory.failures)} failed, 'tokenauth doctor' says why" if inventory.failures else ""
        raise TokenNotFound(
            f"no token matches {shown}",
            hint=f"insert the card or check the URI ({inventory.modules} module(s) were asked{failed}); "
            "'tokenauth list' shows the tokens that are there",
        )
    labels = {entry.token.label for entry in inventory.entries}
    for failure in inventory.failures:
        if failure.token in labels:
            raise failure
    hint = f"not everything could be looked at: {inventory.failures[0]}" if inventory.failures else ""
    if _hiding(inventory):
        hint = "some tokens show their certificates only after a login: give a PIN"
    raise IdentityNotFound(f"no certificate on token {', '.join(map(repr, sorted(labels)))} matches {shown}", hint=hint)
