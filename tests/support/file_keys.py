"""Ordinary key files of every kind, to compare with and to be undisturbed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support import common_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tokenauth.testing.authority import Authority

__all__ = ["MAKERS", "file_pair"]

MAKERS: dict[str, Callable[[], Any]] = {
    "rsa": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ec": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}


def file_pair(authority: Authority, directory: Path, kind: str, purpose: str) -> tuple[Path, bytes, bytes]:
    """A certificate (with chain) and its key: in one PEM file, and each by itself in PEM.

    Args:
        authority: issues the certificate, for ``localhost`` if it is a server's.
        directory: where the file goes.
        kind: ``rsa``, ``ec`` or ``ed25519``.
        purpose: ``tls-client`` or ``tls-server``.
    """
    key = MAKERS[kind]()
    algorithm = None if kind == "ed25519" else hashes.SHA256()
    request = x509.CertificateSigningRequestBuilder().subject_name(common_name(f"file-{kind}")).sign(key, algorithm)
    names = ("localhost",) if purpose == "tls-server" else ()
    certificate = authority.issue(request, purposes=(purpose,), subject_alternative_names=names)
    certificates = b"".join(link.public_bytes(Encoding.PEM) for link in (certificate, *authority.chain))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pair = directory / f"{purpose}-{kind}.pem"
    pair.touch(mode=0o600)
    pair.write_bytes(private + certificates)
    return pair, certificates, private
