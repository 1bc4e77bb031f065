"""Sign files, and raise their level: what is checked before a PIN is asked for, and files that are written whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tokenauth._records import Record
from tokenauth.errors import TokenAuthError
from tokenauth.notices import notice
from tokenauth.signing.choice import find_signer, signing_key
from tokenauth.signing.files import check_writable, documents_of, output_for, with_media_types, written
from tokenauth.signing.formats import FORMAT_OF, default_format, format_of, load, load_part
from tokenauth.signing.model import CERTIFICATIONS, LEVELS, Job, Means, Options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenauth.inventory.identity import Identity
    from tokenauth.pin import PinSource
    from tokenauth.signing.files import Source
    from tokenauth.signing.model import Document, SigningKey
    from tokenauth.uri import TokenURI

__all__ = ["Task", "check", "extend", "perform", "plan", "sign"]


class Task(Record):
    """A signature to be made, and where it goes.

    Args:
        documents: what is signed.
        format: of :data:`FORMATS`.
        level: of :data:`LEVELS`.
        means: how to reach it.
        options: what else is asked.
        output: the file that is written; None: the signed bytes are returned.
    """

    documents: tuple[Document, ...]
    format: str
    level: str
    means: Means
    options: Options
    output: Path | None

    def job(self, key: SigningKey) -> Job:
        """The same for one of the formats' modules."""
        return Job(key, self.level, self.means, self.options, self.format)


def sign(
    source: Source,
    identity: str | TokenURI | Identity = "pkcs11:",
    *,
    format: str | None = None,
    level: str | None = None,
    tsa: str | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    name: str = "document",
    means: Means | None = None,
    pss: bool | None = None,
    pin: str | PinSource | None = None,
    module: str | None = None,
    allow_final_try: bool = False,
    forget_after: float | None = None,
    isolate: bool | None = None,
    **options: Any,
) -> Path | bytes:
    """Sign a document with a key in a token. All that can be checked is checked before a PIN is asked for.

    Args:
        source: the file's path, or its content; several paths go into one ASiC-E container.
        identity: who signs: a ``pkcs11:`` URI or an identity. Of several certificates the one for documents is taken.
        format: ``pades``, ``cades``, ``xades``, ``asice``, ``asics`` or ``jws``; None: PAdES for a PDF, else ASiC-E.
        level: ``b-b``, ``b-t``, ``b-lt`` or ``b-lta``; None: ``b-t`` if there is a ``tsa``, else ``b-b``.
        tsa: URL of a time-stamping authority.
        output: the file to be written, or a directory; None: a new file beside the source, or the bytes if the source
            is bytes.
        overwrite: a file that is there may be replaced, also one that ``output`` does not name.
        name: of bytes, where a format asks for one.
        means: more about how to reach the level.
        pss: RSA signatures are RSASSA-PSS; None: only if the certificate allows nothing else.
        pin: as in :func:`tokenauth.identity`.
        module: as in :func:`tokenauth.identity`.
        allow_final_try: as in :func:`tokenauth.identity`.
        forget_after: as in :func:`tokenauth.identity`.
        isolate: as in :func:`tokenauth.identity`.
        **options: those of :class:`Options`.

    Returns:
        The path of the signed file, or the signed bytes.

    Raises:
        IdentityNotFound: no certificate may sign documents.
        AmbiguousIdentity: several may.
        LevelNotReached: a time stamp or revocation data can not be had; nothing is written.
        PinError: the login failed; nothing is written.
        TokenAuthError: whatever else keeps the document from being signed; nothing is written.
        ValueError: an argument that is none of the above.
        OSError: a file can not be read or written.
    """
    task = plan(
        source,
        format=format,
        level=level,
        tsa=tsa,
        output=output,
        overwrite=overwrite,
        name=name,
        means=means,
        **options,
    )
    chosen = find_signer(
        identity, pin=pin, module=module, allow_final_try=allow_final_try, forget_after=forget_after, isolate=isolate
    )
    key = signing_key(chosen, extra=(*task.means.extra, *task.means.trust), pss=pss)
    check(task, key)
    return perform(task, key)


