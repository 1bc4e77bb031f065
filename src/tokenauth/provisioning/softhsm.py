"""SoftHSM tokens: where the library is, its configuration, and new tokens in it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tokenauth.errors import ModuleError
from tokenauth.pkcs11.binding import writable_session
from tokenauth.pkcs11.discovery import discover
from tokenauth.pkcs11.modules import Module, load_module, other_modules
from tokenauth.pkcs11.returnvalues import ReturnValue, error_for

if TYPE_CHECKING:
    from tokenauth.pkcs11.tokens import Token

__all__ = [
    "CONFIGURATION",
    "configuration_in_use",
    "configuration_text",
    "new_token",
    "remove_token",
    "softhsm_module",
    "tell_isolated",
    "token_directories",
    "use_configuration",
    "write_configuration",
]

#: The environment variable that names SoftHSM's configuration file.
CONFIGURATION = "SOFTHSM2_CONF"
_TEMPLATE = """\
directories.tokendir = {tokens}
objectstore.backend = file
log.level = ERROR
slots.removable = false
"""


def softhsm_module() -> str:
    """The path of SoftHSM's PKCS#11 module.

    Raises:
        ModuleError: it is not installed.
    """
    try:
        candidates = discover(module_name="softhsm2", environ={})
    except ModuleError:
        candidates = []
    if not candidates:
        raise ModuleError(
            "SoftHSM is not installed",
            hint="install it: 'apt install softhsm2' (Debian, Ubuntu), 'dnf install softhsm' (Fedora), "
            "'brew install softhsm' (macOS)",
        )
    return candidates[0].path


def write_configuration(directory: Path) -> Path:
    """Make a directory for tokens, with SoftHSM's configuration, that only its owner can read.

    Args:
        directory: made if it does not exist.

    Returns:
        The configuration file, for ``SOFTHSM2_CONF``.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    tokens = directory / "tokens"
    tokens.mkdir(mode=0o700, exist_ok=True)
    configuration = directory / "softhsm2.conf"
    configuration.touch(mode=0o600)
    configuration.write_text(configuration_text(tokens.resolve()))
    return configuration


def configuration_text(tokens: Path) -> str:
    """SoftHSM's configuration.

    Args:
        tokens: the directory with the tokens.
    """
    return _TEMPLATE.format(tokens=tokens)


def configuration_in_use() -> Path | None:
    """The configuration file that this process was told to use; None for what the system says."""
    name = os.environ.get(CONFIGURATION)
    return Path(name) if name else None


def use_configuration(configuration: Path | None) -> Module:
    """Let SoftHSM in this process, and in processes that it starts, use a configuration.

    It is not isolated, whatever ``TOKENAUTH_ISOLATE`` says: :func:`~tokenauth.pkcs11.binding.writable_session` has to
    find it in this process. Where it is isolated besides, that process is told by :func:`tell_isolated`.

    Args:
        configuration: the file; None for what the system says.

    Raises:
        ModuleError: SoftHSM is not installed, or can not be initialised with it.
    """
    before = os.environ.get(CONFIGURATION)
    if configuration is None:
        os.environ.pop(CONFIGURATION, None)
    else:
        os.environ[CONFIGURATION] = str(configuration)
    module = load_module(softhsm_module(), isolate=False)
    if os.environ.get(CONFIGURATION) != before:
        module.reload()
        tell_isolated(module)
    return module


def tell_isolated(module: Module) -> None:
    """Let SoftHSM see which tokens there are now, where it runs in a process of its own.

    Args:
        module: SoftHSM in this process.
    """
    for other in other_modules(module):
        other.gate.expire()


def new_token(module: Module, label: str, so_pin: str, pin: str) -> Token:
    """Initialise SoftHSM's blank token.

    Args:
        module: SoftHSM.
        label: at most 32 bytes of UTF-8.
        so_pin: the security officer's PIN.
        pin: the user's PIN.

    Raises:
        TokenAuthError: SoftHSM refused.
    """
    slot = module.blank_slot()
    try:
        module.cryptoki.init_token(slot, so_pin, label)
        token = next(token for token in module.tokens()[0] if token.slot.id == slot)
        with writable_session(token, "setting the PIN") as session:
            module.cryptoki.login(session.handle, so_pin, "so")
            try:
                session.init_pin(pin)
            finally:
                module.cryptoki.logout(session.handle)
    except ReturnValue as error:
        raise error_for(error.name, "initialising the token", label) from None
    tell_isolated(module)
    return token


def remove_token(directory: Path, serial: str) -> None:
    """Delete a token from the directory that :func:`write_configuration` made."""
    for found in token_directories(directory, serial):
        shutil.rmtree(found)


def token_directories(directory: Path, serial: str) -> list[Path]:
    """Where a token is, in the directory that :func:`write_configuration` made.

    SoftHSM names a token's directory by a UUID that ends with the serial number.
    """
    return list((directory / "tokens").glob(f"*-{serial[:4]}-{serial[4:]}*"))
