"""PINs from the desktop: entered in a window, or kept in the keyring."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tokenauth.errors import PinRequired
from tokenauth.pin.request import GivenPin, OnPad, Origin
from tokenauth.pin.wording import printable

if TYPE_CHECKING:
    from tokenauth.pin.request import PinRequest

__all__ = ["Keyring", "Pinentry"]

_SERVICE = "tokenauth"
_INSTALL = "pip install keyring"
_ELSEWHERE = "or give another --pin-source, such as prompt"


class Pinentry:
    """The PIN is entered into pinentry, GnuPG's program for that: in a window, or on the terminal.

    If the reader has a pad, pinentry shows that the PIN is to be entered there.

    Args:
        program: its name or path. None: what ``PINENTRY_PROGRAM`` says, else ``pinentry`` or ``pinentry-mac``.
    """

    __slots__ = ("_program",)

    def __init__(self, program: str | os.PathLike[str] | None = None) -> None:
        self._program = None if program is None else os.fspath(program)

    def __repr__(self) -> str:
        return "Pinentry()" if self._program is None else f"Pinentry({self._program!r})"

    def __call__(self, request: PinRequest) -> str | OnPad:
        """Ask. The program is gone when this returns, or raises.

        Raises:
            PinRequired: it was cancelled, there is no such program, it fails, or what was entered is no possible PIN.
            KeyboardInterrupt: Ctrl-C.
        """
        from tokenauth.pin import pinentry

        if request.pin_pad:
            return OnPad(lambda: pinentry.notify(self._program, request))
        return pinentry.ask(self._program, request)


class Keyring:
    """The PIN is in the desktop's keyring: GNOME's or KDE's, macOS's Keychain, Windows' Credential Locker.

    It is looked up each time under the service ``tokenauth`` and, as the user's name, the token's serial number, or its
    label if it has none. Nothing is ever stored there: ``keyring set tokenauth SERIAL`` does that. Needs the package
    ``keyring``.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "Keyring()"

    def __call__(self, request: PinRequest) -> str:
        """Look it up; the desktop may ask to unlock its keyring.

        Raises:
            PinRequired: it is not there, or is no possible PIN; there is no keyring, or it is locked.
        """
        import shlex

        name = request.serial or request.token
        store = f"keyring set {_SERVICE} {shlex.quote(name)}"
        given, fault, hint = _look_up(name, store)
        if given is not None:
            return given(request)
        raise PinRequired(fault, hint=hint, token=request.token)


def _look_up(name: str, store: str) -> tuple[GivenPin | None, str, str]:
    """The PIN stored under a name; or else what is wrong, and what to do."""
    failed = "the keyring can not be asked for the PIN"
    try:
        import keyring

        found = keyring.get_password(_SERVICE, name)
        if found is not None:
            return GivenPin(found, Origin("the PIN in the keyring", f"store it again with: {store}")), "", ""
    except ImportError as error:
        return None, f"{failed}: {_cause(error)}", f"{_INSTALL}, {_ELSEWHERE}"
    except Exception as error:  # noqa: BLE001 - backends let through whatever D-Bus and the like raise
        return None, f"{failed}: {_cause(error)}", f"unlock it, or set one up, {_ELSEWHERE}"
    return None, "its PIN is not in the keyring", f"store it there with: {store}"


def _cause(error: Exception) -> str:
    """What a backend says, on one line."""
    return printable(" ".join(str(error).split()) or type(error).__name__).rstrip(".")
