"""Tokens that lack mechanisms, tell too little of themselves, or have several certificates under one name."""

from __future__ import annotations

import json
import socket
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

import tokenauth
from tests.support.command_line import output_of, run
from tests.support.faulty_module import FaultyModule
from tests.test_poor_cards import handshake, key_of, sign
from tokenauth.pkcs11.binding import python_pkcs11, writable_session
from tokenauth.pkcs11.keys import KeyReference, TokenKey
from tokenauth.pkcs11.objects import bare_point
from tokenauth.pkcs11.private_keys import private_key, shape_of
from tokenauth.provisioning.keys import store_certificate
from tokenauth.testing import MTLSServer, SoftToken

CKM_RSA_PKCS, CKM_RSA_X_509, CKM_RSA_PKCS_PSS = 0x1, 0x3, 0xD
CKM_SHA256_RSA_PKCS, CKM_SHA512_RSA_PKCS_PSS = 0x40, 0x45
CKM_ECDSA, CKM_ECDSA_SHA256, CKM_ECDSA_SHA512 = 0x1041, 0x1044, 0x1046
USER_NOT_LOGGED_IN = 0x101

pytestmark = pytest.mark.xdist_group("poor_mechanisms")


@pytest.fixture(scope="module")
def token():
    with SoftToken("poor", key_type=None) as made:
        made.add_identity("ec", key_type="p256")
        made.add_identity("p521", key_type="p521")
        made.add_identity("rsa", key_type="rsa2048")
        made.add_identity("rsa-server", key_type="rsa2048", purposes=["tls-server"], names=["localhost"])
        yield made


@pytest.fixture(scope="module")
def server(token):
    with MTLSServer(token.ca) as running:
        yield running


# TLS with poor tokens.


def poor_context(card, token, label, server):
    uri = f"{token.uri};object={label}"
    return tokenauth.create_context(uri, pin=token.pin, module=card.path, cafile=server.cafile)


