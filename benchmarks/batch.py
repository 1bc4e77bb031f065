"""1,000 PDFs signed by one command, then killed in the middle and resumed: how long, how many logins, what is signed.

    python benchmarks/batch.py [--pdfs N] [--jobs N] [--latency MS]

SoftHSM stands behind a module that counts its calls, and that takes so many milliseconds longer to sign, as devices do.
It ends with an error if a file was not signed exactly once.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pyhanko.pdf_utils.reader import PdfFileReader

from tests.support.command_line import COMMAND, environment
from tests.support.faulty_module import FaultyModule
from tests.support.pdfs import one_page
from tests.support.signed_files import trusting
from tokenauth.signing import verify
from tokenauth.testing import SoftToken

_PATIENCE = 0.01  # seconds


def start(card: FaultyModule, token: SoftToken, files: list[Path], *more: str) -> subprocess.Popen[str]:
    command = [*COMMAND, "sign", "--module", card.path, *more, *map(str, files)]
    variables = environment(TOKENAUTH_PIN_SOURCE="env:PIN", PIN=token.pin)
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(card: FaultyModule, token: SoftToken, files: list[Path], *more: str) -> str:
    card.reset_counts()
    begun = time.perf_counter()
    output, errors = start(card, token, files, *more).communicate()
    seconds = time.perf_counter() - begun
    made = len(output.splitlines())
    counted = f"{card.calls('C_Login')} login(s), {card.calls('C_Sign')} signatures"
    return f"{made} files in {seconds:.1f} s, {made / seconds:.0f}/s; {counted}; {errors.splitlines()[-1]}"


def make(directory: Path, count: int) -> list[Path]:
    directory.mkdir()
    files = [directory / f"{number:04}.pdf" for number in range(count)]
    for number, file in enumerate(files):
        file.write_bytes(one_page(filler=number + 1))
    return files


def signed_once(files: list[Path], token: SoftToken) -> int:
    trust = trusting(token.ca.certificate)
    good = 0
    for file in files:
        content = file.with_suffix(".signed.pdf").read_bytes()
        is_one = len(PdfFileReader(io.BytesIO(content)).embedded_signatures) == 1
        good += is_one and content.startswith(file.read_bytes()) and verify(content, trust=trust).status == "valid"
    return good


def killed(card: FaultyModule, token: SoftToken, files: list[Path], jobs: str) -> int:
    process = start(card, token, files, "--jobs", jobs)
    directory = files[0].parent
    while len(list(directory.glob("*.signed.pdf"))) < len(files) // 2:
        time.sleep(_PATIENCE)
    process.kill()
    process.communicate()
    return len(list(directory.glob("*.signed.pdf")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pdfs", type=int, default=1000)
    parser.add_argument("--jobs", default="4")
    parser.add_argument("--latency", type=int, default=0, help="milliseconds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, SoftToken("batch", key_type=None) as token:
        token.add_identity("signer", purposes=("document",))
        card = FaultyModule(token, Path(place) / "card")
        card.set(delay__C_Sign=options.latency)
        for jobs in dict.fromkeys(("1", options.jobs)):
            files = make(Path(place) / f"jobs{jobs}", options.pdfs)
            print(f"--jobs {jobs}: {run(card, token, files, '--jobs', jobs)}", flush=True)
        files = make(Path(place) / "killed", options.pdfs)
        print(f"killed after {killed(card, token, files, options.jobs)} files", flush=True)
        print(f"resumed: {run(card, token, files, '--jobs', options.jobs, '--resume')}", flush=True)
        good = signed_once(files, token)
        print(f"signed exactly once, and valid: {good} of {len(files)}")
        left = [path.name for path in files[0].parent.glob(".*")]
        print(f"left over: {left or 'nothing'}")
        if good != len(files) or left:
            sys.exit(1)


if __name__ == "__main__":
    main()
