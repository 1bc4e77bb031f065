"""Tokens of several makers' modules, each with an RSA identity and, where the module has such keys, a P-256 one."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.support.modules.trials import Made
from tests.support.piv.handle import Holder
from tests.support.piv.profile import yubikey
from tests.support.piv.stack import YUBIKEY_READER, CardStack, opensc_module, ykcs11_module
from tests.support.programs import find_module, require
from tokenauth.provisioning.softhsm import softhsm_module
from tokenauth.testing import Authority

__all__ = ["PROVIDERS"]

_KEYS = ("rsa2048", "p256")
_CARD = {"9A": Holder("rsa2048", "rsa2048"), "9D": Holder("p256", "p256")}
_STARTED = 10.0  # seconds
#: openCryptoki's daemon, with directories of the first argument in place of the paths that it and the module know.
#: Those that use it must be in the group pkcs11, which is root's own here: another one can not be given to files by
#: somebody who is root in a namespace only.
_SLOT_DAEMON = """\
set -e
mount -t tmpfs none /dev/shm
mount --bind "$1/run" /run
mount --bind "$1/lib" /var/lib/opencryptoki
mount --bind "$1/opencryptoki.conf" /etc/opencryptoki/opencryptoki.conf
mount --bind "$1/group" /etc/group
exec setpriv --pdeathsig TERM pkcsslotd -f
"""


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
    """tpm2-pkcs11 on a TPM in software, shared out by tpm2-abrmd as Linux shares out a real one."""
    with _swtpm(directory) as tpm, _resource_manager(tpm, directory) as environment:
        made = Made(
            *("tpm2-pkcs11", find_module("libtpm2_pkcs11.so*"), "pkcs11:token=tpm", "1234", "4321"),
            *(Authority(), _KEYS, environment),
        )
        # The module itself makes no keys from the attributes that python-pkcs11 gives.
        made.run("tpm2_ptool", "init")
        pins = ("--userpin", made.pin, "--sopin", "5678")
        made.run("tpm2_ptool", "addtoken", "--pid", "1", "--label", "tpm", *pins)
        for kind, algorithm in zip(made.keys, ("rsa2048", "ecc256"), strict=True):
            key = ("--label", "tpm", "--key-label", kind, "--userpin", made.pin)
            made.run("tpm2_ptool", "addkey", *key, "--algorithm", algorithm)
        for kind, certificate in zip(made.keys, made.issue(directory), strict=True):
            made.run("tpm2_ptool", "addcert", "--label", "tpm", "--key-label", kind, certificate)
        yield made


@contextmanager
def _swtpm(directory: Path) -> Iterator[str]:
    """A TPM; how tpm2-tss reaches it."""
    socket = directory / "socket"
    options = ("--flags", "not-need-init,startup-clear", "--tpmstate", f"dir={directory}")
    sockets = ("--server", f"type=unixio,path={socket}", "--ctrl", f"type=unixio,path={socket}.ctrl")
    with _running(directory / "swtpm.log", "swtpm", "socket", "--tpm2", *options, *sockets, ready=socket.exists):
        yield f"swtpm:path={socket}"


@contextmanager
def _resource_manager(tpm: str, directory: Path) -> Iterator[dict[str, str]]:
    """Because a TPM has room for three objects. It is reached by D-Bus; the bus is one of our own."""
    (directory / "store").mkdir()
    address = f"unix:path={directory / 'bus'}"
    bus = ("dbus-daemon", "--session", "--nofork", "--nopidfile", f"--address={address}")
    shared = "tabrmd:bus_type=session"
    environment = {"DBUS_SESSION_BUS_ADDRESS": address, "TPM2_PKCS11_STORE": str(directory / "store")}
    environment |= dict.fromkeys(("TPM2_PKCS11_TCTI", "TPM2TOOLS_TCTI", "TCTI"), shared)
    manager = ("tpm2-abrmd", "--session", f"--tcti={tpm}", *(("--allow-root",) if os.geteuid() == 0 else ()))
    log = directory / "abrmd.log"
    with (
        _running(directory / "bus.log", *bus, ready=(directory / "bus").exists),
        _running(log, *manager, ready=lambda: _answers(environment), environment=environment),
    ):
        yield environment


def _answers(environment: dict[str, str]) -> bool:
    command = [require("tpm2_getrandom"), "1"]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, check=False)
    return done.returncode == 0


@contextmanager
def _running(
    log: Path, program: str, *arguments: str, ready: Callable[[], bool], environment: dict[str, str] | None = None
) -> Iterator[int]:
    """A program, once it is ready: its process id; it ends with the block, and with the thread that started it."""
    command = [require("setpriv"), "--pdeathsig", "TERM", require(program), *arguments]
    variables = {**os.environ, **(environment or {})}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=variables)
    try:
        end = time.monotonic() + _STARTED
        while not ready():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{program} does not start:\n{log.read_text(errors='replace')}")
            time.sleep(0.01)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


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


@contextmanager
def opencryptoki(directory: Path) -> Iterator[Made]:
    """openCryptoki's soft token, in a mount and an IPC namespace where its daemon is alone."""
    socket = directory / "run" / "pkcsslotd.socket"
    for place in ("run/lock/opencryptoki/swtok", "lib/swtok/TOK_OBJ"):
        (directory / place).mkdir(parents=True)
    (directory / "opencryptoki.conf").write_text("version opencryptoki-3.8\nslot 0\n{\nstdll = libpkcs11_sw.so\n}\n")
    (directory / "group").write_text("root:x:0:\npkcs11:x:0:root\n")
    as_root = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    daemon = ("unshare", "--mount", "--ipc", *as_root, "--", "sh", "-c", _SLOT_DAEMON, "sh", str(directory))
    with _running(directory / "pkcsslotd.log", *daemon, ready=socket.exists) as pid:
        there = ("--mount", "--ipc", "--root", *(("--user", "--preserve-credentials") if as_root else ()))
        made = Made(
            *("opencryptoki", find_module("libopencryptoki.so"), "pkcs11:token=soft", _eight_digits(), "4321"),
            *(Authority(), ("rsa2048",), {}, (require("nsenter"), "--target", str(pid), *there, "--")),
        )
        # The PINs that a new token has are known to all, and have to be changed before it does anything.
        security_officer, first = _eight_digits(), _eight_digits()
        for change in (
            ("-I", "-S", "87654321"),  # asks for the label
            ("-P", "-S", "87654321", "-n", security_officer),
            ("-u", "-S", security_officer, "-n", first),
            ("-p", "-U", first, "-n", made.pin),
        ):
            made.run("pkcsconf", "-c", "0", *change, input="soft\n")
        made.fill(directory)
        yield made


def _eight_digits() -> str:
    return f"{secrets.randbelow(10**8):08}"


#: By name; each takes an empty directory.
PROVIDERS: dict[str, Callable[[Path], AbstractContextManager[Made]]] = {
    "softhsm": softhsm,
    "opensc": opensc,
    "ykcs11": ykcs11,
    "tpm2-pkcs11": tpm2,
    "nss": nss,
    "opencryptoki": opencryptoki,
}
