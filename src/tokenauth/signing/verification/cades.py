"""CAdES: CMS signatures with their content inside (.p7m) or beside them (.p7s)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import TYPE_CHECKING, Any, BinaryIO

from tokenauth._records import Record
from tokenauth.signing.verification import cms, cms_levels
from tokenauth.signing.verification.algorithms import digester
from tokenauth.signing.verification.assessment import Signature, failed, signer_name
from tokenauth.signing.verification.evidence import Evidence
from tokenauth.signing.verification.verdicts import Broken, Doubtful, Finding

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenauth.signing.model import SignatureReport
    from tokenauth.signing.verification.stamps import Stamp

__all__ = ["Content", "as_der", "is_cms", "signatures"]

_STEP = 1 << 20
_SIGNED_DATA = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02"
_PEM = re.compile(rb"\s*-----BEGIN (PKCS7|CMS)-----\s*([A-Za-z0-9+/=\s]+)-----END \1-----\s*", re.ASCII)


class Content:
    """What is signed; each digest of it is computed once.

    Args:
        open_stream: opens it as a binary stream.
    """

    def __init__(self, open_stream: Callable[[], BinaryIO]) -> None:
        self._open = open_stream
        self._digests: dict[str, bytes] = {}

    def digest(self, name: str) -> bytes:
        """Its digest by hashlib's name; read in pieces."""
        if name not in self._digests:
            made = digester(name)
            with self._open() as stream:
                while piece := stream.read(_STEP):
                    made.update(piece)
            self._digests[name] = made.digest()
        return self._digests[name]


class _Message(Record):
    """A CMS message.

    Args:
        signed: asn1crypto's ``SignedData``.
        kind: the type of its content.
        content: which it is over.
        evidence: what it brings along.
    """

    signed: Any
    kind: str
    content: Content
    evidence: Evidence


def is_cms(data: bytes) -> bool:
    """Whether it begins as a CMS signature does, in DER, BER or PEM."""
    return (data[:1] == b"\x30" and _SIGNED_DATA in data[:32]) or bool(
        re.match(rb"\s*-----BEGIN (PKCS7|CMS)-----", data)
    )


def as_der(data: bytes) -> bytes:
    """The message without its PEM armour.

    Raises:
        Broken: the armour is damaged.
    """
    if data[:1] == b"\x30":
        return data
    matched = _PEM.fullmatch(data)
    try:
        text = b"".join(matched[2].split()) if matched else b"?"
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Broken("the signature's PEM is damaged") from None
    if base64.b64encode(decoded) != text:
        raise Broken("the signature's PEM is damaged")
    return decoded


def signatures(
    data: bytes, content: Content | None, covers: tuple[str, ...], format: str = "cades"
) -> list[Signature | SignatureReport]:
    """The signatures of a CMS message; a report for each that is not good already.

    Args:
        data: the message, DER.
        content: what is beside it, or None if it has to be inside.
        covers: what reports say is covered.
        format: what reports call the format.

    Raises:
        Broken: it is no such message.
        Doubtful: it has no content to check.
    """
    signed = cms.read_signed_data(data, "the signature")
    kind, content = _content(signed, content)
    message = _Message(signed, kind, content, cms.evidence_of(signed))
    return [_signature(message, info, covers, format) for info in signed["signer_infos"]]


def _content(signed: Any, beside: Content | None) -> tuple[str, Content]:
    import io

    inside = signed["encap_content_info"]
    kind = inside["content_type"].native
    value = inside["content"]
    if value is None or value.native is None:
        if beside is None:
            raise Doubtful("the signature is detached, and the file that it is for is not beside it")
        return kind, beside
    octets = getattr(value, "contents", None) if not hasattr(value, "_as_chunk") else bytes(value)
    if not isinstance(octets, bytes):
        raise Broken("the signed content can not be read")
    if beside is not None and beside.digest("sha256") != hashlib.sha256(octets).digest():
        raise Broken("the signature holds another content than the file beside it")
    return kind, Content(lambda: io.BytesIO(octets))


def _signature(message: _Message, info: Any, covers: tuple[str, ...], format: str) -> Signature | SignatureReport:
    signed, kind, content, evidence = message
    try:
        signer = cms.check_signer(info, evidence.certificates, kind, content.digest)
    except Finding as problem:
        return failed(format, problem, covers=covers, signer=_likely_signer(info, evidence))
    problems: list[Finding] = []
    archive: tuple[Stamp, ...] = ()
    try:
        evidence += cms_levels.evidence_beside(info)
        archive = cms_levels.archive_stamps(signed, info, content.digest)
    except Finding as problem:
        problems.append(problem)
    return Signature(
        format=format,
        certificate=signer.certificate,
        evidence=evidence,
        covers=covers,
        claimed=signer.claimed,
        baseline=signer.names_certificate,
        stamps=cms_levels.signature_stamps(info),
        archive=archive,
        problems=tuple(problems),
    )


def _likely_signer(info: Any, evidence: Evidence) -> str:
    """The name in the certificate that a failed signature points to; nothing has proven it."""
    try:
        return signer_name(cms.signer_certificate(info, evidence.certificates))
    except (Finding, ValueError, TypeError, KeyError):
        return ""
