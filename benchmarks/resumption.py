"""Requests over new connections with kept TLS sessions: a token beside a key file whose client keeps sessions, too.

    python benchmarks/resumption.py [--requests N] [--rounds N]

Both contenders make the same requests in turn, in the same process, of the same nginx with tickets, each on a
connection of its own. The file key's client is what one would write for it: the last session is offered to the next
connection. The token's context keeps its sessions by itself.
"""

from __future__ import annotations

import argparse
import os
import socket
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tokenauth
from benchmarks.handshake import file_pair
from tests.support import counting
from tests.support.nginx import Nginx, NginxOptions
from tokenauth.provisioning.softhsm import softhsm_module
from tokenauth.testing import SoftToken

REQUEST = b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n"
KEY_TYPES = ("rsa2048", "p256")


def connected(port: int) -> socket.socket:
    plain = socket.create_connection(("127.0.0.1", port))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as HTTP clients do
    return plain


def read_all(tls: ssl.SSLSocket) -> None:
    tls.sendall(REQUEST)
    while tls.recv(65536):
        pass


def with_token(context: ssl.SSLContext, port: int) -> None:
    with (
        connected(port) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        read_all(tls)


def with_file_key(context: ssl.SSLContext, port: int) -> Callable[[], None]:
    last: list[ssl.SSLSession | None] = [None]

    def request() -> None:
        with (
            connected(port) as plain,
            context.wrap_socket(plain, server_hostname="localhost", session=last[0]) as tls,
        ):
            read_all(tls)
            last[0] = tls.session

    return request


def timed(request: Callable[[], None], count: int) -> float:
    """Requests per second."""
    start = time.perf_counter()
    for _ in range(count):
        request()
    return count / (time.perf_counter() - start)


def measure(token: SoftToken, key_type: str, tls: str, options: argparse.Namespace) -> None:
    identity = token.add_identity(f"bench-{key_type}-{tls}", key_type=key_type)
    with tempfile.TemporaryDirectory() as directory:
        pair, _ = file_pair(token.ca, key_type, Path(directory))
        with Nginx(token.ca, Path(directory), NginxOptions(tls=tls, session_tickets=True)) as server:
            context = tokenauth.create_context(identity.uri, pin=token.pin, module=token.module, cafile=server.cafile)
            plain = ssl.create_default_context(cafile=server.cafile)
            plain.load_cert_chain(pair)
            from_file = with_file_key(plain, server.port)
            calls = counting.since()
            rates: dict[str, list[float]] = {"file key": [], "tokenauth": []}
            for _ in range(options.rounds):
                rates["file key"].append(timed(from_file, options.requests))
                rates["tokenauth"].append(timed(lambda: with_token(context, server.port), options.requests))
    ratios = [ours / theirs for ours, theirs in zip(rates["tokenauth"], rates["file key"], strict=True)]
    total = options.rounds * options.requests
    print(
        f"{key_type:8} {tls}: file key {statistics.median(rates['file key']):5.0f}/s, "
        f"tokenauth {statistics.median(rates['tokenauth']):5.0f}/s, ratio {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}); {total} requests, {calls.logins} login, "
        f"{calls.signatures} signature"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000, help="of each round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"Python {sys.version.split()[0]}, {ssl.OPENSSL_VERSION}, {os.cpu_count()} CPUs, nginx with tickets")
    counting.count_calls(softhsm_module())
    with SoftToken(key_type=None) as token:
        for key_type in KEY_TYPES:
            for tls in ("TLSv1.2", "TLSv1.3"):
                measure(token, key_type, tls, options)


if __name__ == "__main__":
    main()
