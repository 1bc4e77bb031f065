"""A certificate authority for tests.

It exists in memory only and its own key is an ordinary software key: nothing outside a test may ever trust it.
The keys that it certifies stay where they are, because :meth:`Authority.issue` takes a certificate signing request.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tokenauth.errors import TokenAuthError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

    _PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

__all__ = ["Authority"]

_CLOCK_SKEW = timedelta(hours=1)
_LEAF_LIFETIME = timedelta(days=30)
_CA_LIFETIME = timedelta(days=365)

_KEY_TYPES: Mapping[str, Callable[[], _PrivateKey]] = {
    "ec": lambda: ec.generate_private_key(ec.SECP256R1()),
    "rsa": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
}


@dataclass(frozen=True)
class _Purpose:
    """What a certificate's extensions say about the use of its key (RFC 5280 sections 4.2.1.3 and 4.2.1.12)."""

    key_usage: str
    extended_key_usage: tuple[x509.ObjectIdentifier, ...] = ()


_PURPOSES: Mapping[str, _Purpose] = {
    "tls-client": _Purpose("digital_signature", (ExtendedKeyUsageOID.CLIENT_AUTH,)),
    "tls-server": _Purpose("digital_signature", (ExtendedKeyUsageOID.SERVER_AUTH,)),
    "document": _Purpose("content_commitment"),
}


