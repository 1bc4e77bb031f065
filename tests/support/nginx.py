"""A real nginx with TLS and client certificates, on a free loopback port."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.programs import require

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from tokenauth.testing.authority import Authority

_START_TIMEOUT = 10.0  # seconds
_STOP_TIMEOUT = 5.0  # seconds

# nginx's variables that each answer shows, one a line: name=value.
_SHOWN = (
    "ssl_client_s_dn",
    "ssl_client_verify",
    "ssl_client_serial",
    "ssl_protocol",
    "ssl_cipher",
    "ssl_session_reused",
    "connection_requests",
)

# What nginx itself refuses with each ssl_verify_client, as conditions of its `if`.
_REFUSED = {"on": "$ssl_client_verify != SUCCESS", "optional": "$ssl_client_verify ~ ^FAILED"}


@dataclass(frozen=True)
class NginxOptions:
    """How nginx is to behave; the names are those of its directives where it has one.

    Args:
        tls: `ssl_protocols`.
        verify: `ssl_verify_client`: on, off, optional or optional_no_ca.
        client_ca: PEM, `ssl_client_certificate`: clients are verified with it and told its names.
        trusted_ca: PEM, `ssl_trusted_certificate`: clients are verified with it, its names stay unsaid. Without
            `client_ca` nginx names no authorities at all. With neither of the two, `client_ca` is the authority's root.
        server_pairs: certificate (with chain) and key in PEM, such as an RSA and an EC pair; with none, an EC pair for
            localhost is made.
        ecdh_curve: `ssl_ecdh_curve`.
        session_tickets: whether TLS sessions can be resumed with tickets.
        session_cache: whether TLS sessions can be resumed from the server's memory.
        keepalive: whether a connection may carry more than one request.
    """

    tls: str = "TLSv1.2 TLSv1.3"
    verify: str = "on"
    client_ca: bytes | None = None
    trusted_ca: bytes | None = None
    server_pairs: tuple[tuple[bytes, bytes], ...] = ()
    ecdh_curve: str = "X25519:P-256:P-384:P-521"
    session_tickets: bool = False
    session_cache: bool = False
    keepalive: bool = True


class Nginx:
    """A running nginx; answers every request with lines of `name=value`, see `parse`.

    As nginx does, it completes the handshake even with a client whose certificate it refuses, and then answers 400.
    It dies with the thread that made it, even if that is killed.

    Args:
        authority: makes the server's certificate and verifies clients where the options say nothing.
        directory: an existing directory for its files, not shared with another server.
        options: see `NginxOptions`.

    Attributes:
        port: the TCP port on 127.0.0.1.
        url: https://localhost:PORT/
        cafile: path of the root certificate in PEM that clients must trust (for `server_pairs` from `authority`).
        pid: the process id of its master process.

    Raises:
        RuntimeError: it does not start; the text is its log.
    """

    def __init__(self, authority: Authority, directory: Path, options: NginxOptions | None = None) -> None:
        self._directory = directory
        self.cafile = str(directory / "ca.pem")
        Path(self.cafile).write_bytes(authority.root.pem)
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
            self.port: int = listener.getsockname()[1]
            self.url = f"https://localhost:{self.port}/"
            write = _ConfigurationWriter(authority, directory, options or NginxOptions())
            (directory / "nginx.conf").write_text(write.configuration(self.port))
            self._process = self._start(listener.fileno())
        self.pid = self._process.pid
        try:
            self._await_answer()
        except BaseException:
            self.close()
            raise

    def log(self) -> str:
        """The error log, at level info."""
        return (self._directory / "error.log").read_text(errors="replace")

    @staticmethod
    def parse(answer: bytes) -> dict[str, str]:
        """The names and values in an answer's body."""
        return dict(line.split("=", 1) for line in answer.decode().splitlines())

    def close(self) -> None:
        """Stops nginx and waits for it. May be called again."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Nginx:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, listener: int) -> subprocess.Popen[bytes]:
        # nginx takes listening sockets over from the variable NGINX, which serves its upgrades without downtime. So the
        # port is ours from the start and nobody else can take it. It needs the master process: alone, nginx 1.22
        # crashes with such a socket.
        command = [require("nginx"), "-p", str(self._directory), "-e", "error.log", "-c", "nginx.conf"]
        # A preexec_fn would do the same, at the price of a full fork() and the hooks of os.register_at_fork.
        setpriv = shutil.which("setpriv")
        if setpriv is not None:
            command = [setpriv, "--pdeathsig", "TERM", *command]
        with (self._directory / "error.log").open("ab") as log:
            return subprocess.Popen(
                command,
                env={**os.environ, "NGINX": f"{listener};"},
                pass_fds=[listener],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _await_answer(self) -> None:
        # A connection proves nothing, the socket listened before nginx ran. Any answer does; if nginx dies, the
        # connection breaks with its last copy of the socket.
        try:
            with socket.create_connection(("127.0.0.1", self.port), _START_TIMEOUT) as probe:
                probe.sendall(b"GET / HTTP/1.0\r\n\r\n")
                answered = bool(probe.recv(1))
        except OSError:
            answered = False
        if not answered:
            raise RuntimeError(f"nginx does not answer:\n{self.log()}")


@dataclass(frozen=True)
class _ConfigurationWriter:
    """Writes the files that the configuration names, and the configuration; all names are relative to the directory."""

    authority: Authority
    directory: Path
    options: NginxOptions

    def configuration(self, port: int) -> str:
        temporary = "\n".join(
            f"    {kind}_temp_path temporary/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (self.directory / "temporary").mkdir(exist_ok=True)
        server = "\n".join(f"        {line}" for line in self._server(port))
        return f"""\
