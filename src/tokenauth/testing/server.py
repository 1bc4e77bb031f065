"""A small real TLS server that asks its clients for certificates and tells them what it saw."""

from __future__ import annotations

import json
import socket
import socketserver
import ssl
import threading
from contextlib import ExitStack, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from cryptography import x509

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from tokenauth.testing.authority import Authority

__all__ = ["MTLSServer"]

_HANDSHAKE_TIMEOUT = 10.0  # seconds; a card may take one to sign
_IDLE_TIMEOUT = 10.0  # seconds that a connection may wait for its next request
_LINGER_TIMEOUT = 1.0  # seconds that a client may take to close after the server has
_POLL_INTERVAL = 0.02  # seconds; close() waits for it

_CLIENT_AUTH: Mapping[str, ssl.VerifyMode] = {
    "required": ssl.CERT_REQUIRED,
    "optional": ssl.CERT_OPTIONAL,
    "none": ssl.CERT_NONE,
}


class MTLSServer:
    """An HTTPS server on 127.0.0.1, in threads of its own, that authenticates clients by certificate (mutual TLS).

    It answers GET and POST with a JSON object: ``method``, ``path``, ``client_subject`` (RFC 4514 string, or null
    without a client certificate), ``client_serial`` (lower-case hex, or null), ``tls_version`` (such as ``TLSv1.3``),
    ``cipher`` (OpenSSL's name) and ``body`` (the request's, as UTF-8 text). Connections are kept alive and TLS sessions
    can be resumed. It names no certificate authorities when it asks for a certificate. It serves from construction
    until :meth:`close`, and one client's failed handshake does not disturb the others.

    Args:
        authority: issues the server's certificate, and is the one that client certificates must come from.
        client_auth: ``"required"``, ``"optional"`` (a client may have no certificate, but not a bad one) or ``"none"``.
        minimum_version: the lowest TLS version to accept; None: TLS 1.2, or what a context of yours says.
        maximum_version: the highest TLS version to accept; None: TLS 1.3, or what a context of yours says.
        context: a server's context of yours, such as one whose key is in a token, instead of one with a new key; what
            it asks of clients is set by the other arguments.

    Attributes:
        host: ``"localhost"``; the server's certificate also has the IP address 127.0.0.1.
        port: the TCP port, a free one.
        url: ``https://localhost:PORT/``.
        cafile: path of a PEM file with the root certificate that clients must trust; removed by :meth:`close`.

    Raises:
        ValueError: ``client_auth`` is unknown.
    """

    host = "localhost"

    def __init__(
        self,
        authority: Authority,
        *,
        client_auth: str = "required",
        minimum_version: ssl.TLSVersion | None = None,
        maximum_version: ssl.TLSVersion | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        if client_auth not in _CLIENT_AUTH:
            raise ValueError(f"client_auth is one of {', '.join(_CLIENT_AUTH)}, not {client_auth}")
        with ExitStack() as stack:
            directory = Path(stack.enter_context(TemporaryDirectory(prefix="tokenauth-")))  # of mode 0700
            context = context or _server_context(authority, directory)
            # A partial chain lets an intermediate authority be the one that clients' certificates must come from.
            context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
            context.load_verify_locations(cadata=authority.pem.decode("ascii"))
            context.verify_mode = _CLIENT_AUTH[client_auth]
            context.minimum_version = minimum_version or context.minimum_version
            context.maximum_version = maximum_version or context.maximum_version
            self.cafile = str(directory / "ca.pem")
            Path(self.cafile).write_bytes(authority.root.pem)
            self._server = _Server(context)
            stack.callback(self._server.stop)
            self._server.start()
            self._resources = stack.pop_all()
        self.port: int = self._server.server_address[1]
        self.url = f"https://{self.host}:{self.port}/"

    @property
    def requests(self) -> int:
        """How many requests were answered; a client that has its answer finds it counted."""
        return self._server.requests

    @property
    def handshakes(self) -> int:
        """How many TLS handshakes succeeded, resumed ones included; one is counted before its first request."""
        return self._server.handshakes

    @property
    def handshake_errors(self) -> tuple[str, ...]:
        """The causes of failed handshakes, in OpenSSL's words; complete once the server is closed."""
        return tuple(self._server.handshake_errors)

    def close(self) -> None:
        """Cuts all connections, waits for all threads and removes the files. May be called again."""
        self._resources.close()

    def __enter__(self) -> MTLSServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _server_context(authority: Authority, directory: Path) -> ssl.SSLContext:
    certificate_pem, key_pem = authority.issue_server([MTLSServer.host, "127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = _AcceptedSocket
    # load_cert_chain takes nothing but files. One file for both, readable by its owner only and gone right after.
    pair = directory / "server.pem"
    pair.touch(mode=0o600)
    pair.write_bytes(key_pem + certificate_pem)
    context.load_cert_chain(pair)
    pair.unlink()
    return context


class _AcceptedSocket(ssl.SSLSocket):
    """A server's end of a connection, whose client may be gone before anybody looks.

    SSLSocket asks for the peer's name to tell whether it is connected; if the client has reset the connection, its
    construction fails and leaves the socket open. This one is made all the same, and then its handshake fails.
    """

    def getpeername(self) -> Any:
        try:
            return super().getpeername()
        except OSError:
            return None


class _Server(socketserver.ThreadingTCPServer):
    """Accepts in one thread and does all that waits for a client, the handshake first, in one thread for each."""

    allow_reuse_address = True
    daemon_threads = False  # server_close() joins only threads that are none
    request_queue_size = 128

    def __init__(self, context: ssl.SSLContext) -> None:
        self.requests = 0
        self.handshakes = 0
        self.handshake_errors: list[str] = []
        self._context = context
        self._lock = threading.Lock()
        self._connections: set[ssl.SSLSocket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(_POLL_INTERVAL,), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        with self._lock:
            for connection in self._connections:
                # Wakes the thread that waits for this client. SSLSocket's own shutdown would take its state away.
                with suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
        self.server_close()
        self._thread.join()

    def count_request(self) -> None:
        with self._lock:
            self.requests += 1

    def get_request(self) -> tuple[ssl.SSLSocket, Any]:
        accepted, address = super().get_request()
        connection = self._context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            self._connections.add(connection)
        return connection, address

    def finish_request(self, request: Any, client_address: object) -> None:
        if self._handshake(request):
            with suppress(OSError):  # the client's end of the connection broke: its business
                super().finish_request(request, client_address)
        _hang_up(request)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def _handshake(self, connection: ssl.SSLSocket) -> bool:
        connection.settimeout(_HANDSHAKE_TIMEOUT)
        try:
            connection.do_handshake()
        except OSError as error:
            with self._lock:
                self.handshake_errors.append(str(error))
            return False
        with self._lock:
            self.handshakes += 1
        return True


def _hang_up(connection: ssl.SSLSocket) -> None:
    """Ends the sending half and waits for the client to do the same.

    To close while input is unread makes TCP reset the connection, and the client loses what was sent last: with
    TLS 1.3 the alert that says why its certificate was refused.
    """
    with suppress(OSError):
        connection.setblocking(False)
        with suppress(OSError):
            connection.unwrap()  # sends close_notify, and need not see the client's
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(_LINGER_TIMEOUT)
        while connection.recv(65536):
            pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_TIMEOUT
    disable_nagle_algorithm = True  # headers and body are two writes; the second would wait for a delayed ACK
    server: _Server
    connection: ssl.SSLSocket

    def _answer(self) -> None:
        if "Transfer-Encoding" in self.headers:
            self.send_error(HTTPStatus.LENGTH_REQUIRED)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = json.dumps(self._seen(body)).encode()
        self.server.count_request()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        if self.close_connection:
            # Else a client that asked for the end may keep the connection for its next request (urllib3 does), which
            # then comes after the end or before it as chance has it. RFC 9112 section 9.6.
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = _answer  # noqa: N815 - the base class looks for these names

    def _seen(self, body: bytes) -> dict[str, str | None]:
        der = self.connection.getpeercert(binary_form=True)
        client = x509.load_der_x509_certificate(der) if der else None
        cipher = self.connection.cipher()
        return {
            "method": self.command,
            "path": self.path,
            "client_subject": client.subject.rfc4514_string() if client else None,
            "client_serial": f"{client.serial_number:x}" if client else None,
            "tls_version": self.connection.version(),
            "cipher": cipher[0] if cipher else None,
            "body": body.decode(errors="replace"),
        }

    def log_message(self, format: str, *args: object) -> None:
        """Stays quiet: tests own the terminal."""
