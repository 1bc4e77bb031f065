"""The command ``tokenauth`` itself: finds the subcommand, runs it, and turns whatever goes wrong into an exit code."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from typing import TYPE_CHECKING

import click

from tokenauth import __version__
from tokenauth.cli import failures, output

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["cli", "run"]

#: Each subcommand's module, which is imported only when the subcommand is used; in the order of ``--help``.
_COMMANDS = {
    "list": "tokenauth.cli.commands.list",
    "show": "tokenauth.cli.commands.show",
    "get": "tokenauth.cli.commands.get",
    "sign": "tokenauth.cli.commands.sign",
    "verify": "tokenauth.cli.commands.verify",
    "extend": "tokenauth.cli.commands.extend",
    "container": "tokenauth.cli.commands.container",
    "readers": "tokenauth.cli.commands.readers",
    "softtoken": "tokenauth.cli.commands.softtoken",
    "demo": "tokenauth.cli.commands.demo",
    "doctor": "tokenauth.cli.commands.doctor",
    "completion": "tokenauth.cli.commands.completion",
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(_COMMANDS[cmd_name]).command
        return command


@click.group(cls=_LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", message="tokenauth %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Use the private key in a smart card, YubiKey, TPM or HSM wherever a certificate-and-key file is used.

    A token or key is named by a pkcs11: URI (RFC 7512); a bare word is taken as a token's label.

    \b
    Exit codes:
      0  done
      1  failed
      2  wrong usage
      3  no module, no reader, no token, no identity, or several where one is needed
      4  PIN required, wrong, refused or locked
      5  the other side refused, or TLS with it failed
     10  verify: a signature is invalid
     11  verify: whether one is valid can not be told
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(failures.USAGE)


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: those of the command line, without the program's name.

    Returns:
        The exit code.
    """
    output.prepare()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # they are for developers; what a user must know is an error or a finding
    try:
        code = cli.main(list(arguments), prog_name="tokenauth", standalone_mode=False)
        sys.stdout.flush()
    except (click.Abort, KeyboardInterrupt):
        return failures.INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush when the interpreter ends
        return failures.FAILED
    except Exception as error:  # noqa: BLE001 - the last resort: nobody sees a traceback unasked
        return failures.report(error)
    return code if isinstance(code, int) else failures.DONE
