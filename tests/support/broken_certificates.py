"""Certificates that are none, or hardly: what may lie on a token."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x448, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID, ObjectIdentifier

from tokenauth.pkcs11.binding import python_pkcs11
from tokenauth.provisioning.keys import store_object
from tokenauth.testing import SoftToken

__all__ = ["broken_certificates", "good_certificate", "store"]

_KEY = ec.generate_private_key(ec.SECP256R1())
_SERIAL = 0x1A2B3C4D5E6F7788


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def good_certificate(public_key: Any = None, *extensions: tuple[x509.ExtensionType, bool]) -> bytes:
    """DER of a certificate that is in order, or has these extensions."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name("broken"))
        .issuer_name(_name("nobody"))
        .public_key(public_key or _KEY.public_key())
        .serial_number(_SERIAL)
        .not_valid_before(datetime.now(UTC) - timedelta(hours=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=30))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(_KEY, hashes.SHA256()).public_bytes(Encoding.DER)


def _patched(der: bytes, old: bytes, new: bytes) -> bytes:
    assert old in der
    assert len(old) == len(new)
    return der.replace(old, new)


def _unrecognized(oid: str, value: bytes) -> tuple[x509.ExtensionType, bool]:
    return x509.UnrecognizedExtension(ObjectIdentifier(oid), value), False


def _keys() -> dict[str, Any]:
    """Kinds of keys that no token of ours signs with."""
    return {
        "dsa": dsa.generate_private_key(1024).public_key(),
        "ed448": ed448.Ed448PrivateKey.generate().public_key(),
        "ed25519": ed25519.Ed25519PrivateKey.generate().public_key(),
        "x25519": x25519.X25519PrivateKey.generate().public_key(),
        "x448": x448.X448PrivateKey.generate().public_key(),
        "brainpool": ec.generate_private_key(ec.BrainpoolP256R1()).public_key(),
        "secp256k1": ec.generate_private_key(ec.SECP256K1()).public_key(),
        "rsa-1024": rsa.generate_private_key(65537, 1024).public_key(),
    }


def broken_certificates() -> dict[str, bytes]:
    """By a label that says what is wrong: DER, or what stands in its place."""
    good = good_certificate()
    point = _KEY.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    serial = bytes([0x02, 0x08]) + _SERIAL.to_bytes(8, "big")
    not_after = next(good[at : at + 15] for at in range(len(good)) if good[at : at + 2] == b"\x17\x0d" and at > 60)
    usage = x509.KeyUsage(True, *[False] * 8)
    with_usage = good_certificate(None, (usage, True))
    key_usage = bytes.fromhex("0603551d0f")
    ecdsa, unknown = bytes.fromhex("06082a8648ce3d040302"), bytes.fromhex("06082a8648ce3d04037f")
    return {
        "one byte": b"\x30",
        "zeros": bytes(64),
        "text": b"no certificate at all",
        "pem": b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
        "random": os.urandom(4096),
        "large": b"\x30\x84\x00\x0f\xff\xf0" + bytes(0xFFFF0),
        "larger than we read": b"\x30\x84\x00\x20\x00\x00" + bytes(0x200000),
        "half": good[: len(good) // 2],
        "one byte short": good[:-1],
        "one byte more": good + b"\0",
        "twice": good * 2,
        "claims 4 GB": b"\x30\x84\xff\xff\xff\xff" + good[4:],
        "claims 2^63": b"\x30\x88\x7f\xff\xff\xff\xff\xff\xff\xff" + good[4:],
        "indefinite length": b"\x30\x80" + good[4:] + b"\0\0",
        "nested deeply": b"\x30\x80" * 20000,
        "empty sequence": b"\x30\x00",
        "negative serial": _patched(good, serial, serial[:2] + b"\xff" + serial[3:]),
        "zero serial": _patched(good, serial, serial[:2] + bytes(8)),
        "empty serial": good.replace(serial, b"\x02\x00"),
        "month 13": _patched(good, not_after, b"\x17\x0d991332256199Z"),
        "date of words": _patched(good, not_after, b"\x17\x0dtomorrow, 1 pm"[:15]),
        "version 9": _patched(good, b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x08"),
        "unknown key type": _patched(good, bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06072a8648ce3d027f")),
        "unknown curve": _patched(good, bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d03017f")),
        "point not on the curve": _patched(good, point, b"\x04" + b"\x01" * 64),
        "point of no kind": _patched(good, point, b"\x09" * 65),
        "unknown signature": _patched(good, ecdsa, unknown),
        "name not UTF-8": _patched(good, b"broken", b"\xff\xfe\xfd\xfc\xfb\xfa"),
        "name that commands a terminal": _patched(good, b"broken", b"\x1b[31m\n"),
        "garbage key usage": good_certificate(None, _unrecognized("2.5.29.15", b"\xff\xff")),
        "garbage extended usage": good_certificate(None, _unrecognized("2.5.29.37", b"\x30\x03\x06\x01\x80")),
        "garbage constraints": good_certificate(None, _unrecognized("2.5.29.19", b"garbage")),
        "garbage names": good_certificate(None, _unrecognized("2.5.29.17", b"\x30\x02\x82\x7f")),
        "unknown critical extension": good_certificate(
            None, (x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b""), True)
        ),
        "extension twice": _patched(
            good_certificate(None, (usage, True), _unrecognized("2.5.29.14", b"\x04\x00")),
            bytes.fromhex("0603551d0e"),
            key_usage,
        ),
        "usage of no bits": _patched(with_usage, bytes.fromhex("03020780"), bytes.fromhex("03020700")),
        **{f"key {name}": good_certificate(key) for name, key in _keys().items()},
    }


def store(token: SoftToken, label: str, value: bytes, id: bytes) -> None:
    """Put a certificate object on a token, whatever its value is."""
    pkcs11 = python_pkcs11()
    attribute = pkcs11.Attribute
    template = {
        attribute.CLASS: pkcs11.ObjectClass.CERTIFICATE,
        attribute.CERTIFICATE_TYPE: pkcs11.CertificateType.X_509,
        attribute.TOKEN: True,
        attribute.PRIVATE: False,
        attribute.LABEL: label,
        attribute.ID: id,
        attribute.SUBJECT: b"\x30\x00",
        attribute.VALUE: value,
    }
    store_object(token.token, token.credentials, template)
