"""TLS sessions are kept: a thousand connections to one server cost one signature, and nobody else's."""

from __future__ import annotations

import gc
import http.client
import os
import socket
import ssl
import threading
import weakref

import pytest
import requests
import urllib3

import tokenauth
from tests.support import counting, read_to_end
from tests.support.connect import connected, fetch
from tests.support.nginx import Nginx, NginxOptions
from tests.support.proxy import ConnectProxy
from tokenauth.testing import MTLSServer, SoftToken
from tokenauth.tls import sessions
from tokenauth.tls.openssl.session import id_of_session

pytestmark = pytest.mark.xdist_group("tls_sessions")
CLOSE = {"Connection": "close"}
MANY = 20


@pytest.fixture(scope="module")
def token():
    with SoftToken("sessions", key_type=None) as made:
        made.add_identity("one")
        made.add_identity("two", key_type="rsa2048")
        yield made


@pytest.fixture(scope="module")
def server(token):
    with MTLSServer(token.ca) as running:
        yield running


def context_for(token, server, label="one", **more):
    more = {"module": token.module} | more
    return tokenauth.create_context(f"{token.uri};object={label}", pin=token.pin, cafile=server.cafile, **more)


def session_for(token, server, **more):
    more = {"module": token.module} | more
    return tokenauth.Session(f"{token.uri};object=one", pin=token.pin, verify=server.cafile, **more)


# One signature for many connections.


@pytest.mark.parametrize("tls", ["TLSv1.2", "TLSv1.3"])
@pytest.mark.parametrize("kept_by", ["client", "server"])
def test_nginx_with_tickets_or_a_cache(token, tmp_path, tls, kept_by):
    options = NginxOptions(tls=tls, session_tickets=kept_by == "client", session_cache=kept_by == "server")
    with Nginx(token.ca, tmp_path, options) as nginx, session_for(token, nginx) as session:
        calls = counting.since()
        answers = [nginx.parse(session.get(nginx.url, headers=CLOSE).content) for _ in range(MANY)]
    assert calls.signatures == 1
    assert [answer["ssl_session_reused"] for answer in answers] == ["."] + ["r"] * (MANY - 1)
    assert {answer["ssl_client_s_dn"] for answer in answers} == {"CN=one"}
    assert {answer["connection_requests"] for answer in answers} == {"1"}


def test_a_thousand_connections_cost_one_signature_and_one_login(tmp_path):
    with SoftToken() as own, Nginx(own.ca, tmp_path, NginxOptions(session_tickets=True)) as nginx:
        calls = counting.since()
        with tokenauth.Session(own.uri, pin=own.pin, module=own.module, verify=nginx.cafile) as session:
            for _ in range(1000):
                assert b"connection_requests=1\n" in session.get(nginx.url, headers=CLOSE).content
        assert (calls.signatures, calls.logins) == (1, 1)


def test_nginx_that_keeps_none_gets_a_signature_each_time(token, tmp_path):
    with Nginx(token.ca, tmp_path) as nginx, session_for(token, nginx) as session:
        calls = counting.since()
        for _ in range(3):
            session.get(nginx.url, headers=CLOSE)
    assert calls.signatures == 3


def test_urllib3(token, server):
    calls = counting.since()
    with urllib3.PoolManager(ssl_context=context_for(token, server)) as pool:
        for _ in range(MANY):
            assert pool.request("GET", server.url, headers=CLOSE).json()["client_subject"] == "CN=one"
    assert calls.signatures == 1


def test_http_client(token, server):
    calls, context = counting.since(), context_for(token, server)
    for _ in range(MANY):
        connection = http.client.HTTPSConnection("localhost", server.port, context=context)
        connection.request("GET", "/")
        assert b'"client_subject": "CN=one"' in connection.getresponse().read()
        connection.close()
    assert calls.signatures == 1


def test_a_resumed_connection_knows_its_identity(token, server):
    context = context_for(token, server)
    fetch(context, server.port)
    with connected(context, server.port) as tls:
        assert tls.session_reused
        assert tls.identity.label == "one"


