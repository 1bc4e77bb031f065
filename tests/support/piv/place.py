"""A card, the module that serves it, and a server that takes its certificates."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tests.support.nginx import Nginx
    from tests.support.piv.stack import CardStack
    from tokenauth.testing import MTLSServer

__all__ = ["IDS", "PIN", "Place"]

#: Slot: the ``CKA_ID`` of its objects, the same in OpenSC's module and Yubico's.
IDS = {"9A": "01", "9C": "02", "9D": "03", "9E": "04"}
PIN = "123456"
_SCRIPT = Path(__file__).with_name("steps_script.py")


class Place(NamedTuple):
    """Where programs use a card."""

    stack: CardStack
    module: Path
    server: MTLSServer | Nginx

    def tokenauth(self, *arguments: str, pin: str = PIN) -> subprocess.CompletedProcess[bytes]:
        """Run the command."""
        command = (sys.executable, "-m", "tokenauth", *arguments)
        module = str(self.module)
        return self.stack.run(*command, CARD_PIN=pin, TOKENAUTH_PIN_SOURCE="env:CARD_PIN", TOKENAUTH_MODULE=module)

    def get(self, *arguments: str, pin: str = PIN) -> subprocess.CompletedProcess[bytes]:
        """Run ``tokenauth get``."""
        return self.tokenauth("get", self.server.url, "--cacert", str(self.server.cafile), *arguments, pin=pin)

    def steps(self, *steps: str, slot: str = "9A", pin: str = PIN, timeout: float = 60) -> list[str]:
        """What each step of ``steps_script`` came to.

        Args:
            *steps: the steps.
            slot: the identity's.
            pin: the PINs, with commas between them.
            timeout: seconds.
        """
        arguments = (self.module, f"pkcs11:id=%{IDS[slot]}", str(self.server.port), self.server.cafile)
        done = self.stack.run(sys.executable, _SCRIPT, *arguments, *steps, timeout=timeout, CARD_PIN=pin)
        assert done.returncode == 0, done.stderr.decode()
        lines = done.stdout.decode().splitlines()
        assert [line.partition(":")[0] for line in lines] == list(steps)
        return [line.partition(": ")[2] for line in lines]
