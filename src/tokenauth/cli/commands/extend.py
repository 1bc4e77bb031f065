"""``tokenauth extend``: raise the level of signed documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from tokenauth.cli.documents import (
    FILE,
    LEVEL,
    SEVERAL_FILES,
    means_of,
    need_tsa,
    output_option,
    password_from,
    password_option,
    tsa_options,
)
from tokenauth.cli.options import verbose_option
from tokenauth.cli.signed import Results

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tokenauth.signing.batch import Outcome

__all__ = ["command"]


@click.command("extend", short_help="Raise the level of signed documents.")
@SEVERAL_FILES
@click.option("--level", type=LEVEL, help="[default: b-lta with --tsa, else b-lt]")
@tsa_options
@output_option("the file itself")
@click.option("--content", metavar="FILE", multiple=True, type=FILE, help="What a detached XML signature is of.")
@password_option
@verbose_option
@click.pass_context
def command(  # noqa: PLR0917 - click passes each option by itself
    context: click.Context,
    /,
    files: tuple[Path, ...],
    level: str | None,
    tsa: str | None,
    trust: tuple[Path, ...],
    timeout: float,
    target: Path | None,
    content: tuple[Path, ...],
    **given: Any,
) -> None:
    """Add to the signatures of each FILE what a higher level needs: time stamps, OCSP answers and CRLs.

    No card is needed. A file is replaced when all that it needs is there.
    """
    if len(files) > 1 and target is not None and not target.is_dir():
        raise click.UsageError(f"{target} is no directory, and there are {len(files)} files")
    if level == "b-t":
        need_tsa(level, tsa)
    means = means_of(tsa, trust, timeout)
    password = password_from(given.pop("password_source"))
    from tokenauth.signing.operations import extend

    def raised(file: Path) -> Any:
        output = target / file.name if target is not None and target.is_dir() else target
        return extend(file, level=level, means=means, output=output, files=content, password=password, **given)

    results = Results(len(files), as_json=False)
    outcomes = []
    for file in files:
        outcomes.append(_outcome(file, raised))
        results.tell(outcomes[-1])
    context.exit(results.finish(outcomes, "", did="extended"))


def _outcome(file: Path, raised: Callable[[Path], Any]) -> Outcome:
    from tokenauth.errors import TokenAuthError
    from tokenauth.signing.batch import FAILED, SIGNED, Outcome

    try:
        return Outcome((file,), SIGNED, raised(file))
    except (TokenAuthError, OSError) as error:
        return Outcome((file,), FAILED, error=error)
