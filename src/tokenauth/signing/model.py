"""What every format of signed documents takes and gives: documents, a key, means, options; and reports.

Each format is a module with one function, ``sign(documents, job, target)``: it writes the signed file to ``target``, a
binary stream, and knows nothing of tokens, paths and PINs.
"""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, Any, BinaryIO

from tokenauth._records import Record

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path
    from typing import Protocol

    from cryptography import x509

    class Format(Protocol):
        """A module that makes one format."""

        def sign(self, documents: Sequence[Document], job: Job, target: BinaryIO) -> None:
            """Write the signed file."""


__all__ = [
    "CERTIFICATIONS",
    "FORMATS",
    "INDETERMINATE",
    "INVALID",
    "LEVELS",
    "VALID",
    "Document",
    "FileReport",
    "Job",
    "Means",
    "Options",
    "SignatureReport",
    "SigningKey",
    "Visible",
]

#: The formats, by the names that ``--format`` takes.
FORMATS = ("pades", "cades", "xades", "asice", "asics", "jws")
#: The baseline levels (ETSI EN 319 142-1, 319 122-1, 319 132-1), lowest first: they compare by their index.
LEVELS = ("b-b", "b-t", "b-lt", "b-lta")
#: What may be done to a certified PDF later, by the names that ``--certify`` takes (ISO 32000-2 table 257).
CERTIFICATIONS = ("no-changes", "fill-forms", "annotate")

VALID, INVALID, INDETERMINATE = "valid", "invalid", "indeterminate"

_PIECE = 1 << 20


class Document(Record):
    """What is to be signed: a file or bytes.

    Args:
        name: the name by which a container or a message calls it; no directories in it.
        path: the file, or
        data: its content.
        mime: its media type (RFC 6838).
    """

    name: str
    path: Path | None = None
    data: bytes | None = None
    mime: str = "application/octet-stream"

    def open(self) -> BinaryIO:
        """Its content as a binary stream that can seek; the caller closes it.

        Raises:
            OSError: the file can not be read.
        """
        return io.BytesIO(self.data or b"") if self.path is None else self.path.open("rb")

    @property
    def size(self) -> int:
        """Bytes.

        Raises:
            OSError: the file is not there.
        """
        return len(self.data or b"") if self.path is None else self.path.stat().st_size

    def pieces(self) -> Iterator[bytes]:
        """Its content, of which never more than a MiB is in memory.

        Raises:
            OSError: the file can not be read.
        """
        with self.open() as stream:
            while piece := stream.read(_PIECE):
                yield piece

    def read(self) -> bytes:
        """The whole content. Only for formats that can not do with a stream.

        Raises:
            OSError: the file can not be read.
        """
        with self.open() as stream:
            return stream.read()

    def hash(self, digest: str) -> bytes:
        """The digest of its content, which is never in memory as a whole.

        Args:
            digest: hashlib's name of the hash.

        Raises:
            OSError: the file can not be read.
        """
        with self.open() as stream:
            return hashlib.file_digest(stream, digest).digest()  # type: ignore[arg-type]


class SigningKey(Record):
    """Whose signature it is, and how to make it.

    Args:
        certificate: the signer's.
        chain: its issuers as far as they are known, nearest first.
        private_key: one of cryptography's kind, most often a token's; None where only a digest is prepared.
        digest: hashlib's name of the hash that goes with the key.
        pss: RSA signatures are RSASSA-PSS (RFC 8017 section 8.1), with a salt as long as the digest.
    """

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    private_key: Any
    digest: str
    pss: bool = False

    @property
    def type(self) -> str:
        """``rsa``, ``ec`` or ``ed25519``."""
        from tokenauth.signing.schemes import key_type

        return key_type(self.certificate)

    def sign(self, data: bytes) -> bytes:
        """The raw signature of a message; logs in to the token if that is needed.

        Args:
            data: the message, which is hashed with :attr:`digest` (Ed25519: as it is).

        Returns:
            RSA: as long as the modulus. ECDSA: DER (RFC 3279 section 2.2.3). Ed25519: 64 bytes.

        Raises:
            PinError: the login failed.
            TokenAuthError: whatever else keeps it from signing.
        """
        from tokenauth.signing.schemes import sign_message

        return sign_message(self, data)

    def sign_digest(self, digest: bytes) -> bytes:
        """The raw signature of a message of which only the digest is known.

        Args:
            digest: made with :attr:`digest`.

        Returns:
            As :meth:`sign`.

        Raises:
            MechanismUnsupported: Ed25519 signs messages only.
            PinError: the login failed.
            TokenAuthError: whatever else keeps it from signing.
        """
        from tokenauth.signing.schemes import sign_prehashed

        return sign_prehashed(self, digest)