def test_a_handshake_that_the_caller_starts(token, server):
    context = context_for(token, server)
    fetch(context, server.port)
    with (
        socket.create_connection(("127.0.0.1", server.port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost", do_handshake_on_connect=False) as tls,
    ):
        assert not tls.identity
        tls.do_handshake()
        assert tls.session_reused
        assert tls.identity.label == "one"


def test_a_socket_that_is_connected_after_it_was_wrapped(token, server):
    context = context_for(token, server)
    fetch(context, server.port)
    with context.wrap_socket(socket.socket(), server_hostname="localhost") as tls:
        tls.connect(("127.0.0.1", server.port))
        assert tls.session_reused
        assert tls.identity.label == "one"


def test_a_session_of_the_callers_own_goes_first(token, server):
    context = context_for(token, server)
    with connected(context, server.port) as tls:
        tls.sendall(b"GET / HTTP/1.0\r\n\r\n")
        read_to_end(tls)
        own = tls.session
    kept = context._tokenauth.sessions._kept
    (before,) = [list(sessions) for sessions in kept.values()]
    with (
        socket.create_connection(("127.0.0.1", server.port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost", session=own) as tls,
    ):
        assert tls.session_reused
    assert [*kept.values()] == [before]


def test_a_python_whose_connections_are_laid_out_in_another_way_keeps_none(token, server):
    class Connection:
        """Three fields behind the header, as CPython's, but in another order."""

        __slots__ = ("context", "socket", "ssl")

        def __init__(self) -> None:
            self.context, self.socket, self.ssl = ssl.create_default_context(), None, None

    other = Connection()
    assert id_of_session(other) == b""
    with connected(context_for(token, server), server.port) as tls:
        assert id_of_session(tls._sslobj) == tls.session.id


def test_threads_use_each_session_once(token, server, monkeypatch):
    used, context = [], context_for(token, server)
    take = sessions.SessionStore.take

    def taking(self, wanted):
        kept = take(self, wanted)
        if kept:
            used.append(kept.session.id)
        return kept

    monkeypatch.setattr(sessions.SessionStore, "take", taking)
    calls = counting.since()
    threads = [threading.Thread(target=lambda: [fetch(context, server.port) for _ in range(25)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert 1 <= calls.signatures <= 4
    assert len(used) == len(set(used)) == 100 - calls.signatures


# Never for anybody else.


def test_not_for_another_identity(token, server):
    first, second = (context_for(token, server, label) for label in ("one", "two"))
    assert b'"CN=one"' in fetch(first, server.port)
    assert b'"CN=two"' in fetch(second, server.port)
    assert b'"CN=one"' in fetch(first, server.port)


def test_not_for_another_port_or_name(token, server):
    context = context_for(token, server)
    with MTLSServer(token.ca) as other:
        context.load_verify_locations(other.cafile)
        fetch(context, server.port)
        calls = counting.since()
        fetch(context, other.port)
        fetch(context, server.port, "127.0.0.1")
        assert calls.signatures == 2
        fetch(context, server.port)
        assert calls.signatures == 2


def test_not_for_whom_it_was_not_verified(token, server):
    context = context_for(token, server)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    fetch(context, server.port)
    calls = counting.since()
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = True
    fetch(context, server.port)
    assert calls.signatures == 1


def test_not_through_a_proxy_where_one_address_is_many_servers(token, server):
    with ConnectProxy() as proxy, session_for(token, server) as session:
        session.proxies = {"https": proxy.url}
        calls = counting.since()
        for _ in range(2):
            session.get(server.url, headers=CLOSE)
    assert calls.signatures == 2
    assert len(proxy.targets) == 2


def test_a_server_that_asks_for_nothing_is_not_remembered(token):
    with MTLSServer(token.ca, client_auth="none") as server:
        context = context_for(token, server)
        for _ in range(2):
            fetch(context, server.port)
        assert not context._tokenauth.sessions._kept


def test_not_if_nobody_wants_it(token, server):
    calls = counting.since()
    context = context_for(token, server, reuse_sessions=False)
    with session_for(token, server, reuse_sessions=False) as session:
        for _ in range(2):
            fetch(context, server.port)
            session.get(server.url, headers=CLOSE)
    assert calls.signatures == 4


def test_forgotten(token, server):
    context = context_for(token, server)
    fetch(context, server.port)
    calls = counting.since()
    context.forget()
    fetch(context, server.port)
    assert calls.signatures == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_uses_none_of_its_parents(token, server):
    context = context_for(token, server)
    fetch(context, server.port)
    assert context._tokenauth.sessions._kept
    child = os.fork()
    if child == 0:
        os._exit(len(context._tokenauth.sessions._kept))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    calls = counting.since()
    fetch(context, server.port)
    assert calls.signatures == 0


# No longer than the token is there and logged in to.


def test_a_card_that_left_ends_them_though_nobody_noticed(card, token, server):
    context = context_for(token, server, module=card.path)
    fetch(context, server.port)
    card.remove()
    with pytest.raises(tokenauth.HandshakeFailed) as failed:
        fetch(context, server.port)
    assert isinstance(failed.value.__cause__, tokenauth.TokenRemoved)
    card.insert(5)
    card.reset_counts()
    fetch(context, server.port)
    fetch(context, server.port)
    assert (card.calls("C_Login"), card.calls("C_Sign")) == (1, 1)


def test_a_card_that_left_for_a_moment_ends_them(card, token, server):
    context = context_for(token, server, module=card.path)
    fetch(context, server.port)
    card.remove()
    card.insert()
    card.reset_counts()
    fetch(context, server.port)
    assert (card.calls("C_Login"), card.calls("C_Sign")) == (1, 1)


def test_a_logout_ends_them(card, token, server):
    context = context_for(token, server, module=card.path)
    fetch(context, server.port)
    card.log_out()
    card.reset_counts()
    fetch(context, server.port)
    assert (card.calls("C_Login"), card.calls("C_Sign")) == (1, 1)


def test_requests_says_that_the_card_is_gone(card, token, server):
    with session_for(token, server, module=card.path) as session:
        session.get(server.url, headers=CLOSE)
        card.remove()
        with pytest.raises(requests.exceptions.SSLError, match="removed"):
            session.get(server.url, headers=CLOSE)


# Bounds.


def test_the_store_is_bounded_and_gives_the_newest_first():
    class Token:
        generation = 1

        def is_as_it_was(self):
            return self.generation == 1

    class Key:
        token = Token()

    class Offer:
        key = Key()

    store = sessions.SessionStore()
    servers = [sessions.Server(f"host{index}", ("127.0.0.1", index), ssl.CERT_REQUIRED, True) for index in range(300)]
    for server in servers:
        for number in range(20):
            store.keep(server, sessions.Kept(number, Offer(), 1))  # type: ignore[arg-type]
    assert store.take(servers[0]) is None
    given = []
    while kept := store.take(servers[-1]):
        given.append(kept.session)
    assert [*given] == [*range(19, 3, -1)]
    Key.token.generation = 2
    assert store.take(servers[-2]) is None


def test_a_context_with_sessions_can_go(token, server):
    context = context_for(token, server)
    fetch(context, server.port)
    assert context._tokenauth.sessions._kept
    gone = weakref.ref(context)
    del context
    gc.collect()
    assert gone() is None
