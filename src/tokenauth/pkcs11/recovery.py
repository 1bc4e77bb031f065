"""What is tried once more after a token was lost: it was removed, logged out, or its module began anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from tokenauth.errors import ModuleError, PinError, TokenAuthError, TokenRemoved
from tokenauth.pkcs11.returnvalues import CONFUSED, GONE, NOT_LOGGED_IN, ReturnValue

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenauth.pkcs11.tokens import Token

__all__ = ["twice"]

_T = TypeVar("_T")

_TRIES, _MOST_ATTEMPTS = 2, 10
#: What a token answers when sessions, handles or the login are gone.
_LOST = GONE | {"CKR_OBJECT_HANDLE_INVALID", "CKR_KEY_HANDLE_INVALID", NOT_LOGGED_IN}


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
    return _find_again(token, generation, answer.name, restart=restart)


def _find_again(token: Token, generation: int, ckr: str, *, restart: bool) -> bool:
    """After a failure: see whether the token is still, or again, there, and make ready to try once more.

    It is looked for in all slots of its module. Of several threads that failed alike, one does it.

    Args:
        token: the token.
        generation: in which something failed.
        ckr: what was answered.
        restart: a look at the slots did not help a confused module before: restart it, if that may be done now.

    Returns:
        Whether it makes sense to try again.

    Raises:
        TokenRemoved: it is gone.
        TokenAuthError: its module fails.
    """
    with token.losing:
        if token.generation != generation:
            return True
        if ckr in GONE and not token.retire():
            return True
        if ckr == "CKR_CRYPTOKI_NOT_INITIALIZED":
            token.loaded_from.revive()
        elif ckr not in CONFUSED:
            token.resettle(token.loaded_from.locate(token.info))
        elif (restart or not _was_away(token)) and not token.loaded_from.restart():
            token.loaded_from.locate(token.info)
        return token.generation != generation


def _was_away(token: Token) -> bool:
    """Look at the slots for a confused module; begin anew if that tells it that the token was gone meanwhile.

    Of a card that was pulled out, or a pcscd that was restarted, OpenSC and ykcs11 say nothing clearer than
    CKR_GENERAL_ERROR or CKR_DEVICE_ERROR until somebody asks for the slots; then all is well again, and the
    other tokens' logins last.

    Returns:
        Whether it began anew. Not if its sessions live: then something else is wrong. A removable token's only
        session was closed after the failure and tells nothing; so that one is tried.

    Raises:
        TokenRemoved: it is gone.
    """
    token.settle_down()
    try:
        reading = token.loaded_from.locate(token.info)
    except ModuleError:
        return False
    if not reading.removable and token.is_as_it_was():
        return False
    token.resettle(reading)
    return True
