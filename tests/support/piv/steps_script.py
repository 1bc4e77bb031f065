"""A program that uses tokenauth with the card, while things happen to the card.

    python steps_script.py MODULE URI PORT CAFILE STEP...

Steps: ``handshake`` with the server on PORT, all with one context; ``sign`` with the private key of one identity;
``list``; ``remove`` and ``insert`` the card; ``restart`` pcscd; ``reset`` the card, as another program may. The PIN is
in the variable CARD_PIN. For each step a line: the step, and ``ok``, or the error and its text.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

import tokenauth
from tests.support.connect import fetch
from tests.support.piv.handle import attach, attached_ask
from tokenauth.pin import Env


def main(module: str, uri: str, port: int, cafile: str, steps: list[str]) -> None:
    pin = Env("CARD_PIN")
    context = tokenauth.create_context(uri, module=module, pin=pin, cafile=cafile, reuse_sessions=False)
    keeping = tokenauth.create_context(uri, module=module, pin=pin, cafile=cafile)
    identities: list[Any] = []

    def sign() -> None:
        if not identities:
            identities.append(tokenauth.identity(uri, module=module, pin=pin))
        key = identities[0].private_key
        if isinstance(key, rsa.RSAPrivateKey):
            signature = key.sign(b"text", padding.PKCS1v15(), hashes.SHA256())
            key.public_key().verify(signature, b"text", padding.PKCS1v15(), hashes.SHA256())
        else:
            signature = key.sign(b"text", ec.ECDSA(hashes.SHA256()))
            key.public_key().verify(signature, b"text", ec.ECDSA(hashes.SHA256()))

    def restart() -> None:
        attached_ask("stop_pcscd", False)
        attached_ask("start_pcscd")

    known: dict[str, Callable[[], object]] = {
        "handshake": lambda: fetch(context, port),
        "connect": lambda: fetch(keeping, port),
        "sign": sign,
        "list": lambda: tokenauth.identities(uri, module=module),
        "remove": lambda: attach().remove(),
        "insert": lambda: attach().insert(),
        "restart": restart,
        "reset": lambda: subprocess.run(["opensc-tool", "--reset"], check=True, capture_output=True),
    }
    for step in steps:
        try:
            known[step]()
        except tokenauth.TokenAuthError as error:
            cause = error.__cause__ if isinstance(error, tokenauth.HandshakeFailed) else error
            print(f"{step}: {type(cause).__name__}: {error}")
        else:
            print(f"{step}: ok")


if __name__ == "__main__":
    module, uri, port, cafile, *steps = sys.argv[1:]
    main(module, uri, int(port), cafile, steps)
