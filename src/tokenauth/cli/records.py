"""Tokens and identities as ``--json`` shows them; the pages for people are made from the same records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenauth.errors import IdentityNotFound

if TYPE_CHECKING:
    import datetime
    from collections.abc import Callable

    from cryptography import x509

    from tokenauth.inventory.identity import Identity
    from tokenauth.inventory.survey import TokenEntry

__all__ = ["identity_record", "token_record"]


def token_record(entry: TokenEntry) -> dict[str, Any]:
    """A token and its identities."""
    token = entry.token
    return {
        "module": entry.module.path,
        "slot": token.slot.id,
        "label": token.label,
        "serial": token.info.serial,
        "manufacturer": token.info.manufacturer,
        "model": token.info.model,
        "login_required": token.login_required,
        "pin_state": token.pin_state,
        "pin_pad": token.pin_pad,
        "identities": [identity_record(identity) for identity in entry.identities],
    }


def identity_record(identity: Identity) -> dict[str, Any]:
    """An identity. What can not be read of its certificate is None, and among its problems."""
    values, unreadable = _certificate_fields(identity)
    return {
        "uri": identity.uri,
        "label": identity.label,
        "id": identity.id.hex(),
        **values,
        "purposes": identity.purposes,
        "problems": _problems(identity) + unreadable,
    }


def _problems(identity: Identity) -> list[str]:
    try:
        return identity.problems
    except ValueError as error:  # a date that is none
        return [f"the certificate can not be read: {error}"]


def _certificate_fields(identity: Identity) -> tuple[dict[str, Any], list[str]]:
    from cryptography.exceptions import UnsupportedAlgorithm

    values: dict[str, Any] = dict.fromkeys(_FIELDS)
    problems = []
    try:
        certificate = identity.certificate
    except IdentityNotFound:  # it is among the identity's own problems
        return values, []
    for name, read in _FIELDS.items():
        try:
            values[name] = read(certificate)
        except (ValueError, UnsupportedAlgorithm) as error:
            if name == "key":  # it is among the identity's own problems
                continue
            problems.append(f"its {name.replace('_', ' ')} can not be read: {error}")
    return values, problems


def _key(public_key: Any) -> dict[str, Any]:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(public_key, rsa.RSAPublicKey):
        return {"type": "rsa", "bits": public_key.key_size, "curve": None}
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return {"type": "ec", "bits": public_key.key_size, "curve": public_key.curve.name}
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        return {"type": "ed25519", "bits": 256, "curve": None}
    raise ValueError("it is neither RSA, EC nor Ed25519")


def _utc(time: datetime.datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


_FIELDS: dict[str, Callable[[x509.Certificate], Any]] = {
    "subject": lambda certificate: certificate.subject.rfc4514_string(),
    "issuer": lambda certificate: certificate.issuer.rfc4514_string(),
    "serial": lambda certificate: f"{certificate.serial_number:x}",
    "not_before": lambda certificate: _utc(certificate.not_valid_before_utc),
    "not_after": lambda certificate: _utc(certificate.not_valid_after_utc),
    "key": lambda certificate: _key(certificate.public_key()),
}