def spoken(context, server):
    """The version of TLS that a connection comes to; the server has verified the client by then."""
    with (
        socket.create_connection(("127.0.0.1", server.port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        tls.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert b" 200 " in tls.recv(100)
        return tls.version()


@pytest.mark.parametrize(
    ("label", "only", "version"),
    [
        ("rsa", [CKM_RSA_PKCS], "TLSv1.2"),
        ("rsa", [CKM_RSA_X_509], "TLSv1.3"),
        ("rsa", [CKM_RSA_PKCS_PSS], "TLSv1.3"),
        ("rsa", [CKM_SHA256_RSA_PKCS], "TLSv1.2"),
        ("rsa", [CKM_SHA512_RSA_PKCS_PSS], "TLSv1.3"),
        ("ec", [CKM_ECDSA_SHA256], "TLSv1.3"),
        ("ec", [CKM_ECDSA_SHA512], "TLSv1.2"),
        ("p521", [CKM_ECDSA], "TLSv1.3"),
    ],
)
def test_tls_with_a_token_that_has_one_mechanism(card, token, server, label, only, version):
    """The server offers TLS 1.2 and 1.3; the first connection works already."""
    card.set(only=only, hashed_ecdsa=True)
    context = poor_context(card, token, label, server)
    assert spoken(context, server) == version
    assert spoken(context, server) == version


def test_requests_with_a_token_that_only_pads_as_of_old(card, token, server):
    card.set(only=[CKM_RSA_PKCS])
    uri = f"{token.uri};object=rsa"
    with tokenauth.Session(uri, pin=token.pin, module=card.path, verify=server.cafile) as session:
        assert session.get(server.url).json()["client_subject"] == "CN=rsa"


def test_a_card_that_lacks_pss_and_is_inserted_later(card, token, server):
    """Nobody could know it before the first server asked; the text says what is missing, and then it works."""
    card.set(only=[CKM_RSA_PKCS])
    card.remove()
    context = poor_context(card, token, "rsa", server)
    with pytest.raises(tokenauth.HandshakeFailed, match="no token matches"):
        spoken(context, server)
    context._tokenauth.prepare()  # a connection begins, without the card
    card.insert()
    with pytest.raises(tokenauth.HandshakeFailed, match="makes none of the signatures that the server takes"):
        spoken(context, server)
    assert spoken(context, server) == "TLSv1.2"


def test_the_limit_goes_with_the_card(card, token, server):
    card.set(only=[CKM_RSA_PKCS])
    context = poor_context(card, token, "rsa", server)
    assert spoken(context, server) == "TLSv1.2"
    card.remove()
    with pytest.raises(tokenauth.HandshakeFailed):
        spoken(context, server)
    card.insert()
    card.set(only=None)
    assert spoken(context, server) == "TLSv1.3"


def test_who_wants_tls_1_3_only_gets_it_or_an_error(card, token, server):
    card.set(only=[CKM_RSA_PKCS])
    context = poor_context(card, token, "rsa", server)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with pytest.raises(tokenauth.HandshakeFailed, match="makes none of the signatures"):
        spoken(context, server)


@pytest.mark.parametrize("only", [[CKM_RSA_PKCS], [CKM_SHA256_RSA_PKCS]])
def test_a_server_whose_token_lacks_pss(card, token, only):
    card.set(only=only)
    uri = f"{token.uri};object=rsa-server"
    context = tokenauth.create_context(uri, pin=token.pin, module=card.path, server_side=True)
    with MTLSServer(token.ca, context=context) as running:
        client = tokenauth.create_context(
            f"{token.uri};object=ec", pin=token.pin, module=token.module, cafile=running.cafile
        )
        assert spoken(client, running) == "TLSv1.2"


@pytest.mark.parametrize("quirk", ["sign_needs_query", "query_ends_sign"])
def test_modules_with_their_own_ideas_of_the_two_calls(card, token, server, quirk):
    card.set(**{quirk: True})
    sign(key_of(card, token, "ec"))
    handshake(poor_context(card, token, "rsa", server), server)


@pytest.mark.parametrize("only", [[CKM_ECDSA], [CKM_ECDSA_SHA512]])
def test_a_digest_longer_than_the_curve(card, token, only):
    card.set(only=only, hashed_ecdsa=True)
    key = key_of(card, token, "ec")
    key.public_key().verify(key.sign(b"data", ec.ECDSA(hashes.SHA512())), b"data", ec.ECDSA(hashes.SHA512()))


def test_a_digest_alone_for_a_token_that_hashes_by_itself(card, token):
    card.set(only=[CKM_ECDSA_SHA256], hashed_ecdsa=True)
    with pytest.raises(tokenauth.MechanismUnsupported, match="give the message and not its digest"):
        key_of(card, token, "ec").sign(bytes(32), ec.ECDSA(utils.Prehashed(hashes.SHA256())))


# Tokens that do not say that they need a login, or show nothing before one.


def test_a_token_that_does_not_say_that_it_needs_a_login(card, token, server):
    card.set(no_login_required=True)
    card.reset_counts()
    handshake(poor_context(card, token, "ec", server), server)
    assert card.calls("C_Login") == 1


def test_a_key_that_says_so_only_when_it_is_to_sign(tmp_path):
    """The key shows without a login, and does not call itself private; then ``C_SignInit`` wants one."""
    with SoftToken("open", key_type=None) as token:
        put_identity(token, KeyReference(b"\x01", "open"), private=False)
        card = FaultyModule(token, tmp_path / "card")
        sign(key_of(card, token, "open"))
        assert card.calls("C_Login") == 0
        card.set(fail__C_SignInit=(1, USER_NOT_LOGGED_IN))
        sign(key_of(card, token, "open"))
        assert card.calls("C_Login") == 1


def test_certificates_that_show_after_a_login_only(card, token, server):
    card.set(hide_certs_before_login=True)
    assert tokenauth.identities(token.uri, module=card.path) == []
    card.reset_counts()
    handshake(poor_context(card, token, "ec", server), server)
    assert card.calls("C_Login") == 1


def test_certificates_that_show_after_a_login_only_and_no_pin(card, token):
    card.set(hide_certs_before_login=True)
    card.reset_counts()
    with pytest.raises(tokenauth.IdentityNotFound, match="only after a login: give a PIN"):
        tokenauth.identity(token.uri, module=card.path)
    assert card.calls("C_Login") == 0


def test_a_server_that_asks_for_nothing_sees_no_login_for_hidden_certificates(card, token):
    card.set(hide_certs_before_login=True)
    with MTLSServer(token.ca, client_auth="none") as running:
        card.reset_counts()
        spoken(poor_context(card, token, "ec", running), running)
    assert card.calls("C_Login") == 0


def test_a_misspelt_label_costs_no_login(card, token):
    card.reset_counts()
    with pytest.raises(tokenauth.IdentityNotFound):
        tokenauth.identity(f"{token.uri};object=nobody", pin=token.pin, module=card.path)
    assert card.calls("C_Login") == 0


# Certificates that share their label and CKA_ID.


@pytest.fixture(scope="module")
def doubles():
    """A certificate and its renewal, for the same key and under the same label and CKA_ID."""
    with SoftToken("doubles", key_type=None) as token:
        reference = KeyReference(b"\x07", "twin")
        put_certificate(token, reference, put_identity(token, reference))
        yield token


def test_certificates_of_the_same_label_and_id_have_uris_of_their_own(doubles):
    found = tokenauth.identities(doubles.uri, module=doubles.module)
    assert len({identity.uri for identity in found}) == len(found) == 2
    for identity in found:
        again = tokenauth.identity(identity.uri, pin=doubles.pin, module=doubles.module)
        assert again.certificate == identity.certificate
        sign(again.private_key)
    with pytest.raises(tokenauth.AmbiguousIdentity) as ambiguous:
        tokenauth.identity(f"{doubles.uri};object=twin", module=doubles.module)
    assert set(ambiguous.value.candidates) == {identity.uri for identity in found}


def test_the_command_line_takes_such_a_uri(doubles):
    listed = run("list", "--json", "--module", doubles.module, doubles.uri)
    uris = [identity["uri"] for identity in json.loads(output_of(listed))[0]["identities"]]
    for uri in uris:
        shown = run("show", "--json", "--module", doubles.module, uri)
        assert json.loads(output_of(shown))["uri"] == uri


def put_identity(token, reference, *, private=True):
    """A P-256 key and its certificate, with whatever label and CKA_ID; the key, to sign requests with."""
    pkcs11 = python_pkcs11()
    attribute = pkcs11.Attribute
    token.token.login(token.credentials)
    with writable_session(token.token, "generating a key") as session:
        parameters = {attribute.EC_PARAMS: bytes.fromhex("06082a8648ce3d030107")}
        public, _ = session.create_domain_parameters(pkcs11.KeyType.EC, parameters, local=True).generate_keypair(
            id=reference.id, label=reference.label, store=True, private_template={attribute.PRIVATE: private}
        )
        point = bare_point(public[attribute.EC_POINT])
    public_key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    key = private_key(TokenKey(token.token, reference, shape_of(public_key), token.credentials), public_key)
    put_certificate(token, reference, key)
    return key


def put_certificate(token, reference, key):
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, reference.label)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    store_certificate(token.token, token.credentials, token.ca.issue(request), reference)
    token.token.logout()


def test_a_token_that_two_modules_show_is_one(token, card, server, monkeypatch):
    """As a YubiKey that OpenSC and Yubico's module both serve, under names of their own."""
    card.set(label="by another name")
    monkeypatch.setenv("TOKENAUTH_MODULE", f"{card.path}:{token.module}")
    found = tokenauth.identities("pkcs11:object=ec")
    assert [identity.token.label for identity in found] == ["by another name"]
    context = tokenauth.create_context("pkcs11:object=ec", pin=token.pin, cafile=server.cafile)
    handshake(context, server)
