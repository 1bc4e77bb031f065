"""Which certificate signs documents.

It is the one whose key usage is contentCommitment (RFC 5280 section 4.2.1.3, once called nonRepudiation), whatever its
label. A certificate for authentication signs only if it is named, or there is no other, and then that is told.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from tokenauth.errors import AmbiguousIdentity, IdentityNotFound
from tokenauth.inventory import certificates
from tokenauth.inventory.identity import FINGERPRINT, Identity
from tokenauth.inventory.search import as_uri, credentials_for, find_identities
from tokenauth.notices import notice

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cryptography import x509

    from tokenauth.pin import PinSource
    from tokenauth.signing.model import SigningKey
    from tokenauth.uri import TokenURI

__all__ = ["choose", "find_signer", "signing_key", "why_not"]

_DOCUMENT, _CLIENT = "document", "tls-client"


def find_signer(
    identity: str | TokenURI | Identity,
    *,
    pin: str | PinSource | None = None,
    module: str | None = None,
    allow_final_try: bool = False,
    forget_after: float | None = None,
    isolate: bool | None = None,
) -> Identity:
    """The identity that signs documents, among those that a URI selects. No key is used yet.

    Args:
        identity: a ``pkcs11:`` URI, or the identity itself; a bare word is a token's label.
        pin: as in :func:`tokenauth.identity`; not looked at if ``identity`` is one.
        module: as in :func:`tokenauth.identity`.
        allow_final_try: as in :func:`tokenauth.identity`.
        forget_after: as in :func:`tokenauth.identity`.
        isolate: as in :func:`tokenauth.identity`.

    Raises:
        IdentityNotFound: none of them may sign documents now; the hint says why.
        AmbiguousIdentity: several may.
        TokenAuthError: as :func:`tokenauth.identity`.
    """
    if isinstance(identity, Identity):
        return choose([identity], is_named=True)
    uri = as_uri(identity)
    credentials = credentials_for(pin, uri, allow_final_try=allow_final_try, forget_after=forget_after)
    is_named = bool(uri.object or uri.id or dict(uri.vendor_query).get(FINGERPRINT))
    return choose(find_identities(uri, credentials, module=module, isolate=isolate), is_named=is_named)


def choose(found: Sequence[Identity], *, is_named: bool = False) -> Identity:
    """The one identity that signs documents.

    Args:
        found: the identities to choose from, at least one.
        is_named: the user named an identity and not only a token, so it may be one for authentication.

    Raises:
        IdentityNotFound, AmbiguousIdentity: as :func:`find_signer`.
    """
    refused = {one.uri: why_not(one) for one in found}
    able = [one for one in found if not refused[one.uri]]
    for_documents, for_clients = ([one for one in able if purpose in one.purposes] for purpose in (_DOCUMENT, _CLIENT))
    candidates = _each_once(for_documents or for_clients or able)
    if not candidates:
        reasons = "; ".join(f"{one.label!r} {refused[one.uri]}" for one in found)
        raise IdentityNotFound("no certificate that is here can sign documents now", hint=reasons)
    if len(candidates) > 1:
        raise AmbiguousIdentity(
            f"{len(candidates)} certificates can sign documents", [candidate.uri for candidate in candidates]
        )
    [chosen] = candidates
    if not for_documents and not is_named:
        notice(
            f"no certificate here is meant for documents; {chosen.label!r} on {chosen.token.label!r}, which is for "
            "authentication, signs: not every reader accepts that"
        )
    return chosen


def why_not(identity: Identity) -> str:
    """What keeps an identity from signing documents now, in words that follow its name; empty if nothing does."""
    now = datetime.datetime.now(datetime.UTC)
    try:
        certificate = identity.certificate
        usage = certificates.extension(certificate, "KeyUsage")
        is_authority = certificates.is_authority(certificate)
    except (IdentityNotFound, ValueError):
        return "can not be read"
    starts, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    signs = usage is None or usage.digital_signature or usage.content_commitment
    obstacles = {
        f"expired on {ends:%Y-%m-%d}": now > ends,
        f"is not valid before {starts:%Y-%m-%d %H:%M} UTC": now < starts,
        "is a certification authority's": is_authority,
        "is not for signatures (its key usage)": not signs,
        "has its key elsewhere": identity.has_key is False,
    }
    return next((words for words, is_so in obstacles.items() if is_so), "")


def _each_once(identities: Iterable[Identity]) -> list[Identity]:
    """Of a certificate that several slots show, those that show its key, if there are any.

    A national card is two tokens, one for each PIN; some modules show all certificates on both.
    """
    by_certificate: dict[bytes, list[Identity]] = {}
    for one in identities:
        by_certificate.setdefault(one.certificate_der, []).append(one)
    kept: list[Identity] = []
    for group in by_certificate.values():
        kept += [one for one in group if one.has_key] or group
    return kept


def signing_key(
    identity: Identity, *, extra: Iterable[x509.Certificate] = (), pss: bool | None = None, private_key: Any = None
) -> SigningKey:
    """The key of an identity, with the hash and padding that go with it.

    Args:
        identity: the one.
        extra: certificates for the chain, in addition to those on the token.
        pss: RSASSA-PSS instead of PKCS #1 v1.5; None: only if the certificate allows nothing else.
        private_key: use this one instead of the identity's own.

    Raises:
        MechanismUnsupported: the key is neither RSA, EC nor Ed25519.
    """
    chain = list(identity.chain)
    top = chain[-1] if chain else identity.certificate
    chain += certificates.walk_chain(top, [one for one in extra if one not in chain], certificates.issued_by)
    from tokenauth.signing.schemes import key_for

    return key_for(identity.certificate, chain, private_key or identity.private_key, pss=pss)
