"""Whom to trust: certificates in files, the system's store, EU trusted lists.

Nothing in a signed document ever adds to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tokenauth._records import Record
from tokenauth.signing.refusals import DocumentError

if TYPE_CHECKING:
    import datetime
    from collections.abc import Iterable

    from asn1crypto import x509

__all__ = ["Anchor", "Trust", "load_trust", "system_trust"]

_MAXIMUM_BYTES = 64 * 1024 * 1024
_PEM_MARK = b"-----BEGIN "


class Anchor(Record):
    """A certificate whose holder is trusted.

    Args:
        certificate: DER.
        purposes: some of ``signer`` (issues signers' certificates) and ``timestamp``.
        since: trusted for what was signed from then on; None: from ever.
        until: trusted for what was signed before; None: for ever.
        caveat: what is to be said when the trust rests on it, or empty.
    """

    certificate: bytes
    purposes: frozenset[str] = frozenset({"signer", "timestamp"})
    since: datetime.datetime | None = None
    until: datetime.datetime | None = None
    caveat: str = ""

    def holds(self, purpose: str, moment: datetime.datetime) -> bool:
        """Whether it is trusted for a purpose at a time."""
        begun = self.since is None or self.since <= moment
        return purpose in self.purposes and begun and (self.until is None or moment < self.until)


class Trust(Record):
    """What verification relies on.

    Args:
        anchors: who is trusted.
        others: certificates for building chains, DER, not trusted for themselves.
        crls: revocation lists, DER, whose signatures are checked when they are used.
        ocsps: OCSP responses, DER; likewise.
        online: OCSP responses, CRLs and issuers' certificates may be fetched from where the certificates say.
        asks: OCSP responses and CRLs may be fetched, but only for certificates that a trusted one leads to: what is
            fetched then is nobody's choice but theirs.
    """

    anchors: tuple[Anchor, ...] = ()
    others: tuple[bytes, ...] = ()
    crls: tuple[bytes, ...] = ()
    ocsps: tuple[bytes, ...] = ()
    online: bool = False
    asks: bool = False

    def trusted(self, purpose: str, moment: datetime.datetime) -> list[Anchor]:
        """The anchors that hold for a purpose at a time, each certificate once; without caveat first."""
        holding = [anchor for anchor in self.anchors if anchor.holds(purpose, moment)]
        return list({anchor.certificate: anchor for anchor in sorted(holding, key=lambda one: not one.caveat)}.values())


def load_trust(
    files: Iterable[str | Path],
    *,
    system: bool = False,
    list_signers: Iterable[str | Path] = (),
    online: bool = False,
    asks: bool = False,
) -> Trust:
    """Trust in what some files hold.

    Args:
        files: certificates (PEM, any number in a file, or DER), CRLs (likewise), or EU trusted lists (ETSI TS 119 612).
        system: the system's certificates too.
        list_signers: files with the certificates that may have signed the trusted lists. Without one for a list, what
            rests on it says that the list itself was not checked.
        online: as :class:`Trust` has it.
        asks: as :class:`Trust` has it.

    Raises:
        DocumentError: a file can not be read or holds nothing of that kind, or a trusted list's signature is wrong.
    """
    signers = [der for file in list_signers for der in _certificates(_content(file), file)]
    total = Trust(online=online, asks=asks)
    for file in files:
        part = _part(_content(file), file, signers)
        total = Trust(total.anchors + part.anchors, (), total.crls + part.crls, (), online, asks)
    return total._replace(anchors=total.anchors + system_trust()) if system else total


def _part(content: bytes, file: str | Path, signers: list[bytes]) -> Trust:
    if content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        from tokenauth.signing.verification.trusted_lists import read_trusted_list

        return Trust(read_trusted_list(content, Path(file).name, signers))
    crls = _crls(content, file)
    if crls and b"CERTIFICATE-----" not in content:
        return Trust(crls=crls)
    return Trust(tuple(Anchor(der) for der in _certificates(content, file)), crls=crls)


def _crls(content: bytes, file: str | Path) -> tuple[bytes, ...]:
    """The CRLs in a file, DER; none if it is for something else."""
    from asn1crypto import pem
    from cryptography import x509

    try:
        if b"-----BEGIN X509 CRL-----" not in content:
            x509.load_der_x509_crl(content)
            return (content,)
        found = tuple(der for kind, _, der in pem.unarmor(content, multiple=True) if kind == "X509 CRL")
        for der in found:
            x509.load_der_x509_crl(der)
    except ValueError as error:
        if _PEM_MARK in content and b"-----BEGIN X509 CRL-----" in content:
            raise DocumentError(f"{file} holds a CRL that can not be read: {str(error)[:200]}") from None
        return ()
    return found


def _content(file: str | Path) -> bytes:
    try:
        with Path(file).open("rb") as stream:
            content = stream.read(_MAXIMUM_BYTES + 1)
    except OSError as error:
        raise DocumentError(f"{file} can not be read: {error.strerror or error}") from None
    if len(content) > _MAXIMUM_BYTES:
        raise DocumentError(f"{file} is too large for certificates or a trusted list")
    return content


def _certificates(content: bytes, file: str | Path) -> list[bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        if _PEM_MARK in content:
            read = x509.load_pem_x509_certificates(content)
        else:
            read = [x509.load_der_x509_certificate(content)]
    except ValueError as error:
        raise DocumentError(
            f"{file} holds no certificates: {str(error)[:200]}",
            hint="give certificates in PEM or DER, or an EU trusted list (XML)",
        ) from None
    return [certificate.public_bytes(Encoding.DER) for certificate in read]


def system_trust() -> tuple[Anchor, ...]:
    """The certificates that the system trusts.

    These stores are made for TLS servers; few issuers of signing certificates are among them.
    """
    import ssl

    context = ssl.create_default_context()
    # On Linux the certificates of a directory are loaded at use only; the file has them all.
    return tuple(Anchor(der) for der in context.get_ca_certs(binary_form=True))


def parsed(der: bytes) -> x509.Certificate:
    """asn1crypto's certificate."""
    from asn1crypto import x509

    return x509.Certificate.load(der)
