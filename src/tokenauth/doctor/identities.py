"""Whether an identity can be used, now and for some time."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, NamedTuple

from tokenauth.doctor.findings import Finding
from tokenauth.errors import IdentityNotFound

if TYPE_CHECKING:
    from cryptography import x509

    from tokenauth.inventory.identity import Identity

__all__ = ["check_identity"]

#: How long before its end a certificate deserves attention.
_NOTICE = datetime.timedelta(days=30)
_RENEW = "have a new certificate issued"


class _Validity(NamedTuple):
    """What a certificate's dates mean now."""

    status: str
    what: str
    next: str


def check_identity(identity: Identity) -> Finding:
    """Check one identity. What hinders it most is told; the other problems stand beside it."""
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
    if validity.status == "warning":
        return Finding("certificate", "warning", f"{identity.uri} {validity.what}", "", validity.next)
    return Finding("certificate", "ok", f"{identity.uri} {validity.what}")


def _validity(certificate: x509.Certificate, now: datetime.datetime) -> _Validity:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > end:
        return _Validity("error", f"expired on {end:%Y-%m-%d}", _RENEW)
    if now < begin:
        return _Validity("error", f"is not valid before {begin:%Y-%m-%d}", "check this machine's clock, or wait")
    if end - now < _NOTICE:
        return _Validity("warning", f"expires on {end:%Y-%m-%d}, in {(end - now).days} days", _RENEW)
    return _Validity("ok", f"is valid until {end:%Y-%m-%d}", "")
