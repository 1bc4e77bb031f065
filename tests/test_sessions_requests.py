"""tokenauth.Session and TokenAdapter: what requests promises, and what a token adds."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
from typing import Any

import pytest
import requests

import tokenauth
from tests.conftest import log_out
from tests.support import counting
from tests.support.nginx import Nginx
from tests.support.programs import openssl
from tests.support.proxy import ConnectProxy
from tokenauth.testing import Authority, MTLSServer

pytestmark = pytest.mark.xdist_group("one_key")
UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"


@pytest.fixture(autouse=True)
def quiet_environment(monkeypatch):
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def make_session(one_key):
    made = []

    def make(**options):
        session = tokenauth.Session(one_key.uri, pin=one_key.pin, module=one_key.module, **options)
        made.append(session)
        return session

    yield make
    for session in made:
        session.close()


@pytest.fixture(scope="module")
def other_ca(tmp_path_factory):
    """The path of a CA certificate that no server here has."""
    path = tmp_path_factory.mktemp("other") / "other.pem"
    path.write_bytes(Authority("nobody's CA").pem)
    return str(path)


def subject(session, server, **options):
    answer = session.get(server.url, timeout=10, **options)
    answer.raise_for_status()
    return answer.json()["client_subject"]


def assert_untrusted(session, server, **options):
    with pytest.raises(requests.exceptions.SSLError, match=UNTRUSTED):
        session.get(server.url, timeout=10, **options)


def test_verify_of_the_session(make_session, server):
    assert subject(make_session(verify=server.cafile), server) == "CN=client"


def test_verify_set_later_as_in_requests(make_session, server):
    session = make_session()
    session.verify = server.cafile
    assert subject(session, server) == "CN=client"


def test_nothing_but_the_usual_cas_is_trusted_by_default(make_session, server):
    assert_untrusted(make_session(), server)


def test_verify_trusts_nothing_else(make_session, server, other_ca):
    session = make_session()
    assert_untrusted(session, server, verify=other_ca)
    assert subject(session, server, verify=server.cafile) == "CN=client"
    assert_untrusted(session, server, verify=other_ca)
    assert_untrusted(session, server, verify=True)
    assert_untrusted(session, server)
    assert subject(session, server, verify=server.cafile) == "CN=client"


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_verify_false_weakens_no_other_request(make_session, server, other_ca):
    session = make_session()
    assert subject(session, server, verify=False) == "CN=client"
    assert_untrusted(session, server)
    assert_untrusted(session, server, verify=other_ca)
    assert subject(session, server, verify=False) == "CN=client"
    assert_untrusted(session, server, verify=True)


def test_verify_may_be_a_directory(make_session, server, tmp_path):
    shutil.copy(server.cafile, tmp_path / "ca.pem")
    openssl("rehash", tmp_path)
    assert subject(make_session(verify=str(tmp_path)), server) == "CN=client"


def test_a_bundle_that_is_not_there_is_said_so(make_session, server, tmp_path):
    with pytest.raises(OSError, match=r"no-such\.pem"):
        subject(make_session(), server, verify=str(tmp_path / "no-such.pem"))


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_the_environments_bundle_is_used_where_nobody_said_otherwise(make_session, server, monkeypatch, variable):
    monkeypatch.setenv(variable, server.cafile)
    session = make_session()
    assert subject(session, server) == "CN=client"
    monkeypatch.delenv(variable)
    assert_untrusted(session, server)


def test_the_environments_bundle_overrides_no_explicit_verify(make_session, server, other_ca, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", other_ca)
    assert subject(make_session(verify=server.cafile), server) == "CN=client"
    assert subject(make_session(), server, verify=server.cafile) == "CN=client"
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", server.cafile)
    assert_untrusted(make_session(verify=other_ca), server)
    assert_untrusted(make_session(), server, verify=other_ca)


def test_cert_is_refused(make_session, server, other_ca):
    calls = counting.since()
    session = make_session(verify=server.cafile)
    with pytest.raises(ValueError, match="authenticates with a token"):
        session.get(server.url, cert=other_ca)
    session.cert = (other_ca, other_ca)
    with pytest.raises(ValueError, match="authenticates with a token"):
        session.get(server.url)
    assert calls.signatures == 0


def test_fifty_requests_one_handshake_one_signature(make_session, one_key):
    with MTLSServer(one_key.ca) as server:
        log_out(one_key)
        calls = counting.since()
        session = make_session(verify=server.cafile)
        for _ in range(50):
            assert subject(session, server) == "CN=client"
        assert (server.requests, server.handshakes) == (50, 1)
        assert (calls.logins, calls.signatures) == (1, 1)


def test_a_session_posts(make_session, server):
    session = make_session(verify=server.cafile)
    assert session.post(server.url, data="hello").json()["body"] == "hello"


def test_through_a_proxy(make_session, server, calls):
    with ConnectProxy() as proxy:
        session = make_session(verify=server.cafile)
        session.proxies = {"https": proxy.url}
        assert subject(session, server) == "CN=client"
        assert subject(session, server) == "CN=client"
        session.close()
    assert proxy.targets == [f"localhost:{server.port}"]
    assert calls.signatures == 1


def test_a_proxy_changes_nothing_about_trust(make_session, server, other_ca, calls):
    with ConnectProxy() as proxy:
        session = make_session()
        proxies = {"https": proxy.url}
        assert_untrusted(session, server, proxies=proxies)
        assert subject(session, server, proxies=proxies, verify=server.cafile) == "CN=client"
        assert_untrusted(session, server, proxies=proxies, verify=other_ca)
        session.close()
    assert calls.signatures == 1


def test_a_proxy_named_by_the_environment(make_session, server, monkeypatch):
    with ConnectProxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "")
        session = make_session(verify=server.cafile)
        assert subject(session, server) == "CN=client"
        session.close()
    assert len(proxy.targets) == 1


def test_an_adapter_on_one_site(one_key, server):
    with requests.Session() as session:
        session.mount(server.url, tokenauth.TokenAdapter(one_key.uri, pin=one_key.pin, module=one_key.module))
        assert subject(session, server, verify=server.cafile) == "CN=client"
        with MTLSServer(one_key.ca, client_auth="optional") as elsewhere:
            assert subject(session, elsewhere, verify=elsewhere.cafile) is None


def test_an_adapter_with_a_context_of_its_own(one_key, server, other_ca):
    context = tokenauth.create_context(one_key.uri, pin=one_key.pin, module=one_key.module, cafile=server.cafile)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with requests.Session() as session:
        session.mount("https://", tokenauth.TokenAdapter(context))
        assert subject(session, server) == "CN=client"
        assert context.verify_mode == ssl.CERT_REQUIRED
        with pytest.raises(ValueError, match="verify=False has no effect"):
            session.get(server.url, verify=False)
        with MTLSServer(Authority("a stranger")) as stranger:
            assert_untrusted(session, stranger)
            # What the context trusts is what counts.
            assert_untrusted(session, stranger, verify=stranger.cafile)


def test_the_adapters_pool_settings_are_requests_own(one_key, server):
    adapter: Any = tokenauth.TokenAdapter(
        one_key.uri, pin=one_key.pin, pool_connections=3, pool_maxsize=4, max_retries=2
    )
    assert (adapter._pool_connections, adapter._pool_maxsize, adapter.max_retries.total) == (3, 4, 2)
    adapter.close()


def test_plain_http_is_none_of_our_business(make_session, calls):
    session = make_session()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.0 204 No content\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        assert session.get(f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout=10).status_code == 204
        thread.join()
    assert calls.any == 0


def test_mistakes_show_when_the_session_is_made(one_key):
    with pytest.raises(tokenauth.InvalidURI):
        tokenauth.Session("pkcs11:tokne=x;id=%zz")
    with pytest.raises(tokenauth.ModuleError, match="no-such"):
        tokenauth.Session(one_key.uri, module="/no-such-module.so")


def test_what_the_token_said_is_in_the_text(fresh_token):
    with (
        MTLSServer(fresh_token.ca) as server,
        tokenauth.Session(fresh_token.uri, pin="0000", module=fresh_token.module, verify=server.cafile) as session,
    ):
        calls = counting.since()
        with pytest.raises(requests.exceptions.SSLError, match=r"token 'fresh': the PIN is wrong \(CKR_PIN_INCORRECT"):
            session.get(server.url)
        assert calls.logins == 1
        with pytest.raises(requests.exceptions.SSLError, match="it refused this PIN before"):
            session.get(server.url)
        assert calls.logins == 1


def test_the_servers_refusal_is_in_the_text(one_key):
    stranger = Authority("a stranger")
    with MTLSServer(stranger) as server:
        session = tokenauth.Session(one_key.uri, pin=one_key.pin, module=one_key.module, verify=server.cafile)
        with session, pytest.raises(requests.exceptions.RequestException, match="does not trust the issuer"):
            session.get(server.url, timeout=10)


def test_sessions_do_not_share_trust_with_plain_requests(make_session, server):
    """A context is never handed to urllib3's or requests' own pools."""
    assert subject(make_session(verify=server.cafile), server) == "CN=client"
    with pytest.raises(requests.exceptions.SSLError, match=UNTRUSTED):
        requests.get(server.url, timeout=10)


def test_nginx_sees_one_connection(make_session, one_key, tmp_path):
    with Nginx(one_key.ca, tmp_path) as nginx:
        session = make_session(verify=nginx.cafile)
        counts = [nginx.parse(session.get(nginx.url).content)["connection_requests"] for _ in range(3)]
        assert counts == ["1", "2", "3"]
        session.close()
