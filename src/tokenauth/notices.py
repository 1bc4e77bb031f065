"""What a person at the machine must hear now, though nothing went wrong: insert the card, touch the token.

A notice is a warning in the log ``tokenauth``, so that Python shows it on stderr unless the program says otherwise.
"""

from __future__ import annotations

__all__ = ["NOTICE", "notice"]

#: The name under which a log record says that it is one: there is nothing wrong that it warns of.
NOTICE = "is_notice"


def notice(text: str) -> None:
    """Tell the person at the machine something, in one sentence without a full stop."""
    import logging  # rarely needed

    logging.getLogger("tokenauth").warning("%s", text, extra={NOTICE: True})
