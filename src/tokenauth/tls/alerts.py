"""What a peer means by the alert with which it ends a TLS connection (RFC 8446 section 6.2)."""

from __future__ import annotations

from tokenauth._records import Record

__all__ = ["Meaning", "meaning_of"]


class Meaning(Record):
    """An alert in words.

    Args:
        message: what the peer says.
        hint: what to do about it.
    """

    message: str
    hint: str


_UNTRUSTED = Meaning(
    "the server does not trust the issuer of your certificate",
    "ask its operator which CAs it accepts, and name an identity that one of them issued",
)
_REFUSED = Meaning(
    "the server refused your certificate", "check with its operator that this certificate is registered there"
)
#: By the end of OpenSSL's reason, behind ``SSLV3_ALERT_``, ``TLSV1_ALERT_`` or ``TLSV13_ALERT_``.
_MEANINGS = {
    "UNKNOWN_CA": _UNTRUSTED,
    "BAD_CERTIFICATE": _REFUSED,
    "CERTIFICATE_UNKNOWN": _REFUSED,
    "ACCESS_DENIED": _REFUSED,
    "UNSUPPORTED_CERTIFICATE": Meaning(
        "the server does not take certificates of this kind", "name an identity with another type of key"
    ),
    "CERTIFICATE_REVOKED": Meaning("the server says that your certificate was revoked", "have a new one issued"),
    "CERTIFICATE_EXPIRED": Meaning("the server says that your certificate has expired", "have a new one issued"),
    "CERTIFICATE_REQUIRED": Meaning(
        "the server demands a certificate and got none", "name an identity that this server accepts"
    ),
    "DECRYPT_ERROR": Meaning(
        "the server could not verify your signature", "check that key and certificate on the token belong together"
    ),
    "HANDSHAKE_FAILURE": Meaning(
        "the server found no common way to speak TLS, or demands another certificate",
        "check which TLS versions and which certificates it accepts",
    ),
    "PROTOCOL_VERSION": Meaning("the server does not speak this version of TLS", "allow the version that it speaks"),
}


def meaning_of(reason: str | None) -> Meaning | None:
    """An alert's meaning.

    Args:
        reason: :attr:`ssl.SSLError.reason`, such as ``TLSV1_ALERT_UNKNOWN_CA``.

    Returns:
        None if that is no alert from the peer, or one that says nothing to a user.
    """
    _, found, name = (reason or "").partition("_ALERT_")
    return _MEANINGS.get(name) if found else None
