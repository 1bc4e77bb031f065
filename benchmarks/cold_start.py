"""What a cold start costs: whole processes, beside what they replace.

    python benchmarks/cold_start.py [--runs N]

Each row is the median of so many processes, taken in turn with all other rows: how long they took, and the processors'
time, which says more on a machine that others use.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.handshake import file_pair
from tests.support.nginx import Nginx, NginxOptions
from tokenauth.testing import SoftToken

FILE_REQUEST = "import requests; requests.get({url!r}, cert={pair!r}, verify={cafile!r}).raise_for_status()"
TOKEN_REQUEST = (
    "import tokenauth; tokenauth.Session({uri!r}, pin={pin!r}, module={module!r}, verify={cafile!r})"
    ".get({url!r}).raise_for_status()"
)


def rows(token: SoftToken, server: Nginx, pair: Path) -> dict[str, list[str]]:
    python, script = sys.executable, str(Path(sys.executable).parent)
    values = {"url": server.url, "pair": str(pair), "cafile": server.cafile, "uri": token.uri, "pin": token.pin}
    values["module"] = token.module
    made = {
        "bare python": [python, "-c", "pass"],
        "import tokenauth": [python, "-c", "import tokenauth"],
        "import pkcs11": [python, "-c", "import pkcs11"],
        "import requests": [python, "-c", "import requests"],
        "tokenauth list": [f"{script}/tokenauth", "list", "--module", token.module],
        "request, key file": [python, "-c", FILE_REQUEST.format(**values)],
        "request, tokenauth": [python, "-c", TOKEN_REQUEST.format(**values)],
    }
    if Path(f"{script}/sslcontext").exists():
        made["sslcontext list"] = [f"{script}/sslcontext", "list", "-b", "pkcs11"]
    return made


def processor_time() -> float:
    """Milliseconds that all children so far took of the processors."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    with SoftToken(key_type="rsa2048") as token, tempfile.TemporaryDirectory() as directory:
        pair, _ = file_pair(token.ca, "rsa2048", Path(directory))
        with Nginx(token.ca, Path(directory), NginxOptions(tls="TLSv1.3")) as server:
            commands = rows(token, server, pair)
            environment = os.environ | {"SSLCONTEXT_PKCS11_MODULE": token.module}
            for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PYTHONDONTWRITEBYTECODE"):
                environment.pop(name, None)
            times: dict[str, list[float]] = {name: [] for name in commands}
            used: dict[str, list[float]] = {name: [] for name in commands}
            for run in range(runs + 1):
                for name, command in commands.items():
                    start, before = time.perf_counter(), processor_time()
                    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
                    if run:  # the first one fills caches
                        times[name].append((time.perf_counter() - start) * 1000)
                        used[name].append(processor_time() - before)
    for name, taken in times.items():
        print(f"{name:20} {statistics.median(taken):7.1f} ms, processor {statistics.median(used[name]):7.1f} ms")
    ratios = []
    for taken_by in (times, used):
        pairs = zip(taken_by["request, tokenauth"], taken_by["request, key file"], strict=True)
        ratios.append(statistics.median(a / b for a, b in pairs))
    print(f"request with a token / with a key file: {ratios[0]:.2f}, processor {ratios[1]:.2f}")


if __name__ == "__main__":
    main()
