"""Processes that fork; run in an interpreter of its own, where no test's threads are.

    python fork_script.py MODE URI PORT CAFILE [NUMBER]

The PIN is in TEST_PIN. A child that hangs says where and ends. What went wrong goes to stderr; stdout is data.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import tokenauth
from tokenauth.pin import Env

warnings.filterwarnings("ignore", ".*multi-threaded.*", DeprecationWarning)  # Python 3.12: that is what is tried here

LONGEST = 20  # seconds that a child may take
PIN = Env("TEST_PIN")


def fetch(context: Any, port: int) -> bytes:
    with (
        socket.create_connection(("127.0.0.1", port), LONGEST) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        tls.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        answer = b""
        while part := tls.recv(65536):
            answer += part
    assert b"CN=client" in answer, answer
    return answer


def child(work: Callable[[], Any]) -> int:
    """Fork a child that does its work and ends; its process id."""
    pid = os.fork()
    if pid == 0:
        faulthandler.dump_traceback_later(LONGEST, exit=True)
        try:
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the child must end here
            traceback.print_exc()
            os._exit(1)
    return pid


class Threads:
    """Handshakes without end, in threads."""

    def __init__(self, count: int, work: Callable[[], Any]) -> None:
        self.over = threading.Event()
        self.done = 0
        self._work = work
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]

    def _run(self) -> None:
        while not self.over.is_set():
            self._work()
            self.done += 1

    def __enter__(self) -> Threads:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join(LONGEST)
        assert not any(thread.is_alive() for thread in self._threads)


def in_handshakes(uri: str, port: int, cafile: str, children: int) -> None:
    """Fork while threads are inside handshakes; children and parent go on with old and new contexts."""

    def make() -> Any:
        return tokenauth.create_context(uri, pin=PIN, cafile=cafile, reuse_sessions=False)

    shared = make()
    fetch(shared, port)

    def in_child() -> None:
        workers = [threading.Thread(target=fetch, args=(shared, port)) for _ in range(2)]  # both find it forked
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        fetch(shared, port)
        fetch(make(), port)

    def look_again() -> None:
        fetch(shared, port)
        shared._tokenauth.forget()

    ends = []
    with Threads(4, look_again) as threads:
        for _ in range(children):
            ends.append(os.waitpid(child(in_child), 0)[1])
        before = threads.done
        while threads.done < before + 8:  # the parent goes on
            threads.over.wait(0.01)
    print(ends.count(0))


def get(uri: str, port: int, cafile: str, lock: Any) -> None:
    with lock:  # SoftHSM does not always survive two processes that log in at the same moment
        session = tokenauth.Session(uri, pin=PIN, verify=cafile)
        answer = session.get(f"https://localhost:{port}/", timeout=LONGEST).json()
    assert answer["client_subject"] == "CN=client"
    assert session.get(f"https://localhost:{port}/", timeout=LONGEST).ok


def inherited(context: Any, port: int) -> None:
    fetch(context, port)


def by_multiprocessing(uri: str, port: int, cafile: str, method: str) -> None:
    """Children of each kind make sessions of their own; those that were forked use their parent's context as well."""
    context = tokenauth.create_context(uri, pin=PIN, cafile=cafile, reuse_sessions=False)
    fetch(context, port)
    kind: Any = multiprocessing.get_context(method)
    lock = kind.Lock()
    processes = [kind.Process(target=get, args=(uri, port, cafile, lock)) for _ in range(4)]
    if method == "fork":
        processes.append(kind.Process(target=inherited, args=(context, port)))
    for process in processes:
        process.start()
    for process in processes:
        process.join(LONGEST)
    fetch(context, port)
    print([process.exitcode for process in processes].count(0))


def prefork(uri: str, port: int, cafile: str, server_uri: str) -> None:
    """A server whose workers are forked after it has made its contexts, and forked again when they die.

    Each connection is answered with the worker's process id once the worker has called another server as a client.
    """
    serving = tokenauth.create_context(server_uri, pin=PIN, server_side=True)
    calling = tokenauth.create_context(uri, pin=PIN, cafile=cafile, reuse_sessions=False)
    fetch(calling, port)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        faulthandler.cancel_dump_traceback_later()
        while True:
            plain, _ = listener.accept()
            with serving.wrap_socket(plain, server_side=True) as tls:
                fetch(calling, port)
                tls.sendall(str(os.getpid()).encode())

    over: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: over.append(number))
    workers = {child(serve) for _ in range(4)}
    print(listener.getsockname()[1], flush=True)
    while not over:
        dead, status = os.waitpid(-1, os.WNOHANG)
        if dead:
            workers.discard(dead)
            workers.add(child(serve))
        if dead and status != signal.SIGKILL:
            print("a worker ended with", status, file=sys.stderr)
        time.sleep(0.01)
    for worker in workers:
        os.kill(worker, signal.SIGKILL)


def main(mode: str, uri: str, port: str, cafile: str, *more: str) -> None:
    if mode == "in_handshakes":
        in_handshakes(uri, int(port), cafile, int(more[0]))
    elif mode == "multiprocessing":
        by_multiprocessing(uri, int(port), cafile, more[0])
    else:
        prefork(uri, int(port), cafile, more[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
