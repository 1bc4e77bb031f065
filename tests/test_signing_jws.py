"""JWS by keys in a token; jwcrypto and PyJWT verify them with nothing but the certificate in the header."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import subprocess
import sys
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwcrypto import jwk  # type: ignore[import-untyped]
from jwcrypto import jws as jwcrypto_jws

from tests.support.documents import DocumentKeys
from tokenauth.errors import MechanismUnsupported, PinIncorrect
from tokenauth.signing import jws
from tokenauth.signing.model import Document, Job, Options, SigningKey
from tokenauth.signing.refusals import DocumentError

#: White space, the order of names, doubles and escapes are all part of what is signed.
CLAIMS = b'{ "b":1,\r\n "a": "\\u00e4", "b": 2 }\n'
ALGORITHMS = {
    "rsa2048": "RS256",
    "rsa3072": "RS256",
    "p256": "ES256",
    "p384": "ES384",
    "p521": "ES512",
    "ed25519": "EdDSA",
}


def signed(
    keys: DocumentKeys, kind: str = "p256", payload: bytes = CLAIMS, *, pss: bool = False, **options: Any
) -> bytes:
    target = io.BytesIO()
    job = Job(keys.keys[kind]._replace(pss=pss), options=Options(**options), format="jws")
    jws.sign([Document("claims.json", data=payload)], job, target)
    return target.getvalue()


def header_of(token: bytes) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(base64.urlsafe_b64decode(token.partition(b".")[0] + b"=="))
    return header


def certificate_in(token: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(base64.b64decode(header_of(token)["x5c"][0]))


def verified_by_jwcrypto(token: bytes, detached: bytes | None = None) -> bytes:
    """The payload, if jwcrypto accepts the signature with the header's certificate."""
    public = certificate_in(token).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    read = jwcrypto_jws.JWS()
    read.allowed_algs = [*ALGORITHMS.values(), "PS256"]
    read.deserialize(token.decode("ascii"))
    read.verify(jwk.JWK.from_pem(public), detached_payload=detached)
    payload: bytes = read.payload if detached is None else detached
    return payload


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_others_verify(document_keys, kind):
    token = signed(document_keys, kind)
    assert header_of(token)["alg"] == ALGORITHMS[kind]
    assert verified_by_jwcrypto(token) == CLAIMS
    key = certificate_in(token).public_key()
    assert jwt.api_jws.PyJWS().decode(token.decode(), key, [ALGORITHMS[kind]]) == CLAIMS  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["rsa2048", "rsa3072"])
def test_pss(document_keys, kind):
    token = signed(document_keys, kind, pss=True)
    assert header_of(token)["alg"] == "PS256"
    assert verified_by_jwcrypto(token) == CLAIMS


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_a_change_is_seen(document_keys, kind):
    head, payload, signature = signed(document_keys, kind).split(b".")
    changed = base64.urlsafe_b64encode(CLAIMS.replace(b"1", b"2")).rstrip(b"=")
    for token in (b".".join((head, changed, signature)), b".".join((head, payload, signature[::-1]))):
        with pytest.raises(jwcrypto_jws.InvalidJWSSignature):
            verified_by_jwcrypto(token)


@pytest.mark.parametrize("payload", [b"", b"no JSON", bytes(range(256)), b'"text"', b"[" * 1000])
def test_any_payload_is_signed_as_it_is(document_keys, payload):
    assert verified_by_jwcrypto(signed(document_keys, payload=payload)) == payload


def test_the_header_names_the_signer_and_says_no_more(document_keys):
    key = document_keys.keys["p256"]
    header = header_of(signed(document_keys))
    assert list(header) == sorted(["alg", "x5c", "x5t#S256"])
    ders = [one.public_bytes(Encoding.DER) for one in (key.certificate, *key.chain)]
    assert [base64.b64decode(one) for one in header["x5c"]] == ders
    fingerprint = base64.urlsafe_b64encode(hashlib.sha256(ders[0]).digest()).rstrip(b"=").decode()
    assert header["x5t#S256"] == fingerprint


