"""Finding identities by URI, on all modules, without a login."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenauth._records import Record
from tokenauth.errors import AmbiguousIdentity, IdentityNotFound, ModuleError, TokenAuthError, TokenNotFound
from tokenauth.inventory import certificates
from tokenauth.inventory.identity import Found, Identity
from tokenauth.pin import as_source, from_uri
from tokenauth.pkcs11.discovery import discover
from tokenauth.pkcs11.keys import KeyReference, matching_key
from tokenauth.pkcs11.modules import Module, SlotFailure, load_module
from tokenauth.pkcs11.objects import CertificateObject, Objects, read_objects
from tokenauth.pkcs11.tokens import Credentials, Token
from tokenauth.uri import ObjectInfo, TokenURI

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenauth.pin import PinSource

__all__ = ["Inventory", "TokenEntry", "as_uri", "credentials_for", "identities", "identity", "take_inventory"]

#: CKA_CERTIFICATE_CATEGORY (PKCS #11 v3.1 section 4.6.2).
_AUTHORITY = 2


class TokenEntry(Record):
    """A token and the identities on it that a URI selects."""

    token: Token
    module: Module
    identities: tuple[Identity, ...]


class Inventory(Record):
    """What was found, and what could not be looked at.

    Args:
        entries: the tokens that the URI selects.
        failures: what failed meanwhile: modules, slots, tokens.
        modules: how many modules were loaded.
    """

    entries: tuple[TokenEntry, ...]
    failures: tuple[TokenAuthError, ...]
    modules: int


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
    source = as_source(pin) or from_uri(uri)
    return Credentials(source, allow_final_try=allow_final_try, forget_after=forget_after)


def take_inventory(
    uri: TokenURI,
    *,
    module: str | None = None,
    credentials: Credentials | None = None,
    isolate: bool | None = None,
) -> Inventory:
    """Look at all tokens that a URI selects, and at the identities on them that it selects. Never logs in.

    Args:
        uri: selects tokens and identities.
        module: path of the only PKCS#11 module to look at.
        credentials: for later use of the identities' keys; None: what the URI says.
        isolate: run modules in child processes; None: what ``TOKENAUTH_ISOLATE`` says.

    Raises:
        ModuleError: a module that was asked for by name does not load, or there is none at all.
    """
    failures: list[TokenAuthError] = []
    entries: list[TokenEntry] = []
    modules = list(_modules(uri, module, isolate, failures))
    credentials = credentials or credentials_for(None, uri)
    for loaded in modules:
        if not uri.matches_library(loaded.info):
            continue
        for token in _tokens(loaded, uri, failures):
            try:
                found = tuple(sorted(_identities(token, uri, credentials), key=lambda made: (made.label, made.id)))
            except TokenAuthError as error:
                failures.append(error)
                found = ()
            entries.append(TokenEntry(token, loaded, found))
    return Inventory(tuple(entries), tuple(failures), len(modules))


def _modules(
    uri: TokenURI, module: str | None, isolate: bool | None, failures: list[TokenAuthError]
) -> Iterator[Module]:
    named = module or uri.module_path
    candidates = discover(named, module_name=uri.module_name)
    if not candidates:
        raise ModuleError(
            "no PKCS#11 module is installed",
            hint="install your card's software (for many cards: the package opensc), or name its module with --module",
        )
    for candidate in candidates:
        try:
            yield load_module(candidate.path, isolate=isolate)
        except ModuleError as error:
            if len(candidates) == 1:
                raise
            failures.append(error)


def _tokens(module: Module, uri: TokenURI, failures: list[TokenAuthError]) -> list[Token]:
    try:
        tokens, bad_slots = module.tokens()
    except ModuleError as error:
        failures.append(error)
        return []
    failures.extend(_slot_error(module, slot) for slot in bad_slots)
    return [token for token in tokens if uri.matches_slot(token.slot) and uri.matches_token(token.info)]


def _slot_error(module: Module, failure: SlotFailure) -> TokenAuthError:
    return TokenAuthError(f"slot {failure.slot} of {module.path} can not be read", ckr=failure.ckr)


def _identities(token: Token, uri: TokenURI, credentials: Credentials) -> Iterator[Identity]:
    objects = read_objects(token)
    for certificate in objects.certificates:
        found = _found(token, certificate, objects)
        made = Identity(found, credentials)
        if _selected(uri, made) and (found.key is not None or not _is_authority(certificate)):
            yield made


def _selected(uri: TokenURI, found: Identity) -> bool:
    return any(
        uri.matches_object(ObjectInfo(found.label or None, found.id or None, kind)) for kind in ("cert", "private")
    )


def _found(token: Token, certificate: CertificateObject, objects: Objects) -> Found:
    """Pair a certificate with both halves of its key."""
    reference = KeyReference(certificate.id, certificate.label, certificate.der)
    private, public = (matching_key(reference, keys) for keys in (objects.private_keys, objects.public_keys))
    others = tuple(other.der for other in objects.certificates if other is not certificate)
    return Found(token, certificate, private, public, others)


def _is_authority(certificate: CertificateObject) -> bool:
    """A CA's certificate is somebody's chain; one that can not be read is shown, with what is wrong with it."""
    if certificate.category == _AUTHORITY:
        return True
    try:
        return certificates.is_authority(certificates.parse(certificate.der))
    except ValueError:
        return False


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
    """All identities of an inventory, each once, even if two modules show the same token."""
    seen: dict[tuple[str, bytes], Identity] = {}
    for entry in inventory.entries:
        for found in entry.identities:
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
    found = require_some(take_inventory(parsed, module=module, credentials=credentials, isolate=isolate), parsed)
    if len(found) > 1:
        raise AmbiguousIdentity(
            f"{parsed.without_pin()} selects {len(found)} identities", [candidate.uri for candidate in found]
        )
    return found[0]


def require_some(inventory: Inventory, uri: TokenURI) -> list[Identity]:
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
        if inventory.failures:
            raise inventory.failures[0]
        raise TokenNotFound(
            f"no token matches {shown}",
            hint=f"insert the card or check the URI ({inventory.modules} module(s) were asked); 'tokenauth list' "
            "shows the tokens that are there",
        )
    names = {entry.token.label for entry in inventory.entries}
    for failure in inventory.failures:
        if failure.token in names:
            raise failure
    labels = ", ".join(map(repr, sorted(names)))
    hint = f"not everything could be looked at: {inventory.failures[0]}" if inventory.failures else ""
    raise IdentityNotFound(f"no certificate on token {labels} matches {shown}", hint=hint)
