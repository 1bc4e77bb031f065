"""A program that uses tokenauth with the card, while things happen to the card.

    python steps_script.py MODULE URI PORT CAFILE STEP...

Steps: ``handshake`` with the server on PORT, all with one context, or ``connect`` to it with one that keeps TLS
sessions; ``get`` from it with one ``tokenauth.Session``, a new connection each time; ``sign`` with the private key of
one identity; ``list``; ``remove`` and ``insert`` the card; ``stop``, ``start`` and ``restart`` pcscd; ``reset`` the
card, as another program may; ``pulled`` and ``pulled_early``, a ``get`` during whose signature or login the card is
pulled out; ``killed``, one during whose signature pcscd is killed and started again. ``prompts`` says how often a PIN
was asked for, ``quick`` whether each failure took less than a second, but for those of the last three kinds. The PINs
are in the variable CARD_PIN, with commas between them: each prompt gets the next, and the last one for ever. For each
step a line: the step, and ``ok``, or the error and its text.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

import tokenauth
from tests.support.connect import fetch
from tests.support.piv.handle import CardHandle, attach, attached_ask

if TYPE_CHECKING:
    from collections.abc import Callable

_TIMEOUT = 30.0  # seconds
_LONG = 60.0  # seconds
_A_WHILE = 1.0  # seconds; pcscd goes only when the card has answered
_QUICK = 1.0  # seconds


class Steps:
    """The methods are the steps."""

    def __init__(self, module: str, uri: str, port: int, cafile: str) -> None:
        self._port = port
        self._pins = os.environ.pop("CARD_PIN").split(",")
        self._prompts = 0
        self._failures: list[float] = []  # how long they took
        self._identity: Any = None
        self._options: dict[str, Any] = {"module": module, "pin": self._ask}
        self._uri = uri
        self._cafile = cafile
        self._context = tokenauth.create_context(uri, cafile=cafile, reuse_sessions=False, **self._options)
        self._keeping = tokenauth.create_context(uri, cafile=cafile, **self._options)
        self._session = self._new_session()

    def _new_session(self) -> tokenauth.Session:
        return tokenauth.Session(self._uri, verify=self._cafile, **self._options)

    def _ask(self, _: object) -> str:
        self._prompts += 1
        return self._pins.pop(0) if len(self._pins) > 1 else self._pins[0]

    def do(self, step: str) -> str:
        """Do a step; what it came to."""
        begun = time.monotonic()
        try:
            answer = getattr(self, step)()
        except (tokenauth.TokenAuthError, OSError) as error:
            if step not in {"pulled", "pulled_early", "killed"}:
                self._failures.append(time.monotonic() - begun)
            return told(error)
        return answer or "ok"

    def handshake(self) -> None:
        fetch(self._context, self._port)

    def connect(self) -> None:
        fetch(self._keeping, self._port)

    def get(self) -> None:
        url = f"https://localhost:{self._port}/"
        self._session.get(url, headers={"Connection": "close"}, timeout=_TIMEOUT).raise_for_status()

    def sign(self) -> None:
        if self._identity is None:
            self._identity = tokenauth.identity(self._uri, **self._options)
        key = self._identity.private_key
        if isinstance(key, rsa.RSAPrivateKey):
            signature = key.sign(b"text", padding.PKCS1v15(), hashes.SHA256())
            key.public_key().verify(signature, b"text", padding.PKCS1v15(), hashes.SHA256())
        else:
            signature = key.sign(b"text", ec.ECDSA(hashes.SHA256()))
            key.public_key().verify(signature, b"text", ec.ECDSA(hashes.SHA256()))

    def list(self) -> None:
        tokenauth.identities(self._uri, module=self._options["module"])

    def prompts(self) -> str:
        return str(self._prompts)

    def quick(self) -> str:
        slowest = max(self._failures)
        return "ok" if slowest < _QUICK else f"{slowest:.1f} seconds"

    # --- what others do meanwhile ---

    def remove(self) -> None:
        attach().remove()

    def insert(self) -> None:
        attach().insert()

    def pulled(self) -> None:
        self._get_while("GENERAL AUTHENTICATE", _LONG, lambda: attach().remove())

    def pulled_early(self) -> None:
        self._get_while("VERIFY", _LONG, lambda: attach().remove())

    def killed(self) -> None:
        self._get_while("GENERAL AUTHENTICATE", _A_WHILE, self.restart)

    def _get_while(self, instruction: str, latency: float, happening: Callable[[], object]) -> None:
        """A request during which something happens, when the card carries out an instruction that takes long."""
        self._session = self._new_session()  # what TLS sessions the old one kept would spare the card its work
        card = attach()
        card.set_latency(instruction, latency)
        meanwhile = threading.Thread(target=do_when_busy, args=(card, instruction, happening))
        meanwhile.start()
        try:
            self.get()
        finally:
            meanwhile.join()
            card.set_latency(instruction, 0)

    def stop(self) -> None:
        attached_ask("stop_pcscd", True)

    def start(self) -> None:
        attached_ask("start_pcscd")

    def restart(self) -> None:
        self.stop()
        self.start()

    def reset(self) -> None:
        subprocess.run(["opensc-tool", "--reset"], check=True, capture_output=True)


def do_when_busy(card: CardHandle, instruction: str, what: Callable[[], object]) -> None:
    end = time.monotonic() + _TIMEOUT
    while card.busy != instruction and time.monotonic() < end:
        time.sleep(0.005)
    what()


def told(error: BaseException) -> str:
    """The kind and text of a token's error; requests wraps it several times."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, tokenauth.TokenAuthError):
        seen = seen.__cause__ or seen.__context__
    if seen is None:
        raise error
    cause = seen.__cause__ if isinstance(seen, tokenauth.HandshakeFailed) else seen
    assert str(seen) in str(error)  # whoever catches the outermost error reads the token's as well
    return f"{type(cause).__name__}: {seen}"


if __name__ == "__main__":
    module, uri, port, cafile, *steps = sys.argv[1:]
    program = Steps(module, uri, int(port), cafile)
    for step in steps:
        print(f"{step}: {program.do(step)}", flush=True)