def plan(
    source: Source,
    *,
    format: str | None = None,
    level: str | None = None,
    tsa: str | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    name: str = "document",
    means: Means | None = None,
    **options: Any,
) -> Task:
    """Work out what :func:`sign` is to do. Arguments and errors are its own."""
    documents = documents_of(source, name)
    asked = _options(options)
    chosen = format or default_format(documents, append=asked.append)
    load(chosen)
    if FORMAT_OF[chosen].names_media_types:
        documents = with_media_types(documents)
    ways = _means(means, tsa)
    reached = _level(level, chosen, ways)
    return Task(
        documents, chosen, reached, ways, asked, output_for(documents, chosen, asked, output, overwrite=overwrite)
    )


def check(task: Task, key: SigningKey) -> None:
    """Find out what would fail, before a PIN is asked for: input, output, network.

    Raises:
        LevelNotReached: a time stamp or revocation data can not be had.
        TokenAuthError: a certificate of the signer's chain was revoked.
        OSError: a file can not be read or written.
    """
    for document in task.documents:
        with document.open() as stream:
            stream.read(1)
    if task.output is not None:
        check_writable(task.output)
    job = task.job(key)
    if not job.reaches("b-t"):
        return
    levels = load_part("levels")
    levels.optional(job, "b-t", lambda: levels.require_answering(task.means))
    levels.optional(job, "b-lt", lambda: levels.evidence_for(key.certificate, key.chain, task.means))


def perform(task: Task, key: SigningKey) -> Path | bytes:
    """Make the signature. The file is there whole, or not at all.

    Raises:
        LevelNotReached, PinError, TokenAuthError, OSError: as :func:`sign`.
    """
    made = load(task.format)
    return written(task.output, lambda target: made.sign(task.documents, task.job(key), target))


def extend(
    source: str | Path | bytes,
    *,
    level: str | None = None,
    tsa: str | None = None,
    output: str | Path | None = None,
    means: Means | None = None,
    files: Sequence[str | Path] = (),
    **options: Any,
) -> Path | bytes:
    """Raise the level of a signed file. No card is needed.

    Args:
        source: the file's path, or its content.
        level: the one to reach; None: ``b-lta`` if there is a ``tsa``, else ``b-lt``.
        tsa: URL of a time-stamping authority.
        output: the file to be written; None: the file itself, or the bytes if the source is bytes.
        means: more about how to reach the level.
        files: what a detached XML signature is of.
        **options: those of :class:`Options`: ``password``, ``allow_lower_level``.

    Returns:
        The path of the file, or the bytes.

    Raises:
        LevelNotReached: a time stamp or revocation data can not be had; nothing is written.
        TokenAuthError: it is no signed file.
        OSError: a file can not be read or written.
    """
    [document] = documents_of(source, "document")
    format = format_of(document)
    ways = _means(means, tsa)
    wanted = _known_level(level or ("b-lta" if ways.tsa else "b-lt"))
    target = Path(output) if output is not None else document.path
    if target is not None:
        check_writable(target)
    job = Job(cast("SigningKey", None), wanted, ways, _options(options), format)  # nothing signs here
    more = {"files": documents_of(list(files), "")} if files else {}
    return written(target, lambda stream: load(format).extend(document, job, stream, **more))


def _means(given: Means | None, tsa: str | None) -> Means:
    means = given or Means()
    return means._replace(tsa=tsa or means.tsa, extra=tuple(means.extra), trust=tuple(means.trust))


def _options(given: dict[str, Any]) -> Options:
    made = Options(**given)
    if made.certify is not None and made.certify not in CERTIFICATIONS:
        raise ValueError(f"certify is one of {', '.join(CERTIFICATIONS)}, not {made.certify!r}")
    return made


def _known_level(level: str) -> str:
    if level not in LEVELS:
        raise ValueError(f"level is one of {', '.join(LEVELS)}, not {level!r}")
    return level


def _level(level: str | None, format: str, means: Means) -> str:
    """The level that is aimed at; one that readers of the format do not accept is told."""
    info = FORMAT_OF[format]
    chosen = _known_level(level or ("b-t" if means.tsa and info.has_levels else "b-b"))
    if chosen != "b-b" and not means.tsa:
        raise TokenAuthError(
            f"level {chosen.upper()} needs a time stamp", hint="name a time-stamping authority with tsa=... or --tsa"
        )
    if LEVELS.index(chosen) < LEVELS.index(info.lowest):
        notice(
            f"most readers of .{format} containers want level {info.lowest.upper()}, and this one gets "
            f"{chosen.upper()}: ask for {info.lowest} with a time-stamping authority, or raise it later with extend"
        )
    return chosen
