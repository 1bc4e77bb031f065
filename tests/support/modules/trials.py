"""A token of some module, and the program that tries it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.programs import openssl, require

if TYPE_CHECKING:
    from tokenauth.testing import Authority

__all__ = ["Made", "verify_with_openssl"]

_SCRIPT = Path(__file__).with_name("trial_script.py")
_ROOT = Path(__file__).parents[3]
_TIMEOUT = 60.0  # seconds


@dataclass
class Made:
    """A token with identities whose certificates an authority issued.

    Args:
        name: the module's, in the tests' names.
        module: its file.
        token: a URI that selects the token.
        pin: the user's PIN.
        wrong_pin: one that it is not.
        authority: who issued the certificates.
        keys: the common names of the certificates.
        environment: the variables that the module needs.
        launcher: a command that runs another one where the module works.
    """

    name: str
    module: Path
    token: str
    pin: str = field(repr=False)
    wrong_pin: str
    authority: Authority
    keys: tuple[str, ...]
    environment: Mapping[str, str]
    launcher: tuple[str, ...] = ()

    def run(self, *command: str | Path, input: str = "", **more: str) -> subprocess.CompletedProcess[bytes]:
        """Run a program that uses the module; it has to succeed."""
        program, *arguments = command
        paths = os.pathsep.join(map(str, (_ROOT, _ROOT / "src")))
        done = subprocess.run(
            [*self.launcher, require(str(program)), *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": paths, **self.environment, **more},
            input=input.encode(),
            capture_output=True,
            timeout=_TIMEOUT,
            start_new_session=True,
            check=False,
        )
        assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")
        return done

    def trial(self, what: str, *arguments: str | Path, pin: str | None = None) -> Any:
        """What ``trial_script`` finds out."""
        command = (sys.executable, _SCRIPT, self.module, self.token, what, *arguments)
        done = self.run(*command, TOKEN_PIN=self.pin if pin is None else pin)
        return json.loads(done.stdout)

    def fill(self, directory: Path) -> None:
        """Generate the keys in the token, have certificates issued and store them, all through the module."""
        self.trial("make", *self.keys)
        self.issue(directory)
        self.trial("store", directory, *self.keys)

    def issue(self, directory: Path) -> list[Path]:
        """Certificates for the keys in the token; their files, in the order of the keys."""
        requests = self.trial("request", *self.keys)
        files = [directory / f"{kind}.pem" for kind in self.keys]
        for kind, file in zip(self.keys, files, strict=True):
            certificate = self.authority.issue(x509.load_pem_x509_csr(requests[kind].encode()))
            file.write_bytes(certificate.public_bytes(Encoding.PEM))
        return files


def verify_with_openssl(directory: Path, name: str, message: bytes) -> None:
    """See that OpenSSL's program takes a signature that the ``sign`` trial wrote, by its name: KEY SCHEME HASH."""
    key, scheme, digest = name.rsplit(" ", 2)
    options = ("-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest") if scheme == "PSS" else ()
    files = ("-verify", directory / f"{key}.pub", "-signature", directory / f"{name}.sig")
    openssl("dgst", f"-{digest}", *options, *files, input=message)
