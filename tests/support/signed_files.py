"""Signed files to be verified: made by our own signers with keys in memory, and by other programs."""

from __future__ import annotations

import datetime
import importlib
import io
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support import common_name
from tokenauth.signing.model import Document, Job, Options, SigningKey
from tokenauth.signing.schemes import digest_for
from tokenauth.signing.verification import Anchor, Trust, verify
from tokenauth.testing import Authority

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenauth.signing.model import FileReport, Means

__all__ = [
    "FORMATS",
    "Case",
    "Pki",
    "certified",
    "key_pem",
    "made",
    "pdf",
    "pki",
    "trusting",
    "verified",
    "with_changes",
]

_MAKERS: dict[str, Any] = {
    "rsa2048": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}


class Case(NamedTuple):
    """A way to sign.

    Args:
        module: of :mod:`tokenauth.signing`.
        format: its format.
        options: what is asked of it.
        document: what is signed.
    """

    module: str
    format: str
    options: Options
    document: Document


XML = b"<order xmlns='urn:example'><item id='1'>ten apples</item><!-- none --><item id='2'>a pear</item></order>"


def _case(module: str, format: str, **options: Any) -> Case:
    data, name = {"pades": (pdf(), "order.pdf"), "xades": (XML, "order.xml")}.get(
        format, (b"ten apples and a pear\n" * 20, "order.txt")
    )
    return Case(module, format, Options(**options), Document(name, data=data))


@cache
def pdf() -> bytes:
    """A PDF with one page and some text."""
    from pyhanko.pdf_utils.generic import DictionaryObject, StreamObject, pdf_name
    from pyhanko.pdf_utils.writer import PageObject, PdfFileWriter

    writer = PdfFileWriter()
    content = writer.add_object(StreamObject(stream_data=b"BT /F1 24 Tf 20 50 Td (ten apples) Tj ET"))
    font = DictionaryObject(
        {pdf_name(f"/{key}"): pdf_name(f"/{value}") for key, value in
         {"Type": "Font", "Subtype": "Type1", "BaseFont": "Helvetica"}.items()}
    )  # fmt: skip
    fonts = DictionaryObject({pdf_name("/F1"): font})
    resources = DictionaryObject({pdf_name("/Font"): fonts})
    writer.insert_page(PageObject(contents=content, media_box=(0, 0, 200, 100), resources=resources))
    written = io.BytesIO()
    writer.write(written)
    return written.getvalue()


FORMATS = {
    "pades": _case("pades", "pades"),
    "cades": _case("cades", "cades"),
    "cades attached": _case("cades", "cades", attached=True),
    "xades enveloped": _case("xades", "xades", packaging="enveloped"),
    "xades enveloping": _case("xades", "xades", packaging="enveloping"),
    "xades detached": _case("xades", "xades", packaging="detached"),
    "asice": _case("asic", "asice"),
    "asics": _case("asic", "asics"),
    "jws": _case("jws", "jws", attached=True),
    "jws detached": _case("jws", "jws", packaging="detached"),
}


class Pki(NamedTuple):
    """A root, an intermediate below it, and one key of each kind certified by that.

    Their certificates do not say where to learn of revocations.
    """

    root: Authority
    issuer: Authority
    keys: dict[str, SigningKey]

    @property
    def trust(self) -> Trust:
        return trusting(self.root.certificate)


@cache
def pki() -> Pki:
    root = Authority("verification root")
    issuer = root.intermediate("verification issuer")
    return Pki(root, issuer, {kind: certified(issuer, kind) for kind in _MAKERS})


def certified(issuer: Authority, kind: str = "p256", **how: Any) -> SigningKey:
    """A key in memory and its certificate.

    Args:
        issuer: the CA.
        kind: of key.
        how: for :meth:`Authority.issue`; purposes are ``document`` if nothing else is said.
    """
    key = _MAKERS[kind]()
    algorithm = None if kind == "ed25519" else hashes.SHA256()
    request = x509.CertificateSigningRequestBuilder().subject_name(common_name(f"signer {kind}")).sign(key, algorithm)
    certificate = issuer.issue(request, **{"purposes": ("document",), **how})
    return SigningKey(certificate, issuer.chain, key, digest_for(certificate))


def trusting(*certificates: x509.Certificate) -> Trust:
    return Trust(tuple(Anchor(one.public_bytes(Encoding.DER)) for one in certificates))


def made(name: str, key: SigningKey, level: str = "b-b", means: Means | None = None) -> bytes:
    """A file signed in one of :data:`FORMATS`."""
    case = FORMATS[name]
    job = Job(key, level, options=case.options, format=case.format)
    written = io.BytesIO()
    module = importlib.import_module(f"tokenauth.signing.{case.module}")
    module.sign([case.document], job if means is None else job._replace(means=means), written)
    return written.getvalue()


def verified(name: str, data: bytes, trust: Trust | None = None, at: datetime.datetime | None = None) -> FileReport:
    """The report on a file of one of :data:`FORMATS`, with what it is for beside it."""
    return verify(data, trust=trust or pki().trust, at=at, beside=[FORMATS[name].document])


def key_pem(key: SigningKey, directory: Path) -> tuple[Path, Path, Path]:
    """Files for other programs: the private key, its certificate, and its issuers."""
    paths = directory / "key.pem", directory / "certificate.pem", directory / "chain.pem"
    paths[0].touch(mode=0o600)
    paths[0].write_bytes(key.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    paths[1].write_bytes(key.certificate.public_bytes(Encoding.PEM))
    paths[2].write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in key.chain))
    return paths


def with_changes(data: bytes, places: int) -> Iterator[tuple[int, bytes]]:
    """A file with one byte changed, at places that are spread over it: the place, and the file.

    Every second time one bit of it, else all of it.
    """
    for number in range(places):
        place = number * len(data) // places
        changed = bytearray(data)
        changed[place] ^= 1 << (number // 2 % 8) if number % 2 else 1 + number * 89 % 255
        yield place, bytes(changed)