class Means(Record):
    """What may be used to prove when a signature was made and that its certificates were good then.

    Args:
        tsa: URL of a time-stamping authority (RFC 3161 section 3.4); None: none.
        fetch: OCSP responses, CRLs and issuers' certificates may be fetched from where the certificates say.
        extra: certificates for building chains, not trusted for themselves.
        trust: trust anchors.
        timeout: seconds that a server has to answer.
    """

    tsa: str | None = None
    fetch: bool = True
    extra: tuple[x509.Certificate, ...] = ()
    trust: tuple[x509.Certificate, ...] = ()
    timeout: float = 30.0


class Visible(Record):
    """A signature that can be seen on a PDF's page.

    Args:
        page: from 1 on; negative: from the end.
        x: of the left edge, from the page's left edge, in points (1/72 inch).
        y: of the lower edge, from the page's lower edge, in points.
        width: in points.
        height: in points.
        text: what it says; ``{signer}``, ``{time}``, ``{reason}`` and ``{location}`` are filled in.
        image: a picture behind the text.
        font: a TrueType or OpenType file, needed where the text goes beyond Latin-1.
    """

    page: int
    x: float
    y: float
    width: float
    height: float
    text: str = "Signed by {signer}\n{time}"
    image: Path | None = None
    font: Path | None = None


class Options(Record):
    """What may be asked of one format or the other; each takes what concerns it.

    Args:
        attached: the document is inside the signature (CAdES, JWS).
        packaging: of XAdES: ``enveloped``, ``enveloping`` or ``detached``.
        append: add a signature to an ASiC container that is there, instead of making one.
        allow_lower_level: a level that can not be reached (the time-stamping authority does not answer) is no error.
        reason: why it is signed.
        location: where it is signed.
        contact: how to reach the signer (PDF).
        field: the name of the PDF's signature field; None: the only empty one, or a new one.
        visible: where on the PDF it shows; None: nowhere.
        certify: what may be done to a certified PDF later: ``no-changes``, ``fill-forms`` or ``annotate``; None: the
            signature certifies nothing (ISO 32000-2 section 12.8.2.2).
        password: of an encrypted PDF. Never shown.
        moment: when it is signed, in UTC; None: now.
        identifier: of an XML signature; empty: a fresh one.
        headers: other parameters of the JWS header (RFC 7515 section 4): name, value.
    """

    attached: bool = False
    packaging: str = "enveloped"
    append: bool = False
    allow_lower_level: bool = False
    reason: str = ""
    location: str = ""
    contact: str = ""
    field: str | None = None
    visible: Visible | None = None
    certify: str | None = None
    password: str | None = None
    moment: datetime | None = None
    identifier: str = ""
    headers: tuple[tuple[str, Any], ...] = ()

    def __repr__(self) -> str:
        return f"<Options {', '.join(name for name in self._fields if getattr(self, name))}>"


class Job(Record):
    """One signature.

    Args:
        key: whose.
        level: one of :data:`LEVELS`.
        means: how to reach the level.
        options: what else is asked.
        format: one of :data:`FORMATS`, for modules that make two.
    """

    key: SigningKey
    level: str = "b-b"
    means: Means = Means()
    options: Options = Options()
    format: str = ""

    def reaches(self, level: str) -> bool:
        """Whether the level that is asked for is at least this one."""
        return LEVELS.index(self.level) >= LEVELS.index(level)


class SignatureReport(Record):
    """What is known of one signature.

    Args:
        status: :data:`VALID`, :data:`INVALID` or :data:`INDETERMINATE` (ETSI EN 319 102-1 section 5.1.3).
        reason: why, in one sentence; empty if it is valid and there is nothing to say.
        signer: the subject of the signer's certificate (RFC 4514), or empty.
        time: when it was made, as far as that is proved; else what the signer says.
        level: the one it reaches, of :data:`LEVELS`, or empty.
        format: one of :data:`FORMATS`.
        covers: what was signed, in words or names: files of a container, revisions of a PDF.
    """

    status: str
    reason: str = ""
    signer: str = ""
    time: datetime | None = None
    level: str = ""
    format: str = ""
    covers: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For ``verify --json``: the time is ISO 8601 in UTC."""
        return self._asdict() | {"time": self.time and self.time.isoformat(), "covers": list(self.covers)}


class FileReport(Record):
    """What is known of one file: its worst signature counts.

    Args:
        file: its path as given.
        status: of the file as a whole.
        signatures: in the order in which they were made, as far as that is known.
        reason: why the file is not valid if that is no signature's fault: it has none, it can not be read. For people:
            it is not in the JSON, where a file without signatures has an empty list.
    """

    file: str
    status: str
    signatures: tuple[SignatureReport, ...] = ()
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """For ``verify --json``."""
        signatures = [signature.as_json() for signature in self.signatures]
        return {"file": self.file, "status": self.status, "signatures": signatures}
