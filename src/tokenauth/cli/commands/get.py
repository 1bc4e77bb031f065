"""``tokenauth get``: one HTTPS request that authenticates with a token."""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import click

from tokenauth.cli import output
from tokenauth.cli.failures import PeerFailed
from tokenauth.cli.options import (
    URI,
    forget_after_option,
    module_option,
    pin_for,
    pin_source_option,
    verbose_option,
)
from tokenauth.errors import TokenAuthError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tokenauth.uri import TokenURI

__all__ = ["command"]

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2
_CHUNK = 65536  # bytes
_SECRETS = {"authorization", "cookie", "proxy-authorization", "set-cookie"}
_FORM = "application/x-www-form-urlencoded"
#: How nginx tells that TLS was fine and the certificate was not: it answers 400 and a page with these words.
_REFUSED_CERTIFICATE = {
    b"No required SSL certificate was sent": "it demands a certificate and got none",
    b"The SSL certificate error": "it does not accept the certificate",
}


def _method(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is not None and not _TOKEN.fullmatch(value):
        raise click.BadParameter(f"{value!r} is no HTTP method")
    return value.upper() if value else None


def _headers(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    headers = {}
    for number, header in enumerate(values, 1):
        name, colon, value = header.partition(":")
        if not colon or not _TOKEN.fullmatch(name) or not re.fullmatch(r"[\t\x20-\x7e\x80-\xff]*", value):
            # Its text is not shown: it may be a secret.
            raise click.BadParameter(f"header number {number} is not of the form 'Name: value'")
        headers[name] = value.strip()
    return headers


def _https(_context: click.Context, _option: click.Parameter, url: str) -> str:
    try:
        parts = urlsplit(url)
        port_fits = parts.port != 0
    except ValueError as error:
        raise click.BadParameter(f"it is no URL: {error}") from None
    if parts.scheme.lower() != "https":
        raise click.BadParameter("it does not start with https://; without TLS there is nothing to authenticate with")
    if not parts.hostname or not port_fits:
        raise click.BadParameter("it names no host and port")
    return url


def _cacert(_context: click.Context, _option: click.Parameter, path: str | None) -> str | None:
    if path is not None:
        import ssl

        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        except ssl.SSLError:
            raise click.BadParameter(f"{path!r} holds no certificate in PEM") from None
    return path


class _Request(NamedTuple):
    """An HTTP request."""

    method: str
    url: str
    headers: dict[str, str]
    data: str | None
    timeout: float

    @property
    def host(self) -> str:
        """Host and port."""
        parts = urlsplit(self.url)
        return f"{parts.hostname}:{parts.port or 443}"

    def arguments(self) -> dict[str, Any]:
        """The arguments for :meth:`requests.Session.request`."""
        names = {name.lower() for name in self.headers}
        defaults = {"Accept": "*/*", "Accept-Encoding": "identity"}  # what the server sends is what is written
        if self.data is not None:
            defaults["Content-Type"] = _FORM
        headers = {name: value for name, value in defaults.items() if name.lower() not in names} | self.headers
        return {
            "method": self.method,
            "url": self.url,
            "headers": headers,
            "data": _body(self.data),
            "timeout": self.timeout,
            "stream": True,
            "allow_redirects": False,  # the certificate was meant for this server only
        }


@click.command("get", short_help="Make an HTTPS request that authenticates with a token.")
@click.argument("url", callback=_https)
@click.option(
    "-i", "--identity", "uri", metavar="URI", type=URI, default="pkcs11:", help="[default: the one that suits]"
)
@click.option(
    "--cacert",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, readable=True),
    callback=_cacert,
    help="The CA certificates (PEM) that the server's must come from.",
)
@click.option("-X", "--request", "method", metavar="METHOD", callback=_method, help="[default: GET, or POST with -d]")
@click.option(
    "-H", "--header", "headers", metavar="'NAME: VALUE'", multiple=True, callback=_headers, help="Repeatable."
)
@click.option("-d", "--data", metavar="DATA", help="What to send; @FILE sends a file as it is, @- what stdin gives.")
@click.option("-o", "--output", "target", metavar="FILE", help="Write the body to FILE, when all of it is there.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=30.0, show_default=True, help="Seconds."
)
@click.option("--allow-final-try", is_flag=True, help="Spend the token's last PIN try, if it comes to that.")
@click.option("--wait", is_flag=True, help="Wait until the token is inserted.")
@pin_source_option
@forget_after_option
@module_option
@verbose_option
def command(  # noqa: PLR0917 - click passes each option by itself
    url: str,
    uri: TokenURI,
    cacert: str | None,
    method: str | None,
    headers: dict[str, str],
    data: str | None,
    target: str | None,
    timeout: float,
    allow_final_try: bool,
    wait: bool,
    pin_source: str | None,
    forget_after: float | None,
    module: str | None,
) -> None:
    """Request URL and authenticate with a token if the server asks for a certificate.

    The body goes to stdout. If the server answers with 400 or more, its body goes to stdout even with -o, and the exit
    code is 1; if it refuses the certificate it is 5. Redirections are not followed.
    """
    if pin_source == "fd:0" and data == "@-":
        raise click.UsageError("--pin-source fd:0 and -d @- both read stdin")
    request = _Request(method or ("GET" if data is None else "POST"), url, headers, data, timeout)
    pin = pin_for(pin_source, uri)
    from tokenauth.clients.http import Session

    made = Session(
        uri,
        pin=pin,
        module=module,
        verify=cacert or True,
        allow_final_try=allow_final_try,
        forget_after=forget_after,
        wait=wait,
    )
    with made as session:
        with _explained(request.host):
            response = session.request(**request.arguments())
        with response:
            _tell(response)
            _deliver(response, request.host, target)


@contextmanager
def _explained(host: str) -> Iterator[None]:
    import requests

    from tokenauth.cli.peer import explain

    try:
        yield
    except requests.RequestException as error:
        if isinstance(error, ValueError):  # a URL or header that requests refuses
            raise click.UsageError(str(error)) from None
        failure = explain(error, host)
        if failure is None:
            raise
        raise failure from error


def _body(data: str | None) -> Any:
    if data is None or not data.startswith("@"):
        return data if data is None else data.encode("utf-8", "surrogateescape")
    if data == "@-":
        return sys.stdin.buffer.read()
    return Path(data[1:]).open("rb")


def _tell(response: Any) -> None:
    """Tell what was negotiated and the headers, to those who asked."""
    connection = getattr(getattr(response.raw, "connection", None), "sock", None)
    identity = getattr(connection, "identity", None)
    if connection is not None:
        output.detail(f"* {connection.version()}, {(connection.cipher() or ('no cipher',))[0]}")
    if identity is not None:
        output.detail(f"* token {identity.token.label!r} by module {identity.module}")
        output.detail(f"* authenticated as {identity.text_of('subject')}, {identity.uri}")
    elif connection is not None:
        output.detail("* the server asked for no certificate")
    request = response.request
    output.detail(f"> {request.method} {request.path_url}")
    _tell_headers(">", request.headers.items())
    output.detail(f"< {response.status_code} {response.reason}")
    _tell_headers("<", response.headers.items())


def _tell_headers(mark: str, headers: Iterable[tuple[str, str]]) -> None:
    for name, value in headers:
        output.detail(f"{mark} {name}: {'<hidden>' if name.lower() in _SECRETS else value}")


def _chunks(response: Any, host: str) -> Iterator[bytes]:
    with _explained(host):
        yield from response.iter_content(_CHUNK)


def _deliver(response: Any, host: str, target: str | None) -> None:
    chunks = _chunks(response, host)
    if response.status_code >= HTTPStatus.BAD_REQUEST:
        start = _copy(chunks, sys.stdout.buffer)
        raise _refusal(response, host, start)
    if target is None or target == "-":
        _copy(chunks, sys.stdout.buffer)
    else:
        from tokenauth._files import replacing

        with replacing(Path(target)) as file:
            _copy(chunks, file)
    if response.status_code >= HTTPStatus.MULTIPLE_CHOICES and "Location" in response.headers:
        output.say(f"{host} redirects to {response.headers['Location']}, which is not followed")


def _copy(chunks: Iterator[bytes], file: IO[bytes]) -> bytes:
    """Write chunks as they come; gives the first of them."""
    first = b""
    for chunk in chunks:
        first = first or chunk
        file.write(chunk)
    file.flush()
    return first


def _refusal(response: Any, host: str, start: bytes) -> TokenAuthError:
    for words, meaning in _REFUSED_CERTIFICATE.items():
        if response.status_code == HTTPStatus.BAD_REQUEST and words in start:
            return PeerFailed(
                f"{host} answered {response.status_code} because {meaning}",
                hint="name an identity that it accepts with -i; 'tokenauth list' shows all of them",
            )
    return TokenAuthError(f"{host} answered {response.status_code} {response.reason}".rstrip())