def test_the_chain_is_verified_by_openssl(document_keys, tmp_path):
    from tests.support.programs import openssl

    ders = [base64.b64decode(one) for one in header_of(signed(document_keys))["x5c"]]
    for name, der in zip(("leaf", "issuer"), ders, strict=True):
        (tmp_path / name).write_bytes(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM))
    openssl("verify", "-CAfile", document_keys.root_pem, "-untrusted", tmp_path / "issuer", tmp_path / "leaf")


def test_a_detached_payload(document_keys):
    token = signed(document_keys, packaging="detached")
    assert token.split(b".")[1] == b""
    assert header_of(token)["b64"] is False
    assert header_of(token)["crit"] == ["b64"]
    assert verified_by_jwcrypto(token, CLAIMS) == CLAIMS
    with pytest.raises(jwcrypto_jws.InvalidJWSSignature):
        verified_by_jwcrypto(token, CLAIMS + b" ")


def test_more_in_the_header(document_keys):
    token = signed(document_keys, headers=(("typ", "JWT"), ("kid", "one"), ("iat", 5)))
    assert header_of(token) | {"typ": "JWT", "kid": "one", "iat": 5} == header_of(token)
    assert verified_by_jwcrypto(token) == CLAIMS


@pytest.mark.parametrize("name", ["alg", "x5c", "x5t#S256", "b64", "crit"])
def test_what_the_signature_means_can_not_be_chosen(document_keys, calls, name):
    with pytest.raises(DocumentError, match=f"the JWS header's {name} can not be chosen"):
        signed(document_keys, headers=((name, "none"),))
    assert not calls.signatures


def test_a_header_that_json_does_not_have(document_keys, calls):
    with pytest.raises(DocumentError, match="the JWS can not be made"):
        signed(document_keys, headers=(("when", object()),))
    assert not calls.signatures


def test_a_curve_that_jws_does_not_know(document_keys):
    from tests.support import common_name, signing_request

    private_key = ec.generate_private_key(ec.BrainpoolP256R1())
    certificate = document_keys.root.issue(signing_request(common_name("brainpool"), private_key))
    job = Job(SigningKey(certificate, (), private_key, "sha256"))
    with pytest.raises(MechanismUnsupported, match="no algorithm for keys on the curve brainpoolP256r1"):
        jws.sign([Document("x", data=b"")], job, io.BytesIO())


def test_one_file_without_a_level(document_keys):
    job = Job(document_keys.keys["p256"], format="jws")
    with pytest.raises(DocumentError, match="not of 2; sign them one by one"):
        jws.sign([Document("a", data=b""), Document("b", data=b"")], job, io.BytesIO())
    with pytest.raises(DocumentError, match="a JWS has no level B-T"):
        jws.sign([Document("a", data=b"")], job._replace(level="b-t"), io.BytesIO())


def test_a_wrong_pin_is_told_as_such(fresh_token):
    import tokenauth

    me = tokenauth.identity(f"{fresh_token.uri};object=client", pin="wrong-pin", module=fresh_token.module)
    target = io.BytesIO()
    with pytest.raises(PinIncorrect):
        jws.sign([Document("x", data=b"{}")], Job(SigningKey(me.certificate, (), me.private_key, "sha256")), target)
    assert target.getvalue() == b""


def test_a_p256_key_signs_with_its_own_digest(document_keys):
    """ES256 means SHA-256 (RFC 7518 section 3.4): another digest would make what nobody can verify."""
    key, target = document_keys.keys["p256"], io.BytesIO()
    jws.sign([Document("x", data=CLAIMS)], Job(key._replace(digest="sha512")), target)
    head, payload, signature = target.getvalue().split(b".")
    raw = base64.urlsafe_b64decode(signature + b"==")
    assert len(raw) == 64
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    public_key: Any = key.certificate.public_key()
    public_key.verify(der, head + b"." + payload, ec.ECDSA(hashes.SHA256()))


def test_signing_json_loads_no_xml_and_no_pdf():
    code = "import sys, tokenauth.signing.jws; print(*{'lxml', 'pyhanko', 'asn1crypto', 'requests'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""
