"""``tokenauth completion``: the script that lets a shell complete tokenauth's commands and options."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command("completion", short_help="Write a shell's completion script.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Write the script that completes commands and options in a shell.

    \b
    bash:  echo 'eval "$(tokenauth completion bash)"' >> ~/.bashrc
    zsh:   echo 'eval "$(tokenauth completion zsh)"' >> ~/.zshrc
    fish:  tokenauth completion fish > ~/.config/fish/completions/tokenauth.fish
    """
    from click.shell_completion import get_completion_class

    script = get_completion_class(shell)
    if script is None:  # click knows all three
        raise click.UsageError(f"click has no completion for {shell}")
    click.echo(script(context.find_root().command, {}, "tokenauth", "_TOKENAUTH_COMPLETE").source())
