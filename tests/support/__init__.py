"""What several tests need: real servers, programs, and clients whose keys are files."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from tokenauth.testing.authority import Authority


def common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def signing_request(subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateSigningRequest:
    return x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())


def client_pair(
    authority: Authority, directory: Path, name: str = "client", *, not_after: datetime | None = None
) -> Path:
    """A PEM file, readable by its owner only, with a client's EC key, its certificate and the authority's chain."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = authority.issue(signing_request(common_name(name), key), not_after=not_after)
    pair = directory / f"{name}.pem"
    pair.touch(mode=0o600)
    pem = [key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())]
    pem += [link.public_bytes(Encoding.PEM) for link in (certificate, *authority.chain)]
    pair.write_bytes(b"".join(pem))
    return pair


def client_context(cafile: str, pair: Path | None = None) -> ssl.SSLContext:
    """An ordinary client, as strict about certificates as Python 3.13, with the key in `pair` or none."""
    context = ssl.create_default_context(cafile=cafile)
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    if pair is not None:
        context.load_cert_chain(pair)
    return context


def read_to_end(connection: ssl.SSLSocket) -> bytes:
    """All that the other side sends until it closes."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)
