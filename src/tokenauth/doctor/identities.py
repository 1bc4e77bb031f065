"""Whether an identity can be used, now and for some time."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, NamedTuple

from tokenauth.doctor.findings import Finding
from tokenauth.errors import IdentityNotFound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography import x509

    from tokenauth.inventory.identity import Identity

__all__ = ["check_identity"]

#: How long before its end a certificate deserves attention.
_NOTICE = datetime.timedelta(days=30)
_RENEW = "have a new certificate issued"
#: How OpenSC's and Yubico's modules end the label of the certificate in PIV slot 9C.
_SIGNATURE_SLOT = "for Digital Signature"


class _Validity(NamedTuple):
    """What a certificate's dates mean now."""

    status: str
    what: str
    next: str


def check_identity(identity: Identity, all_on_token: Sequence[Identity] = ()) -> Finding:
    """Check one identity. What hinders it most is told; the other problems stand beside it.

    Args:
        identity: the identity.
        all_on_token: all of the same token, one of which may be the better choice.
    """
    try:
        certificate = identity.certificate
        validity = _validity(certificate, datetime.datetime.now(datetime.UTC))
        problems = identity.problems
    except (IdentityNotFound, ValueError) as error:
        return Finding(
            "certificate",
            "error",
            f"{identity.uri} can not be read",
            getattr(error, "message", str(error)),
            "write the certificate to the token again with the card's own program",
        )
    why = "; ".join(problems)
    if validity.status == "error":
        return Finding("certificate", "error", f"{identity.uri} {validity.what}", why, validity.next)
    if problems:
        action = f"tokenauth show '{identity.uri}'"
        return Finding("certificate", "warning", f"{identity.uri} has a problem", why, action)
    why, action = _special(identity, all_on_token)
    if validity.status == "warning":
        return Finding("certificate", "warning", f"{identity.uri} {validity.what}", why, validity.next)
    return Finding("certificate", "ok", f"{identity.uri} {validity.what}", why, action)


def _special(identity: Identity, all_on_token: Sequence[Identity]) -> tuple[str, str]:
    """What is to be known of an identity that is fine, and what to do about it."""
    if not _asks_each_time(identity):
        return "", ""
    why = "its key asks for the PIN at each signature, as a signature key does (PIV slot 9C)"
    better = [
        other.uri
        for other in all_on_token
        if other is not identity
        and "tls-client" in other.purposes
        and not _asks_each_time(other)
        and not other.problems
    ]
    return why, f"for TLS use {better[0]}" if better else ""


def _asks_each_time(identity: Identity) -> bool:
    """Most keys do not show before a login; but the PIV modules name certificates like the slots (SP 800-73-4)."""
    shown = identity.always_authenticate
    return identity.label.endswith(_SIGNATURE_SLOT) if shown is None else shown


def _validity(certificate: x509.Certificate, now: datetime.datetime) -> _Validity:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > end:
        return _Validity("error", f"expired on {end:%Y-%m-%d}", _RENEW)
    if now < begin:
        return _Validity("error", f"is not valid before {begin:%Y-%m-%d}", "check this machine's clock, or wait")
    if end - now < _NOTICE:
        return _Validity("warning", f"expires on {end:%Y-%m-%d}, in {(end - now).days} days", _RENEW)
    return _Validity("ok", f"is valid until {end:%Y-%m-%d}", "")
