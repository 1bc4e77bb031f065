"""Clients that take an ssl.SSLContext, each with its own idea of a connection."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import ssl
import urllib.error
import urllib.request

import aiohttp
import httpx
import pytest
import urllib3

import tokenauth
from tests.support import counting
from tests.support.nginx import Nginx, NginxOptions
from tokenauth.testing import MTLSServer

pytestmark = pytest.mark.xdist_group("one_key")
SUBJECT = "CN=client"


def client_context(token, cafile, pin=None):
    return tokenauth.create_context(token.uri, pin=pin or token.pin, module=token.module, cafile=cafile)


@pytest.fixture
def context(one_key, server):
    return client_context(one_key, server.cafile)


async def get_with_httpx(context, url):
    async with httpx.AsyncClient(verify=context, trust_env=False) as client:
        return (await client.get(url)).json()


async def get_with_aiohttp(context, url):
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as answer:
        return await answer.json()


async def get_with_streams(context, url):
    port = int(url.rpartition(":")[2].strip("/"))
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    writer.write(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return json.loads(answer.partition(b"\r\n\r\n")[2])


ASYNCHRONOUS = [get_with_httpx, get_with_aiohttp, get_with_streams]


@pytest.mark.parametrize("get", ASYNCHRONOUS)
def test_asynchronous_clients(context, server, get, calls):
    seen = asyncio.run(get(context, server.url))
    assert seen["client_subject"] == SUBJECT
    assert calls.signatures == 1


@pytest.mark.parametrize("get", ASYNCHRONOUS)
def test_asynchronous_clients_say_what_the_token_said(fresh_token, get):
    with MTLSServer(fresh_token.ca) as server:
        context = client_context(fresh_token, server.cafile, pin="0000")
        with pytest.raises((httpx.ConnectError, aiohttp.ClientConnectorError, ssl.SSLError), match="the PIN is wrong"):
            asyncio.run(get(context, server.url))


def test_twenty_connections_at_once(context, server, calls):
    async def main():
        return await asyncio.gather(*(get_with_streams(context, server.url) for _ in range(20)))

    assert [seen["client_subject"] for seen in asyncio.run(main())] == [SUBJECT] * 20
    assert calls.signatures == 20


def test_httpx(context, server):
    with httpx.Client(verify=context, trust_env=False) as client:
        assert client.get(server.url).json()["client_subject"] == SUBJECT


def test_httpx_says_what_the_token_said(fresh_token, server):
    with (
        httpx.Client(verify=client_context(fresh_token, server.cafile, pin="0000"), trust_env=False) as client,
        pytest.raises(httpx.ConnectError, match=r"token 'fresh': the PIN is wrong \(CKR_PIN_INCORRECT\)") as failed,
    ):
        client.get(server.url)
    causes = []
    error: BaseException | None = failed.value
    while error is not None:
        causes.append(type(error))
        error = error.__cause__ or error.__context__
    assert tokenauth.HandshakeFailed in causes
    assert tokenauth.PinIncorrect in causes


def test_urllib(context, server):
    with urllib.request.urlopen(server.url, context=context, timeout=10) as answer:
        assert json.load(answer)["client_subject"] == SUBJECT


def test_urllib_says_what_the_token_said(fresh_token, server):
    context = client_context(fresh_token, server.cafile, pin="0000")
    with pytest.raises(urllib.error.URLError, match="the PIN is wrong") as failed:
        urllib.request.urlopen(server.url, context=context, timeout=10)
    assert isinstance(failed.value.reason, tokenauth.HandshakeFailed)
    assert isinstance(failed.value.reason.__cause__, tokenauth.PinIncorrect)


def test_http_client_keeps_its_connection(context, server, calls):
    connection = http.client.HTTPSConnection("localhost", server.port, context=context, timeout=10)
    for _ in range(5):
        connection.request("GET", "/")
        assert json.load(connection.getresponse())["client_subject"] == SUBJECT
    connection.close()
    assert calls.signatures == 1


def test_urllib3(context, server):
    with urllib3.PoolManager(ssl_context=context) as pool:
        assert pool.request("GET", server.url).json()["client_subject"] == SUBJECT


def test_urllib3_says_what_the_token_said(fresh_token, server):
    context = client_context(fresh_token, server.cafile, pin="0000")
    calls = counting.since()
    with urllib3.PoolManager(ssl_context=context) as pool, pytest.raises(urllib3.exceptions.MaxRetryError) as failed:
        pool.request("GET", server.url)
    assert "PIN" in str(failed.value)
    assert calls.logins == 1  # urllib3 tries again, but the same PIN is not sent again


def test_a_context_that_somebody_else_made(one_key, server):
    context = ssl.create_default_context(cafile=server.cafile)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    tokenauth.configure(context, one_key.uri, pin=one_key.pin, module=one_key.module)
    with urllib.request.urlopen(server.url, context=context, timeout=10) as answer:
        seen = json.load(answer)
    assert (seen["client_subject"], seen["tls_version"]) == (SUBJECT, "TLSv1.3")
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3


def test_a_connection_knows_its_identity(context, server, one_key, tmp_path):
    with (
        socket.create_connection(("127.0.0.1", server.port), 10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        assert tls.identity.uri == tokenauth.identity(one_key.uri).uri
    with Nginx(one_key.ca, tmp_path, NginxOptions(verify="off")) as nginx:
        context = client_context(one_key, nginx.cafile)
        with (
            socket.create_connection(("127.0.0.1", nginx.port), 10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as tls,
        ):
            assert tls.identity is None
