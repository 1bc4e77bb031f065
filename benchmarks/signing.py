"""Signatures of documents, beside pyHanko's own PKCS#11 signer and ``openssl cms`` with the pkcs11 engine.

    python benchmarks/signing.py [--pdfs N] [--rounds N] [--mebibytes N]

All contenders use the same key on the same SoftHSM token, in turn. PDFs: one process, ``bytes_reserved`` given, level
B-B; a round signs so many, and the median of the rounds counts. The large file: a detached CAdES signature by whole
processes, as they are started from a shell, with their largest memory.
"""

from __future__ import annotations

import argparse
import compileall
import io
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cryptography.hazmat.primitives.serialization import Encoding
from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter
from pyhanko.sign.fields import SigSeedSubFilter
from pyhanko.sign.pkcs11 import PKCS11Signer
from pyhanko.sign.signers.pdf_signer import PdfSignatureMetadata, PdfSigner

import tokenauth
from tests.support.pdfs import one_page
from tokenauth.pkcs11.binding import _library
from tokenauth.signing import pades
from tokenauth.signing.choice import signing_key
from tokenauth.signing.model import Document, Job
from tokenauth.testing import Authority, SoftToken

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenauth.inventory.identity import Identity

KEY_TYPES = ("rsa2048", "p256")
_RESERVED = 2 * 8192

OURS = """
import sys
from pathlib import Path
from tokenauth.signing import sign
uri, pin, module, source, output = sys.argv[1:]
sign(source, uri, pin=pin, module=module, format="cades", output=output, overwrite=True)
"""


def tokenauths(identity: Identity) -> Callable[[bytes], bytes]:
    job = Job(signing_key(identity))

    def sign(pdf: bytes) -> bytes:
        target = io.BytesIO()
        pades.sign([Document("x.pdf", data=pdf)], job, target)
        return target.getvalue()

    return sign


def pyhankos(token: SoftToken, label: str) -> Callable[[bytes], bytes]:
    """With the option that makes it fast; SoftHSM has no mechanism that hashes for ECDSA."""
    token.token.login(token.credentials)
    [found] = [
        one for one in _library(token.module).get_tokens(token_label=token.label) if one.serial == token.serial.encode()
    ]
    signer = PKCS11Signer(found.open(), cert_label=label, key_label=label, use_raw_mechanism=True)

    def sign(pdf: bytes) -> bytes:
        metadata = PdfSignatureMetadata("Signature1", md_algorithm="sha256", subfilter=SigSeedSubFilter.PADES)
        writer = IncrementalPdfFileWriter(io.BytesIO(pdf))
        output = io.BytesIO()
        PdfSigner(metadata, signer).sign_pdf(writer, bytes_reserved=_RESERVED, output=output)
        return output.getvalue()

    return sign


def per_second(sign: Callable[[bytes], bytes], pdf: bytes, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        sign(pdf)
    return count / (time.perf_counter() - start)


def pdfs(token: SoftToken, kind: str, count: int, rounds: int) -> None:
    identity = tokenauth.identity(f"{token.uri};object={kind}", pin=token.pin, module=token.module)
    contenders = {"tokenauth": tokenauths(identity), "pyHanko": pyhankos(token, kind)}
    pdf = one_page()
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, sign in contenders.items():
            speed = per_second(sign, pdf, count)
            if number:  # the first round fills caches
                taken[name].append(speed)
    shown = {name: statistics.median(speeds) for name, speeds in taken.items()}
    ratio = statistics.median(a / b for a, b in zip(taken["tokenauth"], taken["pyHanko"], strict=True))
    print(
        f"PDFs, {kind}: " + ", ".join(f"{name} {speed:.0f}/s" for name, speed in shown.items()) + f"; ratio {ratio:.2f}"
    )


def measured(command: list[str], environment: dict[str, str]) -> tuple[float, int]:
    """Seconds, and kB of memory at most (Linux; ``ru_maxrss`` would count this process's own)."""
    start, most = time.perf_counter(), 0
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
            most = max(most, int(found[1]) if found else 0)
            time.sleep(0.002)
    taken = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{command[0]} failed with {process.returncode}")
    return taken, most


def large_file(token: SoftToken, kind: str, mebibytes: int, rounds: int, directory: Path) -> None:
    identity = tokenauth.identity(f"{token.uri};object={kind}", module=token.module)
    certificate = directory / "certificate.pem"
    certificate.write_bytes(identity.certificate.public_bytes(Encoding.PEM))
    big = directory / "big"
    with big.open("wb") as file:
        for _ in range(mebibytes):
            file.write(os.urandom(1 << 20))
    environment = os.environ | {"PKCS11_MODULE_PATH": token.module, "PKCS11_PIN": token.pin}
    # As installed: without bytecode, each start would compile the package anew.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    compileall.compile_dir(Path(tokenauth.__file__).parent, quiet=1)
    uri = f"{identity.uri};type=private?pin-value={token.pin}"
    commands = {
        "tokenauth": [
            sys.executable,
            "-c",
            OURS,
            identity.uri,
            token.pin,
            token.module,
            str(big),
            str(directory / "a.p7s"),
        ],
        "openssl": [
            *("openssl", "cms", "-sign", "-cades", "-binary", "-engine", "pkcs11", "-keyform", "engine", "-inkey", uri),
            *("-signer", str(certificate), "-in", str(big), "-outform", "DER", "-out", str(directory / "b.p7s")),
        ],
    }
    taken: dict[str, list[tuple[float, int]]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            result = measured(command, environment)
            if number:
                taken[name].append(result)
    for name, results in taken.items():
        seconds, memory = statistics.median(one for one, _ in results), max(one for _, one in results)
        print(f"{mebibytes} MiB detached, {kind}: {name} {seconds:.2f} s, {memory / 1000:.0f} MB")
    pairs = zip(taken["tokenauth"], taken["openssl"], strict=True)
    print(f"ratio {statistics.median(ours[0] / theirs[0] for ours, theirs in pairs):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pdfs", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mebibytes", type=int, default=300)
    options = parser.parse_args()
    authority = Authority("root").intermediate("issuer")
    with SoftToken("signing", key_type=None, authority=authority) as token, tempfile.TemporaryDirectory() as directory:
        for kind in KEY_TYPES:
            token.add_identity(kind, key_type=kind, purposes=("document",))
        for kind in KEY_TYPES:
            pdfs(token, kind, options.pdfs, options.rounds)
        large_file(token, "rsa2048", options.mebibytes, options.rounds, Path(directory))


if __name__ == "__main__":
    main()