class Authority:
    """A throw-away certificate authority (CA), a root one or one below another.

    Its certificates pass ``ssl.VERIFY_X509_STRICT``, which Python sets by default from 3.13 on. The CA certificate
    itself is valid from one hour ago for a year.

    Args:
        common_name: the CN of the CA, which is its whole subject.
        key_type: the CA's own key, ``"ec"`` (P-256) or ``"rsa"`` (2048 bits).
        parent: the CA that issues this one's certificate; None makes a self-signed root.

    Attributes:
        certificate: the CA certificate.
        parent: the CA above, or None.

    Raises:
        ValueError: ``key_type`` is unknown.
    """

    def __init__(
        self, common_name: str = "tokenauth test CA", key_type: str = "ec", parent: Authority | None = None
    ) -> None:
        self.parent = parent
        self._key = _generate_key(key_type)
        now = _now()
        usage = x509.KeyUsage(**_key_usage("key_cert_sign", "crl_sign"))
        builder = (
            _builder(_common_name(common_name), self._key.public_key(), now - _CLOCK_SKEW, now + _CA_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
        )
        if parent is None:
            self.certificate = _sign(builder, _common_name(common_name), self._key)
        else:
            self.certificate = parent._certify(builder)

    def __repr__(self) -> str:
        return f"<Authority {self.certificate.subject.rfc4514_string()}>"

    @property
    def pem(self) -> bytes:
        """This CA's own certificate in PEM, without those above it."""
        return _pem(self.certificate)

    @property
    def root(self) -> Authority:
        """The self-signed CA at the top: the one that the other side of a connection must trust."""
        return self if self.parent is None else self.parent.root

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """What the owner of a certificate from this CA sends along with it (RFC 8446 section 4.4.2).

        This CA's certificate, then those above it, without the root; so a root CA's chain is empty.
        """
        return () if self.parent is None else (self.certificate, *self.parent.chain)

    def intermediate(self, common_name: str = "tokenauth test intermediate CA", key_type: str = "ec") -> Authority:
        """Makes a CA below this one.

        Args:
            common_name: the CN of the new CA.
            key_type: its key, ``"ec"`` or ``"rsa"``.

        Returns:
            The new CA, whose ``parent`` is this one.

        Raises:
            ValueError: ``key_type`` is unknown.
        """
        return Authority(common_name, key_type, parent=self)

    def issue(
        self,
        csr: x509.CertificateSigningRequest,
        *,
        purposes: Sequence[str] = ("tls-client",),
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        subject_alternative_names: Sequence[str | x509.GeneralName] = (),
    ) -> x509.Certificate:
        """Issues an end-entity certificate for the key in a certificate signing request (CSR).

        The subject and the public key are the CSR's. Extensions that the CSR asks for are ignored.

        Args:
            csr: the request, signed by the key that it names.
            purposes: one or more of ``"tls-client"``, ``"tls-server"`` and ``"document"``; the certificate carries
                the key usages and extended key usages of all of them.
            not_before: start of the validity, time-zone aware; by default an hour ago, or an hour before ``not_after``
                if that is earlier.
            not_after: end of the validity, time-zone aware; by default 30 days from now, or 30 days after
                ``not_before`` if that is later.
            subject_alternative_names: IP addresses and DNS names as strings, any other kind as a ``GeneralName``.

        Returns:
            The certificate.

        Raises:
            TokenAuthError: the CSR's signature does not verify.
            ValueError: ``purposes`` is empty or has an unknown one, or the validity ends before it starts.
        """
        if not csr.is_signature_valid:
            raise TokenAuthError(
                f"the certificate signing request for {csr.subject.rfc4514_string()!r} has a signature that does not "
                "verify with the public key in it",
                hint="sign the request with the private key of that public key",
            )
        builder = _builder(csr.subject, csr.public_key(), *_validity(not_before, not_after))
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = _with_purposes(builder, purposes)
        if subject_alternative_names:
            names = x509.SubjectAlternativeName([_general_name(name) for name in subject_alternative_names])
            # RFC 5280 section 4.2.1.6: critical if the names are all that identifies the subject.
            builder = builder.add_extension(names, critical=not csr.subject.rdns)
        return self._certify(builder)

    def issue_server(self, names: Sequence[str], key_type: str = "ec") -> tuple[bytes, bytes]:
        """Makes a key in memory and a TLS server certificate for it.

        Args:
            names: the DNS names and IP addresses of the server, at least one; the first is also its CN.
            key_type: the server's key, ``"ec"`` or ``"rsa"``.

        Returns:
            The certificate followed by the :attr:`chain`, and the unencrypted private key (PKCS#8), both in PEM.

        Raises:
            ValueError: ``key_type`` is unknown or ``names`` is empty.
        """
        if not names:
            raise ValueError("a server certificate needs at least one name")
        key = _generate_key(key_type)
        csr = x509.CertificateSigningRequestBuilder().subject_name(_common_name(names[0])).sign(key, hashes.SHA256())
        certificate = self.issue(csr, purposes=("tls-server",), subject_alternative_names=names)
        key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return b"".join(_pem(link) for link in (certificate, *self.chain)), key_pem

    def _certify(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        return _sign(builder, self.certificate.subject, self._key)


def _sign(builder: x509.CertificateBuilder, issuer: x509.Name, key: _PrivateKey) -> x509.Certificate:
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    return builder.issuer_name(issuer).add_extension(identifier, critical=False).sign(key, hashes.SHA256())


def _builder(
    subject: x509.Name, public_key: CertificatePublicKeyTypes, not_before: datetime, not_after: datetime
) -> x509.CertificateBuilder:
    """What all certificates have in common, whoever issues them."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _with_purposes(builder: x509.CertificateBuilder, purposes: Sequence[str]) -> x509.CertificateBuilder:
    unknown = [purpose for purpose in purposes if purpose not in _PURPOSES]
    if unknown or not purposes:
        raise ValueError(f"purposes are one or more of {', '.join(_PURPOSES)}, not {', '.join(unknown) or 'none'}")
    chosen = [_PURPOSES[purpose] for purpose in purposes]
    usage = x509.KeyUsage(**_key_usage(*(purpose.key_usage for purpose in chosen)))
    builder = builder.add_extension(usage, critical=True)
    extended = dict.fromkeys(oid for purpose in chosen for oid in purpose.extended_key_usage)
    return builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False) if extended else builder


def _key_usage(*usages: str) -> dict[str, bool]:
    """Arguments for ``x509.KeyUsage``, which wants each of the nine bits named."""
    bits = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement "
        "key_cert_sign crl_sign encipher_only decipher_only"
    )
    return {bit: bit in usages for bit in bits.split()}


def _validity(not_before: datetime | None, not_after: datetime | None) -> tuple[datetime, datetime]:
    now = _now()
    return (
        not_before or min(now, not_after or now) - _CLOCK_SKEW,
        not_after or max(now, not_before or now) + _LEAF_LIFETIME,
    )


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)  # certificates count whole seconds


def _generate_key(key_type: str) -> _PrivateKey:
    if key_type not in _KEY_TYPES:
        raise ValueError(f"key_type is one of {', '.join(_KEY_TYPES)}, not {key_type}")
    return _KEY_TYPES[key_type]()


def _common_name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(name: str | x509.GeneralName) -> x509.GeneralName:
    if isinstance(name, x509.GeneralName):
        return name
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)
