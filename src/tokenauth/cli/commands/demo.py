"""``tokenauth demo``: the whole main job on SoftHSM tokens that last as long as the command."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import click

from tokenauth.cli import output
from tokenauth.cli.failures import PIN
from tokenauth.cli.options import verbose_option
from tokenauth.errors import TokenAuthError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenauth.testing import MTLSServer, SoftToken

__all__ = ["command"]

_TIMEOUT = 60  # seconds for a command that answers within one


class _Stage(NamedTuple):
    """What the steps have in common."""

    card: SoftToken
    server: MTLSServer


@click.command("demo", short_help="Show the main job on SoftHSM tokens.")
@verbose_option
def command() -> None:
    """Show the main job on SoftHSM tokens: a server that demands a certificate, and clients whose key is in a token.

    Nothing is left behind, and no token but those that the demonstration makes is touched.
    """
    from tokenauth import create_context
    from tokenauth.testing import MTLSServer, SoftToken

    started = time.monotonic()
    with (
        SoftToken("demo-card", key_type="rsa2048") as card,
        SoftToken("demo-server", key_type=None, authority=card.ca) as hsm,
    ):
        site = hsm.add_identity("localhost", purposes=["tls-server"], names=["localhost", "127.0.0.1"])
        context = create_context(site, server_side=True)
        with MTLSServer(card.ca, context=context) as server:
            _play(_Stage(card, server))
    output.write(f"Done in {time.monotonic() - started:.1f} s. The tokens, their keys and the CA are gone.")
    output.write("Next: 'tokenauth list' shows your own tokens; 'tokenauth softtoken init' makes one to keep.")


def _play(stage: _Stage) -> None:
    steps = (
        ("Two SoftHSM tokens, with keys generated in them", _introduce),
        ("Python authenticates: tokenauth.Session", _from_python),
        ("The command line authenticates: tokenauth get", _from_command_line),
        ("The key can not be copied out", _try_export),
        ("A wrong PIN is refused, and sent once", _try_wrong_pin),
    )
    for number, (title, step) in enumerate(steps, 1):
        output.write(f"{number}. {title}")
        step(stage)
        output.write()


def _show(text: str) -> None:
    output.write(f"   {output.printable(text)}")


def _introduce(stage: _Stage) -> None:
    _show(f"the card      {stage.card.uri}, an RSA key of 2048 bits")
    _show(f"the server    {stage.server.url}, an EC key in its own token; it demands a certificate")


def _saw(answer: dict[str, str]) -> None:
    _show(f"the server saw {answer['client_subject']} over {answer['tls_version']}")


def _from_python(stage: _Stage) -> None:
    from tokenauth.clients.http import Session

    _show(">>> session = tokenauth.Session(uri, pin=tokenauth.prompt)")
    _show(">>> session.get(url)")
    with Session(stage.card.uri, pin=stage.card.pin, module=stage.card.module, verify=stage.server.cafile) as session:
        session.trust_env = False  # no proxy stands between two ends of one machine
        _saw(session.get(stage.server.url, timeout=_TIMEOUT).json())


def _from_command_line(stage: _Stage) -> None:
    import json

    done = _get(stage, stage.card.pin)
    if done.returncode:
        raise TokenAuthError(f"'tokenauth get' exited with {done.returncode}: {done.stderr.strip()}")
    _saw(json.loads(done.stdout))


def _get(stage: _Stage, pin: str) -> subprocess.CompletedProcess[str]:
    """Run ``tokenauth get`` in a process of its own, with the PIN in a pipe."""
    reader, writer = os.pipe()
    try:
        os.write(writer, pin.encode() + b"\n")
        os.close(writer)
        options = ("-i", stage.card.uri, "--cacert", stage.server.cafile)
        _show(f"$ tokenauth get {stage.server.url} -i '{stage.card.uri}' --cacert ca.pem")
        unseen = ("--module", stage.card.module, "--pin-source", f"fd:{reader}")
        return _run(("get", stage.server.url, *options, *unseen), reader)
    finally:
        os.close(reader)


def _run(arguments: Sequence[str], descriptor: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tokenauth", *arguments],
        env=os.environ | {"NO_PROXY": "localhost", "no_proxy": "localhost"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        pass_fds=[descriptor],
        check=False,
    )


def _try_export(stage: _Stage) -> None:
    from tokenauth.inventory.search import identity

    _show(">>> tokenauth.identity(uri).private_key.private_bytes(...)")
    try:
        identity(stage.card.uri, module=stage.card.module).private_key.private_bytes()
    except TokenAuthError as error:
        _show(str(error))
    else:
        raise TokenAuthError("the private key was given out")


def _try_wrong_pin(stage: _Stage) -> None:
    wrong = stage.card.pin[::-1] + "0"  # one digit longer than the right one
    done = _get(stage, wrong)
    for line in done.stderr.splitlines():
        _show(line)
    _show(f"exit code {done.returncode}")
    if done.returncode != PIN:
        raise TokenAuthError("the wrong PIN was not refused as it should be")
