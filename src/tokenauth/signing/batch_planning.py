"""What is to be done about many files: what goes where, what is there already, and what was signed before."""

from __future__ import annotations

import logging
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenauth._files import remove_unfinished
from tokenauth._records import Record
from tokenauth.errors import TokenAuthError
from tokenauth.notices import notice
from tokenauth.signing.formats import default_format, load
from tokenauth.signing.model import Document
from tokenauth.signing.operations import plan
from tokenauth.signing.refusals import DocumentError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tokenauth.signing.operations import Task

__all__ = ["FAILED", "SKIPPED", "Entry", "format_for", "plan_files"]

#: Why a signed file is not to be made: it was before, or something keeps it from that.
SKIPPED, FAILED = "skipped", "failed"

_HEAD, _PIECE = 1024, 1 << 20


class Entry(Record):
    """One signed file that is to be made.

    Args:
        files: what it is made of; several only for a container.
        task: how it is made; None if that is not to be done.
        status: :data:`SKIPPED` or :data:`FAILED` without a task.
        output: the signed file; None: not known, or it is written to no file.
        error: why there is no task.
    """

    files: tuple[Path, ...]
    task: Task | None = None
    status: str = ""
    output: Path | None = None
    error: Exception | None = None


def plan_files(
    files: Sequence[Path],
    *,
    format: str | None = None,
    output: Path | None = None,
    to_bytes: bool = False,
    force: bool = False,
    resume: bool = False,
    append: bool = False,
    **arguments: Any,
) -> list[Entry]:
    """Work out what is to be made of files: PDFs and files with a format one by one, others in one container.

    Args:
        files: what is to be signed.
        format: of :data:`FORMATS`; None: PAdES if all are PDFs, else ASiC-E.
        output: the file to be written, or the directory; None: beside each.
        to_bytes: no file is written.
        force: what is there may be replaced, also if ``output`` does not name it.
        resume: what was signed before is left as it is.
        append: add signatures to containers that are there.
        **arguments: those of :func:`tokenauth.signing.operations.plan`.

    Returns:
        An entry for each signed file. What keeps one from being made stands in it.

    Raises:
        DocumentError: ``output`` is one file and several would be made.
        TokenAuthError: the extra is not installed.
        ValueError: an argument that :func:`plan` does not take.
    """
    chosen = format_for(files, format)
    load(chosen)
    each_once = list(dict.fromkeys(files))
    groups = [tuple(each_once)] if chosen == "asice" and not append else [(file,) for file in each_once]
    if len(groups) > 1 and (to_bytes or (output is not None and not output.is_dir())):
        raise DocumentError(
            f"{len(groups)} signed files can not be written to {output or 'one place'}",
            hint="name a directory that is there",
        )
    planned = _Planner(chosen, output, to_bytes, force, resume, {"append": append, **arguments})
    with _each_notice_once():
        made = [planned.entry(group) for group in groups]
    kept = _without_results(made)
    if resume:
        remove_unfinished(one.output for one in kept if one.task is not None and one.output is not None)
    return kept


def format_for(files: Sequence[Path], format: str | None) -> str:
    """The format that files are signed in.

    Args:
        files: what is to be signed.
        format: the one that was asked for, if any.

    Raises:
        TokenAuthError: the only file is a container, and nobody said whether to add to it.
    """
    if format is not None:
        return format
    if len(files) == 1 and files[0].is_file():
        default_format([Document(files[0].name, files[0])])  # looks for containers
    return "pades" if all(map(_is_pdf, files)) else "asice"


def _is_pdf(file: Path) -> bool:
    """By its contents or its name: a broken PDF among others is told, and is no reason to put all into a container."""
    if file.suffix.lower() == ".pdf" or not file.is_file():
        return file.suffix.lower() == ".pdf"
    with suppress(OSError), file.open("rb") as stream:
        return b"%PDF-" in stream.read(_HEAD)
    return False


