"""OpenSSL asks the provider for the signatures of token keys, and for nothing else in the process."""

from __future__ import annotations

import gc
import socket
import ssl
import threading

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

import tokenauth
from tests.support import client_context, counting
from tests.support.connect import fetch, handshake
from tests.support.file_keys import MAKERS, file_pair
from tests.support.nginx import Nginx, NginxOptions
from tokenauth.tls.openssl import provider

pytestmark = pytest.mark.xdist_group("all_keys")
TLS = ["TLSv1.2", "TLSv1.3"]
#: The key itself; and its certificate's public key, which OpenSSL brings to the same provider to compare the two.
IMPORTS_PER_KEY = 2


class Counted:
    """How often each of the provider's functions ran, and SoftHSM signed, since it was made."""

    def __init__(self) -> None:
        self._before = dict(provider.calls)
        self._token = counting.since()

    def __getitem__(self, function: str) -> int:
        return provider.calls[function] - self._before[function]

    @property
    def signatures(self) -> int:
        return self._token.signatures

    @property
    def nothing(self) -> bool:
        return provider.calls == self._before and self._token.any == 0


def token_context(all_keys, key_type, cafile):
    token = all_keys.token
    return tokenauth.create_context(all_keys.uris[key_type], pin=token.pin, module=token.module, cafile=cafile)


@pytest.mark.parametrize("tls", TLS)
@pytest.mark.parametrize("server_key", ["rsa", "ec", "ed25519"])
@pytest.mark.parametrize("curve", ["P-256", "X25519"])
def test_a_handshake_asks_for_the_one_signature(all_keys, tmp_path, tls, server_key, curve):
    """Key exchange and the server's signature stay with OpenSSL, also where they use the algorithms that we offer."""
    _, certificate, key = file_pair(all_keys.root, tmp_path, server_key, "tls-server")
    options = NginxOptions(tls=tls, ecdh_curve=curve, server_pairs=((certificate, key),))
    with Nginx(all_keys.root, tmp_path, options) as nginx:
        for kind in ("rsa2048", "p256", "ed25519"):
            if (tls, curve, kind) == ("TLSv1.2", "X25519", "p256"):
                continue  # such a server takes no key on P-256, from a file neither
            counted = Counted()
            context = token_context(all_keys, kind, nginx.cafile)
            for _ in range(3):
                seen = nginx.parse(fetch(context, nginx.port))
                assert seen["ssl_client_s_dn"] == f"CN={kind}"
            assert counted.signatures == counted["digest_sign"] == 3
            assert counted["import"] == IMPORTS_PER_KEY


def test_each_key_is_imported_once(all_keys, tmp_path):
    with Nginx(all_keys.root, tmp_path) as nginx:
        counted = Counted()
        contexts = [token_context(all_keys, kind, nginx.cafile) for kind in ("rsa2048", "p256", "ed25519")]
        assert counted["import"] == 0
        for context in contexts * 2:
            fetch(context, nginx.port)
        assert counted["import"] == 3 * IMPORTS_PER_KEY


def serve_once(context: ssl.SSLContext, listener: socket.socket) -> None:
    plain, _ = listener.accept()
    with plain, context.wrap_socket(plain, server_side=True) as tls:
        tls.sendall(tls.getpeercert(binary_form=True) or b"-")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("kind", MAKERS)
def test_ordinary_contexts_in_the_same_process_cause_nothing(all_keys, tmp_path, kind, version):
    with Nginx(all_keys.root, tmp_path) as nginx:  # loads the provider
        handshake(token_context(all_keys, "p256", nginx.cafile), nginx.port)
        cafile = nginx.cafile
    server_pair, _, _ = file_pair(all_keys.root, tmp_path, kind, "tls-server")
    client_pair, _, _ = file_pair(all_keys.root, tmp_path, kind, "tls-client")
    counted = Counted()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=cafile)
    server.verify_mode = ssl.CERT_REQUIRED
    server.minimum_version = server.maximum_version = version
    server.set_ecdh_curve("prime256v1")
    server.load_cert_chain(server_pair)
    client = client_context(cafile, client_pair)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve_once, args=(server, listener))
        thread.start()
        with (
            socket.create_connection(listener.getsockname()) as plain,
            client.wrap_socket(plain, server_hostname="localhost") as tls,
        ):
            assert tls.recv(65536) == ssl.PEM_cert_to_DER_cert(pem_certificate(client_pair))
        thread.join()
    assert counted.nothing


def pem_certificate(pair):
    """The certificate in a file."""
    text = pair.read_text()
    return text[text.index("-----BEGIN CERTIFICATE") :]


def test_signatures_of_other_libraries_cause_nothing(all_keys):
    """cryptography brings an OpenSSL of its own, or shares Python's where a distribution built it."""
    counted = Counted()
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    signature = rsa_key.sign(b"message", padding.PKCS1v15(), hashes.SHA256())
    rsa_key.public_key().verify(signature, b"message", padding.PKCS1v15(), hashes.SHA256())
    ec.generate_private_key(ec.SECP256R1()).sign(b"message", ec.ECDSA(hashes.SHA256()))
    assert counted.nothing


def test_keys_go_with_their_contexts(all_keys, tmp_path):
    registered = provider._provider()
    gc.collect()
    before = len(registered.keys)
    with Nginx(all_keys.root, tmp_path) as nginx:
        for _ in range(20):
            handshake(token_context(all_keys, "p256", nginx.cafile), nginx.port)
    gc.collect()
    assert len(registered.keys) == before


def test_a_context_keeps_its_keys_while_a_connection_lives(all_keys, tmp_path):
    """TLS 1.2 renegotiation and TLS 1.3 post-handshake requests may ask for another signature."""
    with Nginx(all_keys.root, tmp_path) as nginx:
        context = token_context(all_keys, "p256", nginx.cafile)
        gc.collect()
        before = len(provider._provider().keys)
        with (
            socket.create_connection(("127.0.0.1", nginx.port), 10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as tls,
        ):
            del context
            gc.collect()
            assert len(provider._provider().keys) == before + 1
            tls.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert b"CN=p256" in tls.read(65536)
