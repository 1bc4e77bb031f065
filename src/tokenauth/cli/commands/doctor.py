"""``tokenauth doctor``: what works, what does not, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tokenauth.cli import output
from tokenauth.cli.failures import FAILED
from tokenauth.cli.options import json_option, module_option, verbose_option

if TYPE_CHECKING:
    from tokenauth.doctor import Finding

__all__ = ["command"]

_MARKS = {"ok": "ok     ", "warning": "WARNING", "error": "ERROR  "}


@click.command("doctor", short_help="Check everything and say what to do.")
@json_option
@module_option
@verbose_option
@click.pass_context
def command(context: click.Context, as_json: bool, module: str | None) -> None:
    """Check Python, OpenSSL, modules, tokens and certificates, and say what to do.

    Nothing is logged in to. The exit code is 1 if there is an error.
    """
    from tokenauth.doctor import examine

    findings = examine(module)
    if as_json:
        output.write_json([finding._asdict() for finding in findings])
    else:
        _write_page(findings)
    if any(finding.status == "error" for finding in findings):
        context.exit(FAILED)


def _write_page(findings: list[Finding]) -> None:
    for finding in findings:
        output.write(output.printable(f"{_MARKS[finding.status]}  {finding.check}: {finding.what}"))
        for name, text in (("why", finding.why), ("next", finding.next)):
            if text:
                output.write(output.printable(f"         {name}: {text}"))
