"""What can be said of a signature, and what keeps it from being good.

The three results and their meaning are those of ETSI EN 319 102-1 section 5.1.3: VALID (total-passed), INVALID
(total-failed: it is certain that the signature is not good) and INDETERMINATE (what is at hand does not tell).
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

from tokenauth.signing.model import INDETERMINATE, INVALID, VALID
from tokenauth.signing.refusals import DocumentError, NotKnown

if TYPE_CHECKING:
    import datetime
    from collections.abc import Iterable, Iterator

__all__ = [
    "INDETERMINATE",
    "INVALID",
    "VALID",
    "Broken",
    "Damaged",
    "Doubtful",
    "Finding",
    "Untrusted",
    "Weak",
    "reading",
    "sentence",
    "when",
    "worst",
]

_FROM_BEST = (VALID, INDETERMINATE, INVALID)


class Finding(Exception):
    """Why a signature is not valid; the text is a reason for people, without a full stop.

    Args:
        reason: in words.
    """

    status = INDETERMINATE

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Broken(Finding):
    """It is certain: what was signed is not what is here, or the signature is forbidden."""

    status = INVALID


class Doubtful(Finding):
    """It can not be told with what is at hand."""


class Weak(Doubtful):
    """It was made with an algorithm or key that can be broken."""


class Damaged(Doubtful):
    """Something beside the signature is not as it was made; the signature may be good without it."""


class Untrusted(Doubtful):
    """What is signed is intact, but nobody who is trusted stands behind the key (or not at that time)."""


def worst(statuses: Iterable[str]) -> str:
    """The worst of several results; INDETERMINATE when there is none."""
    return max(statuses, key=_FROM_BEST.index, default=INDETERMINATE)


def sentence(parts: Iterable[str]) -> str:
    """Several reasons in one line, each once."""
    return "; ".join(dict.fromkeys(part for part in parts if part))


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Around a parser that was not made for hostile input: whatever it raises means that it could not read.

    Args:
        what: what is read.

    Raises:
        Broken: it can not be read. Findings pass.
        Doubtful: it is of a kind that is not known.
    """
    try:
        yield
    except (Finding, MemoryError, KeyboardInterrupt):
        raise
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise Broken(f"{what} can not be read: it points to a place that is not there") from error
    except NotKnown as error:
        raise Doubtful(error.message) from error
    except DocumentError as error:
        raise Broken(error.message) from error
    except Exception as error:  # asn1crypto and pyhanko raise nearly every type that there is
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Broken(f"{what} can not be read: {detail[:200]}") from error


def when(moment: datetime.datetime) -> str:
    """A time, as reasons write it."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
