"""What a YubiKey says of a key that was made in it (developers.yubico.com/PIV/Introduction/PIV_attestation.html)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support import common_name

if TYPE_CHECKING:
    from tests.support.piv.keys import Key
    from tests.support.piv.profile import Profile

__all__ = ["attestation"]

_FIRMWARE = x509.ObjectIdentifier("1.3.6.1.4.1.41482.3.3")
_SERIAL = x509.ObjectIdentifier("1.3.6.1.4.1.41482.3.7")


def attestation(slot: int, key: Key, attestor: Key, issuer: bytes, profile: Profile) -> bytes:
    """A certificate (DER) for a slot's key, signed with the card's own key in slot F9.

    Args:
        slot: the slot's number.
        key: what is in it.
        attestor: the key in slot F9.
        issuer: its certificate, DER.
        profile: the card's.
    """
    above = x509.load_der_x509_certificate(issuer)
    serial = (profile.serial or 0).to_bytes(4, "big")
    builder = (
        x509.CertificateBuilder()
        .subject_name(common_name(f"YubiKey PIV Attestation {slot:x}"))
        .issuer_name(above.subject)
        .public_key(key.private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(above.not_valid_before_utc)
        .not_valid_after(above.not_valid_after_utc)
        .add_extension(x509.UnrecognizedExtension(_FIRMWARE, bytes(profile.version or ())), critical=False)
        .add_extension(x509.UnrecognizedExtension(_SERIAL, b"\x02\x04" + serial), critical=False)
    )
    return builder.sign(attestor.private, hashes.SHA256()).public_bytes(Encoding.DER)
