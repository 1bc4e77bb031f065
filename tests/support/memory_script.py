"""Thousands of handshakes in one process, to see that nothing is left behind; run by tests/test_memory.py.

    python memory_script.py URI PIN_VARIABLE MODULE SERVER_PEM CAFILE HANDSHAKES FAILING

The client's key is in the token, the server's in a file, and both are in this process. FAILING handshakes follow, whose
client the server does not trust. Prints a JSON object: how resident memory (KiB) and open descriptors grew after the
first handshakes of each kind.
"""

from __future__ import annotations

import gc
import json
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

import tokenauth
from tokenauth.pin import Env

WARM_UP = 500


def resident() -> int:
    """KiB of memory that are in use now."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def in_memory(client_context: Any, server_context: ssl.SSLContext) -> bool:
    """One handshake, and a byte each way so that TLS 1.3 has come to its end; whether it succeeded."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname="localhost")
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    try:
        for end in (client, server, client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
        server.write(b"x")
        return bool(client.read(1) == b"x")
    except ssl.SSLError:
        return False


def over_sockets(client_context: Any, server_context: ssl.SSLContext, pair: Any) -> bool:
    """The same over two sockets that are connected, one thread being both ends; whether it resumed a TLS session."""
    one, other = pair()
    one.setblocking(False)
    other.setblocking(False)
    with (
        client_context.wrap_socket(one, server_hostname="localhost", do_handshake_on_connect=False) as client,
        server_context.wrap_socket(other, server_side=True, do_handshake_on_connect=False) as server,
    ):
        for end in (client, server, client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
        server.send(b"x")
        client.settimeout(10)  # seconds: over TCP it may take a moment
        assert client.recv(1) == b"x"
        return bool(client.session_reused)


def over_tcp(listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Two sockets that are connected; what follows a TLS ticket does not wait until that is acknowledged."""
    one, other = socket.create_connection(listener.getsockname()), listener.accept()[0]
    other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one, other


def grown(step: Any, count: int, warm_up: int) -> dict[str, int]:
    for _ in range(warm_up):
        step()
    memory, files = resident(), descriptors()
    for _ in range(count - warm_up):
        step()
    return {"memory": resident() - memory, "descriptors": descriptors() - files}


def server_context(pem: str, cafile: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=cafile)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(pem)
    return context


def main(uri: str, variable: str, module: str, pem: str, cafile: str, handshakes: int, failing: int) -> None:
    context = tokenauth.create_context(uri, pin=Env(variable), module=module, cafile=cafile)
    friendly = server_context(pem, cafile)
    hostile = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)  # trusts the system's CAs, and not ours
    hostile.verify_mode = ssl.CERT_REQUIRED
    hostile.load_cert_chain(pem)

    def succeed() -> None:
        assert in_memory(context, friendly)

    def anew() -> None:
        assert not over_sockets(context, friendly, socket.socketpair)

    def resume() -> None:
        assert over_sockets(context, friendly, lambda: over_tcp(listener))

    def fail() -> None:
        assert not in_memory(context, hostile)

    listener = socket.create_server(("127.0.0.1", 0))
    assert not over_sockets(context, friendly, lambda: over_tcp(listener))
    print(
        json.dumps(
            {
                "memory": grown(succeed, handshakes, WARM_UP),
                "sockets": grown(anew, handshakes // 10, WARM_UP // 10),
                "resumed": grown(resume, handshakes // 2, WARM_UP),
                "refused": grown(fail, failing, WARM_UP // 2),
            }
        )
    )


if __name__ == "__main__":
    uri, variable, module, pem, cafile, handshakes, failing = sys.argv[1:]
    main(uri, variable, module, pem, cafile, int(handshakes), int(failing))
