"""``tokenauth verify``: whether the signatures of documents are good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from tokenauth.cli import failures, output
from tokenauth.cli.documents import FILE, SEVERAL_FILES, password_from, password_option, trust_option, zoned_time
from tokenauth.cli.options import json_option, verbose_option

if TYPE_CHECKING:
    import datetime
    from collections.abc import Iterator
    from pathlib import Path

    from tokenauth.signing.model import FileReport, SignatureReport

__all__ = ["command"]

_CODES = {"valid": failures.DONE, "invalid": failures.INVALID, "indeterminate": failures.INDETERMINATE}
_FROM_BEST = ("valid", "indeterminate", "invalid")


@click.command("verify", short_help="Verify the signatures of documents.")
@SEVERAL_FILES
@trust_option
@click.option("--system-trust", is_flag=True, help="Trust the system's certificates as well as those of --trust.")
@click.option(
    "--list-signer",
    "list_signers",
    metavar="FILE",
    multiple=True,
    type=FILE,
    help="Who signs the trusted lists that --trust names (PEM or DER); repeatable.",
)
@click.option(
    "--content",
    metavar="FILE",
    multiple=True,
    type=FILE,
    help="What a detached signature is of; repeatable. [default: the file beside it]",
)
@click.option("--offline", is_flag=True, help="Ask no OCSP responder and for no CRL, though it is not known else.")
@click.option("--online", is_flag=True, help="Fetch missing issuers' certificates as well, from where others say.")
@click.option("--at", metavar="TIME", callback=zoned_time, help="Verify as of then (ISO 8601). [default: now]")
@password_option
@json_option
@verbose_option
@click.pass_context
def command(  # noqa: PLR0917 - click passes each option by itself
    context: click.Context,
    /,
    files: tuple[Path, ...],
    trust: tuple[Path, ...],
    system_trust: bool,
    list_signers: tuple[Path, ...],
    offline: bool,
    online: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Verify all signatures of each FILE: PDF, CMS, XML, ASiC or JWS, whatever its name.

    What is trusted are the system's certificates, or those in --trust: CA certificates, CRLs, EU trusted lists.
    Nothing in a document is trusted. Whether a certificate was revoked is asked where those that are trusted say. The
    exit code is 0 if all is valid, 10 if a signature is invalid, and 11 if whether one is valid can not be told.
    """
    if offline and online:
        raise click.UsageError("--offline and --online exclude each other")
    from tokenauth.signing.formats import load_part

    verification = load_part("verification")
    anchors = verification.load_trust(
        trust, system=system_trust or not trust, list_signers=list_signers, online=online, asks=not offline
    )
    how = {"trust": anchors, "at": given["at"], "password": password_from(given["password_source"])}
    reports = []
    for number, file in enumerate(files):
        reports.append(_report(file, given["content"], how))
        if not as_json:
            for line in _lines(reports[-1], first=not number):
                output.write(line)
    if as_json:
        output.write_json([_record(report) for report in reports])
    context.exit(_CODES[max((report.status for report in reports), key=_FROM_BEST.index)])


def _report(file: Path, content: tuple[Path, ...], how: dict[str, Any]) -> FileReport:
    """The report on one file; one that can not be read keeps the others from nothing."""
    from tokenauth.errors import TokenAuthError
    from tokenauth.signing.formats import load_part
    from tokenauth.signing.model import INDETERMINATE, Document, FileReport

    try:
        beside = [Document(one.name, one) for one in content] if content else None
        report: FileReport = load_part("verification").verify(file, beside=beside, **how)
    except TokenAuthError as error:
        return FileReport(str(file), INDETERMINATE, (), str(error).removeprefix(f"{file} "))
    return report


def _record(report: FileReport) -> dict[str, Any]:
    """For ``--json``; what is said of the file and of no signature is talk, so it goes to stderr."""
    if report.reason:
        output.say(f"{report.file}: {report.reason}")
    return report.as_json()


def _lines(report: FileReport, *, first: bool) -> Iterator[str]:
    """A report for people."""
    if not first:
        yield ""
    shown = output.printable(report.file)
    yield f"{shown}: {report.status.upper()}" + (f", {output.printable(report.reason)}" if report.reason else "")
    for signature in report.signatures:
        yield f"  {signature.status.upper()}"
        for name, text in _rows(signature):
            if text:
                yield f"    {name:<10}{output.printable(text)}"


def _rows(signature: SignatureReport) -> list[tuple[str, str]]:
    kind = " ".join(filter(None, (_FORMATS.get(signature.format, signature.format), signature.level.upper())))
    return [
        ("signer", signature.signer),
        ("time", _utc(signature.time)),
        ("level", kind),
        ("covers", "; ".join(signature.covers)),
        ("note" if signature.status == "valid" else "reason", signature.reason),
    ]


_FORMATS = {"pades": "PAdES", "cades": "CAdES", "xades": "XAdES", "asice": "ASiC-E", "asics": "ASiC-S", "jws": "JWS"}


def _utc(time: datetime.datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC" if time is not None else ""
