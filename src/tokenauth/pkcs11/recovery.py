"""What is tried once more after a token was lost: it was removed, logged out, or its module began anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from tokenauth.errors import PinError, TokenAuthError, TokenRemoved
from tokenauth.pkcs11.returnvalues import CONFUSED, GONE, ReturnValue

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenauth.pkcs11.tokens import Token

__all__ = ["twice"]

_T = TypeVar("_T")

_TRIES, _MOST_ATTEMPTS = 2, 10
#: What a token answers when sessions, handles or the login are gone.
_LOST = GONE | {"CKR_OBJECT_HANDLE_INVALID", "CKR_KEY_HANDLE_INVALID", "CKR_USER_NOT_LOGGED_IN"}


def twice(token: Token, attempt: Callable[[], _T], *, restart: bool = True) -> _T:
    """Try once more if a token was lost meanwhile and is there again.

    Nothing that may have cost a PIN try is repeated: what a token answers to a PIN is final. Attempts into which
    another thread broke by making the token begin anew do not count.

    Args:
        token: the token.
        attempt: finds anew all that it needs on the token.
        restart: also if the module is confused; it may then be restarted, which ends the logins on all its tokens.

    Raises:
        TokenRemoved: the token is gone, or was lost both times.
        TokenAuthError: whatever else an attempt raises.
    """
    causes = _LOST | CONFUSED if restart else _LOST
    attempts = counted = 0
    looked = False  # for a confused module; restarting it, if that does not help, is worth one more try
    while True:
        generation = token.generation
        try:
            return attempt()
        except TokenAuthError as error:
            attempts += 1
            counted += token.generation == generation
            if not _was_lost(token, generation, error, causes, restart=looked):
                raise
            looked = looked or error.ckr in CONFUSED
            if counted == _TRIES + looked or attempts == _MOST_ATTEMPTS:
                if isinstance(error, PinError) or error.ckr in CONFUSED:
                    raise
                hint = "leave it in place and try again"
                raise TokenRemoved("it was lost twice in a row", hint=hint, token=token.label, ckr=error.ckr) from error


def _was_lost(token: Token, generation: int, error: TokenAuthError, causes: frozenset[str], *, restart: bool) -> bool:
    """Whether a token was lost and is there again, so that everything found on it has to be found anew.

    Raises:
        TokenRemoved: it is gone.
        TokenAuthError: its module fails.
    """
    answer = error.__cause__
    if not isinstance(answer, ReturnValue) or answer.function == "C_Login" or answer.name not in causes:
        return False
    return token.find_again(generation, answer.name, restart=restart)
