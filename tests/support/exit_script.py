"""Ends while a context lives and a connection is open.

    python exit_script.py URI PIN_VARIABLE PORT CAFILE idle|busy|in_module

``idle``: the connection is open and nothing happens. ``busy``: besides, a daemon thread goes on making handshakes.
``in_module``: the context and the connection are module globals that a class attribute keeps in a cycle.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from typing import Any

import tokenauth
from tokenauth.pin import Env

_uri, _variable, _port, _cafile, _mode = sys.argv[1:]
context = tokenauth.create_context(_uri, pin=Env(_variable), cafile=_cafile)


def connect() -> Any:
    plain = socket.create_connection(("127.0.0.1", int(_port)), 30)
    return context.wrap_socket(plain, server_hostname="localhost")


class Cycle:
    connection = connect()


Cycle.myself = [Cycle]  # type: ignore[attr-defined]
connection = Cycle.connection if _mode == "in_module" else connect()
assert connection.identity is not None  # a signature was made


def go_on(ready: threading.Event) -> None:
    with contextlib.suppress(OSError):  # the interpreter closes what it likes while it ends
        while True:
            with connect():
                ready.set()


if _mode == "busy":
    _ready = threading.Event()
    threading.Thread(target=go_on, args=(_ready,), daemon=True).start()
    _ready.wait(30)
