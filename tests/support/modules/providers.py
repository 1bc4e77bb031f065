"""Tokens of several makers' modules, each with an RSA and a P-256 identity."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.support.modules.trials import Made
from tests.support.piv.handle import Holder
from tests.support.piv.profile import yubikey
from tests.support.piv.stack import YUBIKEY_READER, CardStack, opensc_module, ykcs11_module
from tests.support.programs import require
from tokenauth.provisioning.softhsm import softhsm_module
from tokenauth.testing import Authority

__all__ = ["PROVIDERS", "find_module"]

_KEYS = ("rsa2048", "p256")
_CARD = {"9A": Holder("rsa2048", "rsa2048"), "9D": Holder("p256", "p256")}
_STARTED = 10.0  # seconds


def find_module(name: str) -> Path:
    """A module's file, or a failed test."""
    for directory in map(Path, ("/usr/lib", "/usr/lib64")):
        for pattern in (name, f"*/{name}", f"*/pkcs11/{name}", f"pkcs11/{name}", f"*/nss/{name}"):
            for path in sorted(directory.glob(pattern)):
                return path
    pytest.fail(f"the PKCS#11 module {name!r} is not installed and this test needs it", pytrace=False)


@contextmanager
def softhsm(directory: Path) -> Iterator[Made]:
    (directory / "tokens").mkdir()
    configuration = directory / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {directory / 'tokens'}\nlog.level = ERROR\n")
    environment = {"SOFTHSM2_CONF": str(configuration)}
    made = Made("softhsm", Path(softhsm_module()), "pkcs11:token=soft", "1234", "4321", Authority(), _KEYS, environment)
    made.run("softhsm2-util", "--init-token", "--free", "--label", "soft", "--so-pin", "12345678", "--pin", made.pin)
    made.fill(directory)
    yield made


@contextmanager
def _card(name: str, module: Path, stack: CardStack) -> Iterator[Made]:
    with stack:
        authority = Authority()
        stack.card.personalise(authority, _CARD)
        yield Made(name, module, "pkcs11:", "123456", "000000", authority, _KEYS, stack.environment)


def opensc(_: Path) -> AbstractContextManager[Made]:
    return _card("opensc", opensc_module(), CardStack())


def ykcs11(_: Path) -> AbstractContextManager[Made]:
    return _card("ykcs11", ykcs11_module(), CardStack(yubikey(), readers=(YUBIKEY_READER,)))


@contextmanager
def tpm2(directory: Path) -> Iterator[Made]:
    """tpm2-pkcs11 on a TPM in software."""
    state = directory / "state"
    state.mkdir()
    with _swtpm(state) as socket:
        tools, environment = _tpm2_tools(directory, socket)
        made = Made(
            *("tpm2-pkcs11", find_module("libtpm2_pkcs11.so*"), "pkcs11:token=tpm", "1234", "4321"),
            *(Authority(), _KEYS, environment),
        )
        path = os.pathsep.join((str(tools), os.environ.get("PATH", os.defpath)))

        def ptool(what: str, *arguments: str | Path) -> None:
            made.run("tpm2_ptool", what, *arguments, PATH=path)

        # The module itself makes no keys from the attributes that python-pkcs11 gives.
        ptool("init")
        ptool("addtoken", "--pid", "1", "--label", "tpm", "--userpin", made.pin, "--sopin", "5678")
        for kind, algorithm in zip(made.keys, ("rsa2048", "ecc256"), strict=True):
            ptool("addkey", "--label", "tpm", "--key-label", kind, "--algorithm", algorithm, "--userpin", made.pin)
        for kind, certificate in zip(made.keys, made.issue(directory), strict=True):
            ptool("addcert", "--label", "tpm", "--key-label", kind, certificate)
        yield made


@contextmanager
def _swtpm(state: Path) -> Iterator[Path]:
    """A TPM, and its socket."""
    socket = state / "socket"
    options = ("--flags", "not-need-init,startup-clear", "--tpmstate", f"dir={state}")
    sockets = ("--server", f"type=unixio,path={socket}", "--ctrl", f"type=unixio,path={socket}.ctrl")
    command = [require("setpriv"), "--pdeathsig", "TERM", require("swtpm"), "socket", "--tpm2", *options, *sockets]
    with (state / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        end = time.monotonic() + _STARTED
        while not socket.exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        yield socket
    finally:
        process.terminate()
        process.wait()


def _tpm2_tools(directory: Path, socket: Path) -> tuple[Path, dict[str, str]]:
    """A directory for PATH, and the variables.

    A TPM has room for three objects, and no resource manager is here to share it out. So each of tpm2-tools' programs
    clears the room before it works.
    """
    tools, store = directory / "tools", directory / "store"
    tools.mkdir()
    store.mkdir()
    real = Path(require("tpm2_flushcontext"))
    for program in real.parent.glob("tpm2_*"):
        if program.name != "tpm2_ptool":
            wrapper = tools / program.name
            wrapper.write_text(f'#!/bin/sh\n{real} -t >/dev/null 2>&1\nexec {program} "$@"\n')
            wrapper.chmod(0o700)
    tcti = f"swtpm:path={socket}"
    return tools, {"TPM2_PKCS11_STORE": str(store), "TPM2_PKCS11_TCTI": tcti, "TPM2TOOLS_TCTI": tcti, "TCTI": tcti}


@contextmanager
def nss(directory: Path) -> Iterator[Made]:
    """NSS's module for software keys, which takes its parameters from p11-kit's file."""
    database = directory / "nss"
    database.mkdir()
    modules = directory / "modules"
    modules.mkdir()
    pin = secrets.token_hex(8)
    (directory / "pin").write_text(pin)
    path = find_module("libsoftokn3.so")
    parameters = f"configdir='sql:{database}' certPrefix='' keyPrefix='' secmod='secmod.db' flags="
    (modules / "nss.module").write_text(f"module: {path}\nx-init-reserved: {parameters}\n")
    as_root = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    instead = f'mount --bind {modules} /usr/share/p11-kit/modules && exec "$@"'
    launcher = (require("unshare"), "--mount", *as_root, "--", "sh", "-c", instead, "sh")
    made = Made(
        *("nss", path, "pkcs11:token=NSS%20Certificate%20DB", pin, "wrong"),
        *(Authority(), _KEYS, {}, launcher),
    )
    made.run("certutil", "-N", "-d", f"sql:{database}", "-f", directory / "pin")
    made.fill(directory)
    yield made


#: By name; each takes an empty directory.
PROVIDERS: dict[str, Callable[[Path], AbstractContextManager[Made]]] = {
    "softhsm": softhsm,
    "opensc": opensc,
    "ykcs11": ykcs11,
    "tpm2-pkcs11": tpm2,
    "nss": nss,
}
