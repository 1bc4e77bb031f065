"""Every kind of key against a real nginx, with every way to use it."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request

import httpx
import pytest

import tokenauth
from tests.conftest import KEYS
from tests.support import counting
from tests.support.connect import fetch, handshake
from tests.support.nginx import Nginx, NginxOptions
from tokenauth.testing import Authority, SoftToken

pytestmark = pytest.mark.xdist_group("all_keys")


@pytest.fixture(scope="module", params=["TLSv1.2", "TLSv1.3"])
def tls(request):
    return request.param


@pytest.fixture(scope="module")
def nginx(tls, all_keys, tmp_path_factory):
    """Trusts the root alone, and says so to its clients."""
    # In TLS 1.2 the curves for the key exchange are also those that a client's EC key may be on (RFC 8422 section 5.1).
    curves = "X25519:P-256:P-384:P-521"
    options = NginxOptions(tls=tls, client_ca=all_keys.root.pem, ecdh_curve=curves)
    with Nginx(all_keys.root, tmp_path_factory.mktemp("nginx"), options) as running:
        yield running


def get_with_requests(url: str, uri: str, token: SoftToken, cafile: str) -> bytes:
    with tokenauth.Session(uri, pin=token.pin, module=token.module, verify=cafile) as session:
        answer = session.get(url, timeout=10)
        answer.raise_for_status()
        return answer.content


def get_with_urllib(url: str, uri: str, token: SoftToken, cafile: str) -> bytes:
    context = tokenauth.create_context(uri, pin=token.pin, module=token.module, cafile=cafile)
    with urllib.request.urlopen(url, context=context, timeout=10) as answer:
        body: bytes = answer.read()
        return body


def get_with_httpx(url: str, uri: str, token: SoftToken, cafile: str) -> bytes:
    context = tokenauth.create_context(uri, pin=token.pin, module=token.module, cafile=cafile)
    with httpx.Client(verify=context, trust_env=False) as client:
        return client.get(url).raise_for_status().content


def get_with_command(url: str, uri: str, token: SoftToken, cafile: str) -> bytes:
    environment = {**os.environ, "TEST_PIN": token.pin, "TOKENAUTH_PIN_SOURCE": "env:TEST_PIN"}
    command = [sys.executable, "-m", "tokenauth", "get", url, "-i", uri, "--cacert", cafile, "--module", token.module]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.mark.parametrize("get", [get_with_requests, get_with_urllib, get_with_httpx, get_with_command])
@pytest.mark.parametrize("key_type", KEYS)
def test_every_key_with_every_client(tls, nginx, all_keys, key_type, get):
    answer = get(nginx.url, all_keys.uris[key_type], all_keys.token, nginx.cafile)
    seen = nginx.parse(answer)
    assert seen["ssl_client_s_dn"] == f"CN={key_type}"
    assert seen["ssl_client_verify"] == "SUCCESS"
    assert seen["ssl_protocol"] == tls
    identity = tokenauth.identity(all_keys.uris[key_type], module=all_keys.token.module)
    assert int(seen["ssl_client_serial"], 16) == identity.certificate.serial_number


class WithoutChain(Authority):
    """An authority whose customers do not get its own certificate."""

    chain = ()


def test_without_the_chain_nothing_leads_to_the_ca_that_nginx_names(nginx, all_keys):
    """The control of the test above: there it is the intermediate's certificate on the token that convinces nginx."""
    with SoftToken(
        "no-chain", key_type=None, authority=WithoutChain("tests poor intermediate", parent=all_keys.root)
    ) as token:
        uri = token.add_identity("orphan").uri
        before = counting.since()
        context = tokenauth.create_context(uri, pin=token.pin, module=token.module, cafile=nginx.cafile)
        with pytest.raises(
            tokenauth.HandshakeFailed, match="accepts no certificate issued by CN=tests poor intermediate"
        ):
            handshake(context, nginx.port)
        assert before.signatures == 0
        # Named in so many words it is sent all the same, and nginx refuses it.
        named = tokenauth.identity(uri, pin=token.pin, module=token.module)
        context = tokenauth.create_context(named, cafile=nginx.cafile)
        assert b"SSL certificate error" in fetch(context, nginx.port)
        assert before.signatures == 1
