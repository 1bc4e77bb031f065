"""``tokenauth softtoken``: a SoftHSM token that stays, for development."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokenauth.cli import output
from tokenauth.cli.options import verbose_option

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenauth.testing.development import DevelopmentToken

__all__ = ["command"]

#: Those of tokenauth.provisioning.keys.KEY_TYPES, which is slow to import; a test compares them.
_KEY_TYPES = ("rsa2048", "rsa3072", "rsa4096", "p256", "p384", "p521", "ed25519")
_LABEL_BYTES = 32  # CK_TOKEN_INFO.label

_directory: Callable[[Any], Any] = click.argument("directory", metavar="[DIR]", required=False, type=click.Path())


@click.group("softtoken", short_help="Make, use and remove a SoftHSM token for development.")
def command() -> None:
    """Make a SoftHSM token for development: with a client's and a server's identity, a CA and a PIN.

    It is made in DIR, or else in ~/.local/share/tokenauth/softtoken, for you only.
    """


def _label(_context: click.Context, _option: click.Parameter, label: str) -> str:
    if not 0 < len(label.strip().encode("utf-8", "replace")) <= _LABEL_BYTES or not label.isprintable():
        raise click.BadParameter(f"a label is 1 to {_LABEL_BYTES} bytes of printable text")
    return label


@command.command("init")
@_directory
@click.option("--label", default="dev", show_default=True, callback=_label, help="The token's label.")
@click.option("--key-type", type=click.Choice(_KEY_TYPES), default="p256", show_default=True, help="Of both keys.")
@click.option("--force", is_flag=True, help="Replace the token that is there, and all its keys.")
@verbose_option
def init(directory: str | None, label: str, key_type: str, force: bool) -> None:
    """Make the token, and write to stdout what to export.

    \b
    eval "$(tokenauth softtoken init)"

    The CA's own key is not kept: the two certificates are all that it ever issues.
    """
    token = _token(directory)
    token.create(label, key_type, replace=force)
    _write_exports(token)
    output.say(f"made a token in {token.directory}; its certificates are good for a year")
    output.say("'tokenauth list' shows it once its variables are set; if what is on stdout was not evaluated by your")
    output.say(f"shell, run: {_evaluate(directory)}")
    output.say(f"servers that are to accept its client, and clients its server, must trust {token.ca}")


@command.command("path")
@_directory
@verbose_option
def path(directory: str | None) -> None:
    """Write to stdout what to export to use the token."""
    _write_exports(_token(directory))


@command.command("remove")
@_directory
@verbose_option
def remove(directory: str | None) -> None:
    """Remove the token and its keys for good."""
    token = _token(directory)
    token.remove()
    output.say(f"removed the token in {token.directory}")


def _token(directory: str | None) -> DevelopmentToken:
    from tokenauth.testing.development import DevelopmentToken

    return DevelopmentToken(Path(directory)) if directory else DevelopmentToken.default()


def _write_exports(token: DevelopmentToken) -> None:
    import shlex

    for name, value in token.environment().items():
        output.write(f"export {name}={shlex.quote(value)}")


def _evaluate(directory: str | None) -> str:
    import shlex

    named = f" {shlex.quote(directory)}" if directory else ""
    return f'eval "$(tokenauth softtoken path{named})"'