daemon off;
worker_processes 1;
pid nginx.pid;
lock_file nginx.lock;
error_log error.log info;
events {{ worker_connections 512; }}
http {{
    access_log off;
{temporary}
    server {{
{server}
    }}
}}
"""

    def _server(self, port: int) -> Iterator[str]:
        options = self.options
        shown = "".join(rf"{name}=${name}\n" for name in _SHOWN)
        yield f"listen 127.0.0.1:{port} ssl backlog=128;"
        yield "server_name localhost;"
        yield f"ssl_protocols {options.tls};"
        yield f"ssl_ecdh_curve {options.ecdh_curve};"
        yield f"ssl_session_tickets {'on' if options.session_tickets else 'off'};"
        yield f"ssl_session_cache {'shared:tests:1m' if options.session_cache else 'off'};"
        yield f"keepalive_timeout {'60s' if options.keepalive else '0'};"
        yield from self._server_certificates()
        yield from self._client_verification()
        yield "default_type text/plain;"
        # Not in the server itself: there it runs before keepalive_timeout applies, and announces a wrong Connection.
        yield f'location / {{ {self._refusal()} return 200 "{shown}"; }}'

    def _server_certificates(self) -> Iterator[str]:
        pairs = self.options.server_pairs or (self.authority.issue_server(["localhost", "127.0.0.1"]),)
        for number, (certificate, key) in enumerate(pairs):
            yield f"ssl_certificate {self._file(f'server-{number}.pem', certificate)};"
            yield f"ssl_certificate_key {self._file(f'server-{number}.key', key)};"

    def _client_verification(self) -> Iterator[str]:
        if self.options.trusted_ca:
            yield f"ssl_trusted_certificate {self._file('trusted-ca.pem', self.options.trusted_ca)};"
        if self._client_ca:
            yield f"ssl_client_certificate {self._file('client-ca.pem', self._client_ca)};"
            yield f"ssl_verify_client {self.options.verify};"
        else:
            # nginx 1.22 has no other value that asks for certificates and names no authorities.
            yield f"ssl_verify_client {'off' if self.options.verify == 'off' else 'optional_no_ca'};"

    def _refusal(self) -> str:
        """What `ssl_verify_client` would refuse, where optional_no_ca had to stand in for it."""
        condition = None if self._client_ca else _REFUSED.get(self.options.verify)
        return f"if ({condition}) {{ return 400; }}" if condition else ""

    @property
    def _client_ca(self) -> bytes | None:
        default = None if self.options.trusted_ca else self.authority.root.pem
        return self.options.client_ca or default

    def _file(self, name: str, content: bytes) -> str:
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_bytes(content)
        return name
