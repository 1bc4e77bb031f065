"""Signing in two steps: one place prepares what is to be signed, the key signs it elsewhere, the first place completes.

A web application has the document and the signer's certificate, and the card is in somebody else's reader.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from tokenauth._records import Record
from tokenauth.errors import SigningFailed, TokenAuthError
from tokenauth.inventory.certificates import encoded
from tokenauth.signing.files import written
from tokenauth.signing.formats import load
from tokenauth.signing.model import Document, Job, Means, Options, SigningKey
from tokenauth.signing.operations import check, plan
from tokenauth.signing.schemes import key_for, verify_message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tokenauth.signing.files import Source
    from tokenauth.signing.operations import Task

__all__ = ["Prepared", "complete", "prepare"]


class Prepared(Record):
    """A signature that waits for its key.

    Args:
        to_sign: the message that the key signs.
        algorithm: hashlib's name of the hash that goes with the key.
        padding: ``pkcs1`` or ``pss`` (RSA), ``ecdsa``, or ``eddsa``.
        state: what :func:`complete` needs, JSON. It holds the document, and a PDF's password: keep it where only your
            own program can read and change it.
    """

    to_sign: bytes
    algorithm: str
    padding: str
    state: bytes

    @property
    def digest(self) -> bytes:
        """The digest of the message, for cards that sign digests."""
        return hashlib.new(self.algorithm, self.to_sign).digest()

    def __repr__(self) -> str:
        return f"<Prepared {self.algorithm} {self.padding} {self.digest.hex()}>"


def prepare(
    source: Source,
    certificate: x509.Certificate,
    *,
    chain: Sequence[x509.Certificate] = (),
    pss: bool | None = None,
    **arguments: Any,
) -> Prepared:
    """Find out what a key must sign so that a document is signed.

    Args:
        source: as in :func:`tokenauth.signing.sign`.
        certificate: the signer's.
        chain: its issuers, nearest first.
        pss: as in :func:`tokenauth.signing.sign`.
        **arguments: the others of :func:`tokenauth.signing.sign` that are not about the token or the output.

    Returns:
        The message, its digest, and what :func:`complete` needs.

    Raises:
        LevelNotReached: a time stamp or revocation data can not be had.
        TokenAuthError: the document can not be signed so.
        OSError: it can not be read.
    """
    task = plan(source, overwrite=True, **arguments)
    moment = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    task = task._replace(
        options=task.options._replace(moment=moment, identifier=f"S-{moment:%Y%m%d%H%M%S}"), output=None
    )
    key = key_for(certificate, chain, None, pss=pss)
    check(task, key)
    message, state = _KINDS.get(task.format, _AGAIN).prepare(task, key)
    padding = {"rsa": "pss" if key.pss else "pkcs1", "ec": "ecdsa", "ed25519": "eddsa"}[key.type]
    return Prepared(message, key.digest, padding, json.dumps(_packed(task, key) | state).encode())


def complete(prepared: Prepared, signature: bytes, *, output: str | Path | None = None) -> Path | bytes:
    """Build the signed document.

    Args:
        prepared: what :func:`prepare` returned.
        signature: the raw signature; that of an EC key is DER, or ``r || s`` as PKCS#11 and Web Crypto give it.
        output: the file to be written; None: the bytes are returned.

    Returns:
        The path of the signed file, or its bytes.

    Raises:
        SigningFailed: the signature is not of this message, or another key's.
        LevelNotReached: a time stamp or revocation data can not be had.
        TokenAuthError: the state was damaged.
        OSError: the file can not be written.
    """
    try:
        state = json.loads(prepared.state)
        job, documents = _unpacked(state)
    except (ValueError, KeyError, TypeError) as error:
        raise TokenAuthError("the state of this signature is damaged", hint="prepare it again") from error
    made = _as_der(job.key, signature)
    try:
        verify_message(job.key, prepared.to_sign, made)
    except InvalidSignature:
        raise SigningFailed(
            "the signature is not of the prepared message, or not made with the certificate's key",
            hint=f"sign the message with {job.key.digest.upper()}, or its digest, with the padding {prepared.padding}",
        ) from None
    kind = _KINDS.get(job.format, _AGAIN)
    step = _Step(state, job, documents, prepared.to_sign, made)
    path = None if output is None else Path(output)
    return written(path, lambda target: kind.complete(step, target))


class _Step(Record):
    """What the second step has."""

    state: dict[str, Any]
    job: Job
    documents: tuple[Document, ...]
    message: bytes
    signature: bytes


class _Kind(Record):
    """How a format is made in two steps.

    Args:
        prepare: gives the message and what is to be kept.
        complete: writes the signed file.
    """

    prepare: Callable[[Task, SigningKey], tuple[bytes, dict[str, Any]]]
    complete: Callable[[_Step, BinaryIO], None]


def _prepare_pades(task: Task, key: SigningKey) -> tuple[bytes, dict[str, Any]]:
    """The PDF is written with room for the signature."""
    from tokenauth.signing import cms

    output = io.BytesIO()
    made = load("pades").prepare(task.documents, task.job(key), output)
    state = {"pdf": _text(output.getvalue()), "attributes": _text(made.attributes), "room": [made.start, made.end]}
    state["protection"] = made.protection and [*map(_text, made.protection)]
    return cms.to_sign(made.attributes), state


def _complete_pades(step: _Step, target: BinaryIO) -> None:
    pades = load("pades")
    output = io.BytesIO(_data(step.state["pdf"]))
    protection = step.state["protection"] and pades.Protection(*map(_data, step.state["protection"]))
    prepared = pades.Prepared(_attributes(step), *step.state["room"], protection)
    pades.complete(step.job, prepared, step.signature, output)
    target.write(pades.at_level(output, step.job).getbuffer())


def _prepare_cades(task: Task, key: SigningKey) -> tuple[bytes, dict[str, Any]]:
    """The attributes are all that is needed; a document inside the signature, too."""
    from tokenauth.signing import cms

    attributes = load("cades").prepare(task.documents, task.job(key))
    return cms.to_sign(attributes), {"attributes": _text(attributes)}


def _complete_cades(step: _Step, target: BinaryIO) -> None:
    load("cades").complete(step.documents, step.job, _attributes(step), step.signature, target)


def _attributes(step: _Step) -> bytes:
    """The attributes that were prepared."""
    from tokenauth.signing import cms

    attributes = _data(step.state["attributes"])
    if cms.to_sign(attributes) != step.message:
        raise TokenAuthError("the state of this signature is another one's", hint="prepare it again")
    return attributes


def _prepare_again(task: Task, key: SigningKey) -> tuple[bytes, dict[str, Any]]:
    """The whole signature is made twice: the same moment and identifier give the same message."""
    return _message_of(task.documents, task.job(key)), {}


def _complete_again(step: _Step, target: BinaryIO) -> None:
    key = step.job.key._replace(private_key=_Known(step.message, step.signature))
    load(step.job.format).sign(step.documents, step.job._replace(key=key), target)


_AGAIN = _Kind(_prepare_again, _complete_again)
_KINDS = {"pades": _Kind(_prepare_pades, _complete_pades), "cades": _Kind(_prepare_cades, _complete_cades)}


class _Asked(Exception):
    """The message that a format would have signed."""


class _Asking:
    """Stands for the private key where only the message matters."""

    def sign(self, data: bytes, *scheme: Any) -> NoReturn:  # noqa: ARG002
        raise _Asked(data)


class _Known:
    """Stands for the private key where its one signature is known."""

    def __init__(self, message: bytes, signature: bytes) -> None:
        self._message, self._signature = message, signature

    def sign(self, data: bytes, *scheme: Any) -> bytes:  # noqa: ARG002
        if data != self._message:
            raise TokenAuthError("the document or its options changed since it was prepared", hint="prepare it again")
        return self._signature


def _message_of(documents: Sequence[Document], job: Job) -> bytes:
    asking = job._replace(key=job.key._replace(private_key=_Asking()))
    try:
        load(job.format).sign(documents, asking, io.BytesIO())
    except _Asked as asked:
        return bytes(asked.args[0])
    raise TokenAuthError(f"{job.format} asked for no signature")


def _as_der(key: SigningKey, signature: bytes) -> bytes:
    """``r || s`` as DER; no DER signature has this length and is not one."""
    if key.type != "ec":
        return signature
    public_key: Any = key.certificate.public_key()
    if len(signature) != 2 * ((public_key.key_size + 7) // 8):
        return signature
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    from tokenauth.pkcs11.keys import ecdsa_der

    try:
        decode_dss_signature(signature)
    except ValueError:
        return ecdsa_der(signature)
    return signature


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _data(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _certificates(given: Sequence[x509.Certificate]) -> list[str]:
    return [_text(encoded(one)) for one in given]


def _parsed(given: Sequence[str]) -> tuple[x509.Certificate, ...]:
    return tuple(x509.load_der_x509_certificate(_data(one)) for one in given)


def _packed(task: Task, key: SigningKey) -> dict[str, Any]:
    means = task.means._asdict() | {name: _certificates(getattr(task.means, name)) for name in ("extra", "trust")}
    options = task.options._asdict() | {"visible": None, "moment": task.options.moment.isoformat()}  # type: ignore[union-attr]
    return {
        "format": task.format,
        "level": task.level,
        "certificates": _certificates((key.certificate, *key.chain)),
        "pss": key.pss,
        "means": means,
        "options": options,
        "documents": [
            {"name": one.name, "mime": one.mime, "data": _text(one.read())}
            for one in (task.documents if task.format not in _KINDS or task.options.attached else ())
        ],
    }


def _unpacked(state: dict[str, Any]) -> tuple[Job, tuple[Document, ...]]:
    certificate, *chain = _parsed(state["certificates"])
    key = key_for(certificate, chain, None, pss=state["pss"])
    means = Means(**state["means"] | {name: _parsed(state["means"][name]) for name in ("extra", "trust")})
    options = state["options"]
    options |= {
        "moment": datetime.datetime.fromisoformat(options["moment"]),
        "headers": tuple(map(tuple, options["headers"])),
    }
    documents = tuple(Document(one["name"], None, _data(one["data"]), one["mime"]) for one in state["documents"])
    return Job(key, state["level"], means, Options(**options), state["format"]), documents
