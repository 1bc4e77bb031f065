"""A SoftHSM token that stays, for developing and trying things out from a shell."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from tokenauth.errors import TokenAuthError
from tokenauth.provisioning import softhsm
from tokenauth.testing.authority import Authority
from tokenauth.testing.soft_token import SoftToken

__all__ = ["DevelopmentToken"]

_MARK = "made-by-tokenauth"
_CONTENTS = frozenset({_MARK, "softhsm2.conf", "tokens", "ca.pem", "pin"})
_MARK_TEXT = "A token for development, made by 'tokenauth softtoken init'. 'tokenauth softtoken remove' removes it.\n"
#: What SoftHSM's configuration file can not hold in a value.
_NOT_IN_CONFIGURATION = re.compile(r"[#=\x00-\x1f\x7f]")


class DevelopmentToken:
    """A directory with a SoftHSM token, its PIN and the CA that issued its certificates.

    On the token are a client's identity (``client``) and a server's (``server``, for localhost and 127.0.0.1), both
    valid for a year. The CA's own key is not kept: the certificates are all that it ever issues.

    Args:
        directory: where it is or shall be; nothing happens here yet.

    Attributes:
        directory: its absolute path.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = Path(os.path.abspath(directory))  # noqa: PTH100 - symbolic links stay as they were named

    @classmethod
    def default(cls) -> DevelopmentToken:
        """The one in the user's data directory (XDG Base Directory Specification)."""
        data = os.environ.get("XDG_DATA_HOME", "")
        home = Path(data) if Path(data).is_absolute() else Path.home() / ".local" / "share"
        return cls(home / "tokenauth" / "softtoken")

    @property
    def configuration(self) -> Path:
        """SoftHSM's configuration file, for ``SOFTHSM2_CONF``."""
        return self.directory / "softhsm2.conf"

    @property
    def ca(self) -> Path:
        """The CA's certificate, PEM."""
        return self.directory / "ca.pem"

    @property
    def pin(self) -> Path:
        """The file with the PIN, readable by its owner only."""
        return self.directory / "pin"

    @property
    def exists(self) -> bool:
        """Whether the directory holds such a token."""
        return (self.directory / _MARK).is_file()

    def environment(self) -> dict[str, str]:
        """The environment variables with which tokenauth, and everything else that uses SoftHSM, finds it.

        ``TOKENAUTH_MODULE`` is one of them so that its PIN is never sent to another token.

        Raises:
            TokenAuthError: there is no such token.
            ModuleError: SoftHSM is not installed.
        """
        if not self.exists:
            raise TokenAuthError(
                f"{self.directory} holds no token for development", hint="make one with 'tokenauth softtoken init'"
            )
        return {
            softhsm.CONFIGURATION: str(self.configuration),
            "TOKENAUTH_MODULE": softhsm.softhsm_module(),
            "TOKENAUTH_PIN_SOURCE": f"file:{self.pin}",
        }

    def create(self, label: str, key_type: str, *, replace: bool = False) -> None:
        """Make it; if that fails, nothing is left and what was there is there again.

        Args:
            label: the token's label, at most 32 bytes of UTF-8.
            key_type: of both keys, as for :class:`~tokenauth.testing.SoftToken`.
            replace: put it in the place of one that exists.

        Raises:
            TokenAuthError: something else is there, or one is and shall not be replaced; or SoftHSM refused.
            ModuleError: SoftHSM is not installed.
            OSError: the directory can not be made.
        """
        self._check_path()
        if not self._vacant():
            if self.exists and not replace:
                raise TokenAuthError(
                    f"{self.directory} holds a token already",
                    hint=f"'tokenauth softtoken path {self.directory}' shows how to use it; "
                    "--force replaces it and all its keys",
                )
            self._check_ours()
        softhsm.softhsm_module()  # if that is missing, nothing is made
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{self.directory.name}.", dir=self.directory.parent) as beside:
            made, before = Path(beside, "made"), Path(beside, "before")
            self._fill(made, label, key_type)
            if self.directory.exists():
                self.directory.rename(before)
            try:
                made.rename(self.directory)
            except BaseException:
                if before.exists():
                    before.rename(self.directory)
                raise

    def remove(self) -> None:
        """Remove it and its keys.

        Raises:
            TokenAuthError: the directory holds something else.
        """
        self._check_ours()
        shutil.rmtree(self.directory)

    def _fill(self, made: Path, label: str, key_type: str) -> None:
        """Make the directory's contents elsewhere, from where they are moved."""
        authority = Authority("tokenauth development CA")
        until = authority.certificate.not_valid_after_utc
        tokens = made / "tokens"
        with SoftToken(label, key_type=None, authority=authority) as token:
            token.add_identity("client", key_type=key_type, not_after=until)
            token.add_identity(
                "server", key_type=key_type, purposes=["tls-server"], names=["localhost", "127.0.0.1"], not_after=until
            )
            for path in (made, tokens):
                path.mkdir(mode=0o700)
            for found in softhsm.token_directories(token.configuration.parent, token.serial):
                shutil.copytree(found, tokens / found.name)
            _write_private(made / "pin", token.pin + "\n")
        _write_private(made / "softhsm2.conf", softhsm.configuration_text(self.directory / "tokens"))
        (made / "ca.pem").write_bytes(authority.pem)
        (made / _MARK).write_text(_MARK_TEXT)

    def _vacant(self) -> bool:
        """Whether nothing is there, or an empty directory."""
        if self.directory.is_symlink() or not self.directory.is_dir():
            return not os.path.lexists(self.directory)
        return not any(self.directory.iterdir())

    def _check_path(self) -> None:
        if _NOT_IN_CONFIGURATION.search(str(self.directory)):
            raise TokenAuthError(
                f"SoftHSM can not use the directory {str(self.directory)!r}", hint="use a path without '#' and '='"
            )

    def _check_ours(self) -> None:
        if self.directory.is_symlink() or not self.exists:
            raise TokenAuthError(
                f"{self.directory} holds no token for development, and is left alone", hint="name another directory"
            )
        strangers = sorted({entry.name for entry in self.directory.iterdir()} - _CONTENTS)
        if strangers:
            raise TokenAuthError(
                f"{self.directory} also holds {strangers[0]!r}, and is left alone", hint="move other files away first"
            )


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
