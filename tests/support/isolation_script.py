"""Signs with a key in an isolated module, and tells the process that the module runs in.

    python isolation_script.py MODULE URI PIN_VARIABLE once|wait|busy

``once``: signs once more, after a line on stdin, tells the error if there is one, and ends. ``wait``: until it is
killed. ``busy``: ends while a daemon thread signs.
"""

from __future__ import annotations

import sys
import threading
import time

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

import tokenauth
from tests.support.isolated import pid_of
from tokenauth.pin import Env

_module, _uri, _variable, _mode = sys.argv[1:]
key = tokenauth.identity(_uri, pin=Env(_variable), module=_module, isolate=True).private_key


def sign() -> None:
    key.sign(b"data", ec.ECDSA(hashes.SHA256()))


def go_on(ready: threading.Event) -> None:
    while True:
        sign()
        ready.set()


sign()
print(pid_of(_module), flush=True)
if _mode == "once":
    sys.stdin.readline()
    began = time.monotonic()
    try:
        sign()
    except tokenauth.TokenAuthError as error:
        print(f"{time.monotonic() - began:.1f} {error}", flush=True)
elif _mode == "wait":
    time.sleep(60)
else:
    _ready = threading.Event()
    threading.Thread(target=go_on, args=(_ready,), daemon=True).start()
    _ready.wait(30)
