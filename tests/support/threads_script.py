"""Handshakes in many threads; run by any interpreter that has tokenauth's dependencies.

    python threads_script.py URI PIN_VARIABLE PORT CAFILE THREADS HANDSHAKES one|each

``one``: all threads share a context; ``each``: every thread makes its own. Prints how many handshakes succeeded; what
went wrong goes to stderr.
"""

from __future__ import annotations

import socket
import sys
import threading
import traceback
from typing import Any

import tokenauth
from tokenauth.pin import Env


def main(uri: str, variable: str, port: int, cafile: str, threads: int, handshakes: int, mode: str) -> int:
    def make() -> Any:
        return tokenauth.create_context(uri, pin=Env(variable), cafile=cafile, reuse_sessions=False)

    shared = make()
    done = [0] * threads
    start = threading.Barrier(threads)

    def work(index: int) -> None:
        context = shared if mode == "one" else make()
        start.wait()
        for _ in range(handshakes):
            with (
                socket.create_connection(("127.0.0.1", port), 30) as plain,
                context.wrap_socket(plain, server_hostname="localhost") as tls,
            ):
                assert tls.identity is not None  # a signature was made
            done[index] += 1

    threading.excepthook = lambda what: traceback.print_exception(what.exc_value)
    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(sum(done))
    return 0 if sum(done) == threads * handshakes else 1


if __name__ == "__main__":
    uri, variable, port, cafile, threads, handshakes, mode = sys.argv[1:]
    sys.exit(main(uri, variable, int(port), cafile, int(threads), int(handshakes), mode))
