"""What becomes of files that are signed, or whose level is raised: a line for each, and what it comes to."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from tokenauth.cli import failures, output
from tokenauth.cli.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenauth.signing.batch import Outcome

__all__ = ["Results"]

#: Names of files on one line; --json has all of them.
_MOST_NAMES = 20


class Results:
    """Tells what becomes of files.

    Args:
        total: how many signed files there will be.
        as_json: write JSON when all is known, in place of lines.
    """

    def __init__(self, total: int, *, as_json: bool) -> None:
        self._total = total
        self._as_json = as_json
        self._progress = Progress(total)

    def tell(self, outcome: Outcome, *, bar: bool = True) -> None:
        """Tell what became of one: its name to stdout if it was signed, or why it was not.

        Args:
            outcome: what became of it.
            bar: show how far it is, if there is a terminal and no question comes next.
        """
        from tokenauth.signing.batch import FAILED, SIGNED, SKIPPED

        name = _name(outcome)
        with self._progress.step(name, draw=bar):
            if outcome.status == FAILED and outcome.error is not None:
                if self._total > 1:
                    output.say(f"error: {_because(outcome)}")
            elif outcome.status == SKIPPED:
                output.detail(f"{outcome.output} was signed before")
            elif outcome.status == SIGNED and outcome.content is not None:
                sys.stdout.buffer.write(outcome.content)
            elif outcome.status == SIGNED and not self._as_json:
                output.write(output.printable(str(outcome.output)))

    def finish(
        self, outcomes: Sequence[Outcome], signer: str, *, did: str = "signed", interrupted: bool = False
    ) -> int:
        """Tell what it came to.

        Args:
            outcomes: all of them.
            signer: who signed, in words; empty if nobody had to.
            did: what was done.
            interrupted: Ctrl-C ended it.

        Returns:
            The exit code.

        Raises:
            Exception: why the only file was not signed.
        """
        from tokenauth.signing.batch import FAILED, LEFT, SIGNED, SKIPPED

        self._progress.clear()
        if self._as_json:
            output.write_json([_record(one) for one in outcomes])
        errors = [one.error for one in outcomes if one.status == FAILED and one.error is not None]
        if self._total == 1 and errors:
            raise errors[0]
        names = {status: [_name(one) for one in outcomes if one.status == status] for status in (FAILED, LEFT, SKIPPED)}
        count = sum(one.status == SIGNED for one in outcomes)
        said = [f"{did}{f' {count} of {self._total}' if self._total > 1 else ''} {signer}".rstrip()] if count else []
        said += [f"{len(names[SKIPPED])} signed before"] if names[SKIPPED] else []
        said += [f"{len(names[FAILED])} failed"] if names[FAILED] else []
        if names[LEFT]:
            said += [f"{len(names[LEFT])} not tried: {_listed(names[LEFT])}; --resume goes on"]
        output.say(("interrupted: " if interrupted else "") + ("; ".join(said) or f"nothing was {did}"))
        if interrupted:
            return failures.INTERRUPTED
        ended = [one.error for one in outcomes if one.status == LEFT and one.error is not None]
        if ended:
            return failures.judge(ended[0])[0]
        codes = {failures.judge(error)[0] for error in errors}
        return failures.DONE if not codes else codes.pop() if len(codes) == 1 else failures.FAILED


def _name(outcome: Outcome) -> str:
    return ", ".join(map(str, outcome.files))


def _because(outcome: Outcome) -> str:
    """Why a file was not signed, with its name."""
    assert outcome.error is not None  # noqa: S101 - seen by the caller
    _, text = failures.judge(outcome.error)
    name = _name(outcome)
    if len(outcome.files) == 1 and text.startswith(f"{outcome.files[0].name} "):
        return name + text.removeprefix(outcome.files[0].name)
    return text if text.startswith(name) else f"{name}: {text}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _record(outcome: Outcome) -> dict[str, Any]:
    """For ``sign --json``."""
    return {
        "files": [str(file) for file in outcome.files],
        "status": outcome.status,
        "output": str(outcome.output) if outcome.output is not None else None,
        "error": failures.judge(outcome.error)[1] if outcome.error is not None else None,
    }
