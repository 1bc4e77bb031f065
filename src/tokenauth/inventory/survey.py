"""Looking at tokens: which are there, and what lies on them that makes identities. Never logs in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenauth._records import Record
from tokenauth.errors import ModuleError, TokenAuthError
from tokenauth.inventory import certificates
from tokenauth.inventory.candidates import find_modules
from tokenauth.inventory.identity import FINGERPRINT, Found, Identity, fingerprint
from tokenauth.pkcs11.keys import KeyReference, matching_key
from tokenauth.pkcs11.modules import Module, SlotFailure, load_module
from tokenauth.pkcs11.objects import CertificateObject, Objects, read_objects
from tokenauth.pkcs11.tokens import Credentials, Token
from tokenauth.uri import ObjectInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenauth.pkcs11.discovery import ModuleCandidate
    from tokenauth.uri import TokenURI

__all__ = ["Inventory", "TokenEntry", "find_tokens", "take_inventory"]

#: CKA_CERTIFICATE_CATEGORY (PKCS #11 v3.1 section 4.6.2).
_AUTHORITY = 2
#: What shows a YubiKey's statement that a key was made in it, or the certificate of the key that signs such statements
#: (developers.yubico.com/PIV/Introduction/PIV_attestation.html): extensions under 1.3.6.1.4.1.41482.3 and the maker's
#: name for it, as DER has them; and ykcs11's labels, which a company's own certificate for that key has as well.
_ATTESTATION_BYTES = (bytes.fromhex("2b0601040182c40a03"), b"Yubico PIV Attestation")
_ATTESTATION_LABEL = "X.509 Certificate for PIV Attestation"


class TokenEntry(Record):
    """A token and the identities on it that a URI selects.

    Args:
        token: the token.
        module: its module.
        identities: those that the URI selects.
        blank: no certificate shows on it now.
        attestations: how many of its certificates are nobody's, but say where its keys come from.
    """

    token: Token
    module: Module
    identities: tuple[Identity, ...]
    blank: bool = False
    attestations: int = 0


class Inventory(Record):
    """What was found, and what could not be looked at.

    Args:
        entries: the tokens that the URI selects.
        failures: what failed meanwhile: modules, slots, tokens.
        modules: how many modules were asked.
    """

    entries: tuple[TokenEntry, ...]
    failures: tuple[TokenAuthError, ...]
    modules: int


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
    candidates = _candidates(uri, module)
    if credentials is None:
        from tokenauth.pin import from_uri

        credentials = Credentials(from_uri(uri))
    for loaded in _loaded(candidates, isolate, failures):
        if not uri.matches_library(loaded.info):
            continue
        for token in _tokens(loaded, uri, failures):
            try:
                objects = read_objects(token)
            except TokenAuthError as error:
                failures.append(error)
                entries.append(TokenEntry(token, loaded, ()))
                continue
            owned = [certificate for certificate in objects.certificates if not _attests(certificate)]
            made = _identities(token, owned, objects, credentials)
            found = sorted((one for one in made if _selected(uri, one)), key=lambda one: (one.label, one.id))
            attestations = len(objects.certificates) - len(owned)
            entries.append(TokenEntry(token, loaded, tuple(found), not objects.certificates, attestations))
    return Inventory(tuple(entries), tuple(failures), len(candidates))


def find_tokens(uri: TokenURI, *, module: str | None = None, isolate: bool | None = None) -> list[Token]:
    """The tokens that a URI selects, whatever is on them. Never logs in.

    Args:
        uri: selects them.
        module: path of the only PKCS#11 module to look at.
        isolate: as in :func:`tokenauth.create_context`.

    Raises:
        ModuleError: a module that was asked for by name does not load, or there is none at all.
    """
    failures: list[TokenAuthError] = []
    return [
        token
        for loaded in _loaded(_candidates(uri, module), isolate, failures)
        if uri.matches_library(loaded.info)
        for token in _tokens(loaded, uri, failures)
    ]


def _candidates(uri: TokenURI, module: str | None) -> list[ModuleCandidate]:
    named = module or uri.module_path
    found = find_modules(named, module_name=uri.module_name)
    for problem in found.problems:
        import logging

        logging.getLogger("tokenauth").warning("%s", problem)
    if not found.candidates:
        from tokenauth.inventory.serving import advice_for_cards

        software = advice_for_cards() or "install your card's software (for many cards: the package opensc)"
        raise ModuleError("no PKCS#11 module is installed", hint=f"{software}, or name its module with --module")
    return found.candidates


def _loaded(
    candidates: list[ModuleCandidate], isolate: bool | None, failures: list[TokenAuthError]
) -> Iterator[Module]:
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


def _identities(
    token: Token, certificates_of_keys: list[CertificateObject], objects: Objects, credentials: Credentials
) -> list[Identity]:
    """All identities on a token, each with a URI that selects no other."""
    made = []
    for certificate in certificates_of_keys:
        found = _found(token, certificate, objects)
        if found.key is not None or not _is_authority(certificate):
            made.append(Identity(found, credentials))
    return [
        Identity(one._found._replace(has_double=True), credentials) if _has_double(one, made) else one for one in made
    ]


def _has_double(identity: Identity, others: list[Identity]) -> bool:
    """Whether label and ``CKA_ID`` select another identity, too."""
    return any(
        other.certificate_der != identity.certificate_der
        and identity.label in {"", other.label}
        and identity.id in {b"", other.id}
        for other in others
    )


def _selected(uri: TokenURI, found: Identity) -> bool:
    wanted = dict(uri.vendor_query).get(FINGERPRINT)
    if wanted is not None and fingerprint(found.certificate_der) != wanted:
        return False
    return any(
        uri.matches_object(ObjectInfo(found.label or None, found.id or None, kind)) for kind in ("cert", "private")
    )


def _found(token: Token, certificate: CertificateObject, objects: Objects) -> Found:
    """Pair a certificate with both halves of its key."""
    reference = KeyReference(certificate.id, certificate.label, certificate.der)
    private, public = (matching_key(reference, keys) for keys in (objects.private_keys, objects.public_keys))
    others = tuple(other.der for other in objects.certificates if other is not certificate)
    return Found(token, certificate, private, public, others)


def _attests(certificate: CertificateObject) -> bool:
    """Whether it is no identity, although ykcs11 shows it with the key that it is about, under the same ``CKA_ID``."""
    told = any(run in certificate.der for run in _ATTESTATION_BYTES)
    return told or certificate.label.startswith(_ATTESTATION_LABEL)


def _is_authority(certificate: CertificateObject) -> bool:
    """A CA's certificate is somebody's chain; one that can not be read is shown, with what is wrong with it."""
    if certificate.category == _AUTHORITY:
        return True
    try:
        return certificates.is_authority(certificates.parse(certificate.der))
    except ValueError:
        return False