class _Planner(Record):
    """What :func:`plan_files` was asked for."""

    format: str
    output: Path | None
    to_bytes: bool
    force: bool
    resume: bool
    arguments: dict[str, Any]

    def __repr__(self) -> str:
        return f"<_Planner {self.format}>"  # never the password

    def entry(self, group: tuple[Path, ...]) -> Entry:
        """What is to be done about one signed file."""
        try:
            source: Any = group[0] if len(group) == 1 else list(group)
            task = plan(source, format=self.format, output=self.output, overwrite=True, **self.arguments)
            for document in task.documents:
                document.open().close()
            if self.to_bytes:
                return Entry(group, task._replace(output=None))
            return self._unless_there(group, task)
        except (TokenAuthError, OSError) as error:
            return Entry(group, status=FAILED, error=error)

    def _unless_there(self, group: tuple[Path, ...], task: Task) -> Entry:
        target = task.output
        assert target is not None  # noqa: S101 - files are never signed to bytes here
        named = self.output is not None and not self.output.is_dir()
        if _destroys(task):
            error = DocumentError(f"{target} would be replaced by its own signature", hint="name another file with -o")
        elif not target.exists() or task.options.append:
            return Entry(group, task, output=target)
        elif self.resume and _is_done(task):
            return Entry(group, None, SKIPPED, target)
        elif self.force or (named and not self.resume):
            return Entry(group, task, output=target)
        elif self.resume:
            names = ", ".join(file.name for file in group)
            what = f"{target} is there, but is not {names} signed, or that was changed since"
            error = DocumentError(what, hint="--force replaces it")
        else:
            hint = "--resume leaves it, --force replaces it, -o names another"
            error = DocumentError(f"{target} is there already", hint=hint)
        return Entry(group, None, FAILED, target, error)


def _destroys(task: Task) -> bool:
    """Whether a signature that does not hold what it signs would take its place."""
    holds = task.format == "pades" or task.options.append
    return not holds and any(_same(task.output, one.path) for one in task.documents)


def _same(one: Path | None, other: Path | None) -> bool:
    return one is not None and other is not None and one.resolve() == other.resolve()


def _is_done(task: Task) -> bool:
    """Whether the signed file is there, newer than its sources, and of them as far as that is seen at once."""
    assert task.output is not None  # noqa: S101 - seen by the caller
    made = task.output.stat()
    sources = [one.path.stat() for one in task.documents if one.path is not None]
    if made.st_size == 0 or any(made.st_mtime_ns < source.st_mtime_ns for source in sources):
        return False
    if task.format == "pades":
        return _begins_with(task.output, task.documents[0])
    return task.format not in ("asice", "asics") or _holds(task.output, [source.st_size for source in sources])


def _holds(container: Path, sizes: list[int]) -> bool:
    """Whether a container holds so many files, of these sizes."""
    from tokenauth.signing.asic_reader import Container

    try:
        with Container(container) as opened:
            return sorted(map(opened.size, opened.data_files)) == sorted(sizes)
    except DocumentError:
        return False


def _begins_with(longer: Path, document: Document) -> bool:
    with longer.open("rb") as whole, document.open() as begin:
        while piece := begin.read(_PIECE):
            if whole.read(len(piece)) != piece:
                return False
        return bool(whole.read(1))


def _without_results(entries: list[Entry]) -> list[Entry]:
    """Entries for sources only: ``*.pdf`` finds what was signed before as well; and no two for one signed file."""
    outputs: dict[Path, tuple[Path, ...]] = {}
    for one in entries:
        if one.output is not None:
            outputs.setdefault(one.output.resolve(), one.files)
    sources: list[Entry] = []
    results: list[Entry] = []
    for one in entries:
        is_source = outputs.get(one.files[0].resolve(), one.files) == one.files
        (sources if is_source else results).append(one)
    if results:
        more = f" and {len(results) - 1} more files" if len(results) > 1 else ""
        notice(f"left out, as others of these files signed: {results[0].files[0]}{more}")
    return [_unless_twice(one, outputs) for one in sources]


def _unless_twice(entry: Entry, outputs: dict[Path, tuple[Path, ...]]) -> Entry:
    if entry.output is None or outputs[entry.output.resolve()] == entry.files:
        return entry
    clash = DocumentError(f"{entry.output} would be written twice", hint=f"sign {entry.files[0]} by itself, with -o")
    return Entry(entry.files, status=FAILED, error=clash)


@contextmanager
def _each_notice_once() -> Iterator[None]:
    """What is to be said of all files is said of the first."""
    said: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        known = text in said
        said.add(text)
        return not known

    logger = logging.getLogger("tokenauth")
    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)
