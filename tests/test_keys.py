"""Private keys in tokens where cryptography's own are expected; others verify what they sign."""

from __future__ import annotations

import copy
import datetime
import hashlib
import pickle
from typing import Any
from unittest import mock

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs7

import tokenauth
from tests.conftest import KEYS
from tests.support import common_name, counting
from tests.support.programs import openssl
from tokenauth.pkcs11 import mechanisms
from tokenauth.pkcs11.keys import ecdsa_der
from tokenauth.pkcs11.mechanisms import KeyShape, MechanismInfo, Payload, SignatureScheme, ways

pytestmark = pytest.mark.xdist_group("all_keys")
MESSAGE = b"what is to be signed"
SHA: dict[str, Any] = {
    "sha1": hashes.SHA1(),
    "sha224": hashes.SHA224(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
RSA_KEYS = [kind for kind in KEYS if kind.startswith("rsa")]
EC_KEYS = [kind for kind in KEYS if kind.startswith("p")]
BASES: dict[str, Any] = {"rsa": rsa.RSAPrivateKey, "p": ec.EllipticCurvePrivateKey, "ed": ed25519.Ed25519PrivateKey}


@pytest.fixture
def identity_of(all_keys):
    def find(kind):
        return tokenauth.identity(all_keys.uris[kind], pin=all_keys.token.pin, module=all_keys.token.module)

    return find


@pytest.fixture
def key_of(identity_of):
    return lambda kind: identity_of(kind).private_key


def digest_for(kind):
    """The hash that certificates, requests and lists are signed with."""
    return None if kind == "ed25519" else hashes.SHA256()


@pytest.mark.parametrize("kind", KEYS)
def test_it_is_one_of_cryptographys(identity_of, kind):
    identity = identity_of(kind)
    key = identity.private_key
    [base] = [base for prefix, base in BASES.items() if kind.startswith(prefix)]
    assert isinstance(key, base)
    assert key.public_key() == identity.certificate.public_key()
    if kind.startswith("rsa"):
        assert key.key_size == int(kind[3:])
    if kind.startswith("p"):
        assert key.key_size == int(kind[1:])
        assert key.curve.key_size == int(kind[1:])


@pytest.mark.parametrize("kind", KEYS)
def test_signing_requests(key_of, kind, tmp_path):
    key = key_of(kind)
    request = x509.CertificateSigningRequestBuilder().subject_name(common_name("me")).sign(key, digest_for(kind))
    assert request.is_signature_valid
    (tmp_path / "csr.pem").write_bytes(request.public_bytes(Encoding.PEM))
    openssl("req", "-in", tmp_path / "csr.pem", "-verify", "-noout")
    assert request.public_key() == key.public_key()


def self_signed(key, kind):
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    usage = {"digital_signature": True, "key_cert_sign": True, "crl_sign": True}
    others = "content_commitment key_encipherment data_encipherment key_agreement encipher_only decipher_only"
    return (
        x509.CertificateBuilder()
        .subject_name(common_name("self"))
        .issuer_name(common_name("self"))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage, **dict.fromkeys(others.split(), False)), critical=True)
        .sign(key, digest_for(kind))
    )


@pytest.mark.parametrize("kind", KEYS)
def test_certificates_and_revocation_lists(key_of, kind, tmp_path):
    key = key_of(kind)
    certificate = self_signed(key, kind)
    (tmp_path / "ca.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    openssl("verify", "-check_ss_sig", "-CAfile", tmp_path / "ca.pem", tmp_path / "ca.pem")
    crl = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(common_name("self"))
        .last_update(certificate.not_valid_before_utc)
        .next_update(certificate.not_valid_after_utc)
        .sign(key, digest_for(kind))
    )
    (tmp_path / "crl.pem").write_bytes(crl.public_bytes(Encoding.PEM))
    openssl("crl", "-in", tmp_path / "crl.pem", "-CAfile", tmp_path / "ca.pem", "-noout", "-verify")
    assert crl.is_signature_valid(key.public_key())


@pytest.mark.parametrize("kind", RSA_KEYS + EC_KEYS)  # cryptography's builder takes no Ed25519 keys
@pytest.mark.parametrize("digest", ["sha256", "sha512"])
def test_cms(identity_of, all_keys, kind, digest, tmp_path):
    identity = identity_of(kind)
    builder = pkcs7.PKCS7SignatureBuilder().set_data(MESSAGE)
    builder = builder.add_signer(identity.certificate, identity.private_key, SHA[digest])
    for above in identity.chain:
        builder = builder.add_certificate(above)
    (tmp_path / "message.p7s").write_bytes(builder.sign(Encoding.DER, [pkcs7.PKCS7Options.Binary]))
    (tmp_path / "root.pem").write_bytes(all_keys.root.pem)
    signed = openssl(
        *("cms", "-verify", "-inform", "DER", "-in", tmp_path / "message.p7s", "-binary"),
        *("-CAfile", tmp_path / "root.pem", "-purpose", "any"),
    )
    assert signed == MESSAGE


@pytest.mark.parametrize(
    ("kind", "algorithm"),
    [
        ("rsa2048", "RS256"),
        ("rsa3072", "RS512"),
        ("rsa2048", "PS256"),
        ("rsa3072", "PS384"),
        ("p256", "ES256"),
        ("p384", "ES384"),
        ("p521", "ES512"),
        ("ed25519", "EdDSA"),
    ],
)
def test_json_web_tokens(key_of, kind, algorithm):
    key = key_of(kind)
    token = jwt.encode({"sub": "me"}, key, algorithm=algorithm)
    assert jwt.decode(token, key.public_key(), algorithms=[algorithm]) == {"sub": "me"}
    head, _, signature = token.split(".")
    forged = jwt.utils.base64url_encode(b'{"sub":"you"}').decode()
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(f"{head}.{forged}.{signature}", key.public_key(), algorithms=[algorithm])


@pytest.mark.parametrize("kind", RSA_KEYS)
@pytest.mark.parametrize("digest", SHA)
def test_pkcs1(key_of, kind, digest):
    key = key_of(kind)
    signature = key.sign(MESSAGE, padding.PKCS1v15(), SHA[digest])
    key.public_key().verify(signature, MESSAGE, padding.PKCS1v15(), SHA[digest])


SALTS = {
    "zero": 0,
    "odd": 7,
    "twenty": 20,
    "digest": padding.PSS.DIGEST_LENGTH,
    "longest": padding.PSS.MAX_LENGTH,
}


def verified_salt(key, signature, digest, salt):
    """Strict about the salt's length: what was asked for, in bytes."""
    lengths = {
        padding.PSS.DIGEST_LENGTH: digest.digest_size,
        padding.PSS.MAX_LENGTH: (key.key_size + 6) // 8 - digest.digest_size - 2,
    }
    exact = padding.PSS(padding.MGF1(digest), lengths.get(salt, salt))
    key.public_key().verify(signature, MESSAGE, exact, digest)


@pytest.mark.parametrize("kind", RSA_KEYS)
@pytest.mark.parametrize("digest", SHA)
@pytest.mark.parametrize("salt", SALTS.values(), ids=SALTS)
def test_pss(key_of, kind, digest, salt):
    key = key_of(kind)
    signature = key.sign(MESSAGE, padding.PSS(padding.MGF1(SHA[digest]), salt), SHA[digest])
    verified_salt(key, signature, SHA[digest], salt)


SOFTWARE = rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.mark.parametrize(
    ("data", "pad", "algorithm"),
    [
        (MESSAGE, padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.AUTO), hashes.SHA256()),
        (MESSAGE, padding.PSS(padding.MGF1(hashes.SHA256()), 223), hashes.SHA256()),
        (bytes(31), padding.PKCS1v15(), Prehashed(hashes.SHA256())),
        (bytes(33), padding.PSS(padding.MGF1(hashes.SHA256()), 32), Prehashed(hashes.SHA256())),
    ],
    ids=["salt auto", "salt too long", "digest too short", "digest too long"],
)
def test_what_cryptographys_own_keys_refuse_is_refused(key_of, data, pad, algorithm):
    calls = counting.since()
    for key in (SOFTWARE, key_of("rsa2048")):
        with pytest.raises(ValueError, match=r"."):
            key.sign(data, pad, algorithm)
    assert calls.signatures == 0


@pytest.mark.parametrize("kind", EC_KEYS)
@pytest.mark.parametrize("digest", SHA)
def test_ecdsa(key_of, kind, digest):
    """Also with digests longer than the curve's order, of which only the first bits count."""
    key = key_of(kind)
    for _ in range(5):  # numbers with leading zeros and high bits come up
        signature = key.sign(MESSAGE, ec.ECDSA(SHA[digest]))
        key.public_key().verify(signature, MESSAGE, ec.ECDSA(SHA[digest]))


def test_ed25519(key_of):
    key = key_of("ed25519")
    for message in (b"", MESSAGE, bytes(100_000)):
        key.public_key().verify(key.sign(message), message)


@pytest.mark.parametrize("digest", ["sha256", "sha512"])
def test_a_digest_made_before(key_of, digest):
    algorithm = Prehashed(SHA[digest])
    hashed = hashlib.new(digest, MESSAGE).digest()
    rsa_key, ec_key = key_of("rsa2048"), key_of("p256")
    for pad in (padding.PKCS1v15(), padding.PSS(padding.MGF1(SHA[digest]), padding.PSS.MAX_LENGTH)):
        rsa_key.public_key().verify(rsa_key.sign(hashed, pad, algorithm), MESSAGE, pad, SHA[digest])
    with pytest.raises(ValueError, match="digest has"):
        ec_key.sign(hashed[:-1], ec.ECDSA(algorithm))
    signature = ec_key.sign(hashed, ec.ECDSA(algorithm))
    ec_key.public_key().verify(signature, MESSAGE, ec.ECDSA(SHA[digest]))


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_any_kind_of_bytes(key_of, make):
    key = key_of("p256")
    key.public_key().verify(key.sign(make(MESSAGE), ec.ECDSA(SHA["sha256"])), MESSAGE, ec.ECDSA(SHA["sha256"]))


@pytest.mark.parametrize("digest", [hashes.SHA3_256(), hashes.SHA512_256(), hashes.BLAKE2s(32), hashes.MD5()])
def test_other_hashes_are_refused_by_name(key_of, digest, calls):
    sign = [
        lambda: key_of("rsa2048").sign(MESSAGE, padding.PKCS1v15(), digest),
        lambda: key_of("rsa2048").sign(MESSAGE, padding.PSS(padding.MGF1(digest), 20), digest),
        lambda: key_of("p256").sign(MESSAGE, ec.ECDSA(digest)),
    ]
    for attempt in sign:
        with pytest.raises(tokenauth.MechanismUnsupported, match=digest.name.upper()):
            attempt()
    assert calls.signatures == 0


def test_pss_with_two_hashes_is_refused(key_of):
    mixed = padding.PSS(padding.MGF1(hashes.SHA1()), 20)
    with pytest.raises(tokenauth.MechanismUnsupported, match="two different hashes"):
        key_of("rsa2048").sign(MESSAGE, mixed, hashes.SHA256())


def test_paddings_that_are_for_encryption_are_refused(key_of):
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    with pytest.raises(tokenauth.MechanismUnsupported):
        key_of("rsa2048").sign(MESSAGE, oaep, hashes.SHA256())


@pytest.mark.parametrize("kind", KEYS)
def test_the_key_stays(key_of, kind):
    key = key_of(kind)
    with pytest.raises(tokenauth.MechanismUnsupported, match="can not leave"):
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for leave in ("private_numbers", "private_bytes_raw"):
        with pytest.raises((tokenauth.MechanismUnsupported, AttributeError)):
            getattr(key, leave)()
    with pytest.raises(TypeError, match="can not be pickled"):
        pickle.dumps(key)
    assert copy.copy(key) is key
    assert copy.deepcopy(key) is key


def test_no_decryption_and_no_key_exchange(key_of):
    with pytest.raises(tokenauth.MechanismUnsupported, match="does not decrypt"):
        key_of("rsa2048").decrypt(b"\0" * 256, padding.PKCS1v15())
    with pytest.raises(tokenauth.MechanismUnsupported, match="does not exchange keys"):
        key_of("p256").exchange(ec.ECDH(), ec.generate_private_key(ec.SECP256R1()).public_key())


@pytest.mark.parametrize("kind", KEYS)
def test_repr_names_the_key_and_no_pin(key_of, all_keys, kind):
    shown = repr(key_of(kind))
    assert repr(kind) in shown
    assert repr(all_keys.token.label) in shown
    assert all_keys.token.pin not in shown


def test_a_signature_is_one_call(key_of):
    key = key_of("p256")
    key.sign(MESSAGE, ec.ECDSA(hashes.SHA256()))
    calls = counting.since()
    key.sign(MESSAGE, ec.ECDSA(hashes.SHA256()))
    assert (calls["C_SignInit"], calls.signatures, calls.any) == (1, 1, 2)


# The ladder of mechanisms: tokens that have only one of them.

ONLY = {
    "CKM_RSA_PKCS": (mechanisms.CKM_RSA_PKCS, "pkcs1"),
    "CKM_RSA_X_509 for PKCS#1": (mechanisms.CKM_RSA_X_509, "pkcs1"),
    "CKM_RSA_PKCS_PSS": (mechanisms.CKM_RSA_PKCS_PSS, "pss"),
    "CKM_RSA_X_509 for PSS": (mechanisms.CKM_RSA_X_509, "pss"),
}


def sign_by(key, number, scheme, payload):
    """A signature made by one mechanism and no other."""
    inner = key._key
    only = {number: MechanismInfo(0, 0, mechanisms.CKF_SIGN)}
    calls = counting.since()
    with mock.patch.object(inner.token, "_mechanisms", only):
        signature = inner.sign(scheme, payload.message, digest=payload.digest)
    assert calls.mechanisms == [number]
    return signature


def padding_of(scheme):
    if scheme.padding == "pkcs1":
        return padding.PKCS1v15()
    return padding.PSS(padding.MGF1(SHA[scheme.digest]), scheme.salt)


@pytest.mark.parametrize("kind", RSA_KEYS)
@pytest.mark.parametrize("digest", SHA)
@pytest.mark.parametrize("only", ONLY)
def test_mechanisms_that_take_a_digest(key_of, kind, digest, only):
    key = key_of(kind)
    number, pad = ONLY[only]
    scheme = SignatureScheme(pad, digest)
    hashed = Payload(None, hashlib.new(digest, MESSAGE).digest())
    signature = sign_by(key, number, scheme, hashed)
    assert len(signature) == key.key_size // 8
    key.public_key().verify(signature, MESSAGE, padding_of(scheme), SHA[digest])


@pytest.mark.parametrize("digest", SHA)
@pytest.mark.parametrize("pad", ["pkcs1", "pss"])
def test_mechanisms_that_hash(key_of, digest, pad):
    key = key_of("rsa2048")
    names = mechanisms._HASHES[digest]
    scheme = SignatureScheme(pad, digest)
    number = names.rsa_pkcs if pad == "pkcs1" else names.rsa_pss
    signature = sign_by(key, number, scheme, Payload(MESSAGE))
    key.public_key().verify(signature, MESSAGE, padding_of(scheme), SHA[digest])


@pytest.mark.parametrize("salt", [0, 1, 20, 32, 222])
def test_our_own_pss_padding_with_any_salt(key_of, salt):
    key = key_of("rsa2048")
    scheme = SignatureScheme("pss", "sha256", salt)
    for _ in range(4):
        signature = sign_by(key, mechanisms.CKM_RSA_X_509, scheme, Payload(MESSAGE))
        key.public_key().verify(signature, MESSAGE, padding_of(scheme), hashes.SHA256())


@pytest.mark.parametrize("bits", range(1024, 1033))
def test_our_own_padding_fits_moduli_of_any_size(bits):
    """A software key does the raw operation; SoftHSM makes no keys of odd sizes."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    numbers = key.private_numbers()
    shape = KeyShape("rsa", bits)
    for pad in ("pss", "pkcs1"):
        scheme = SignatureScheme(pad, "sha256", 32 if pad == "pss" else None)
        [raw] = [way for way in ways(scheme, shape, {}, Payload(MESSAGE)) if way.mechanism.number == 0x3]
        for _ in range(8):
            block = raw.prepare(scheme, shape, Payload(MESSAGE))
            assert len(block) == (bits + 7) // 8
            value = int.from_bytes(block, "big")
            assert value < numbers.public_numbers.n
            signature = pow(value, numbers.d, numbers.public_numbers.n).to_bytes(len(block), "big")
            key.public_key().verify(signature, MESSAGE, padding_of(scheme), hashes.SHA256())


def test_a_mechanism_for_other_key_sizes_is_passed_over():
    info = {
        mechanisms.CKM_RSA_PKCS: MechanismInfo(512, 1024, mechanisms.CKF_SIGN),
        mechanisms.CKM_RSA_X_509: MechanismInfo(512, 4096, mechanisms.CKF_SIGN),
    }
    found = ways(SignatureScheme("pkcs1", "sha256"), KeyShape("rsa", 2048), info, Payload(MESSAGE))
    assert found[0].mechanism.number == mechanisms.CKM_RSA_X_509
    assert mechanisms.CKM_RSA_PKCS not in [way.mechanism.number for way in found]


def test_a_mechanism_that_does_not_sign_is_passed_over():
    info = {mechanisms.CKM_ECDSA: MechanismInfo(0, 0, 0)}
    found = ways(SignatureScheme("ecdsa", "sha256"), KeyShape("ec", 256), info, Payload(MESSAGE))
    assert [way.mechanism.number for way in found] == [0x1044]


def test_a_digest_alone_goes_to_no_mechanism_that_hashes():
    payload = Payload(None, hashlib.sha256(MESSAGE).digest())
    for pad, kind in (("pkcs1", "rsa"), ("pss", "rsa"), ("ecdsa", "ec"), ("eddsa", "ed25519")):
        scheme = SignatureScheme(pad, "" if pad == "eddsa" else "sha256")
        assert not any(way.needs_message for way in ways(scheme, KeyShape(kind, 256), {}, payload))


@pytest.mark.parametrize("half", [32, 48, 66])
def test_ecdsa_der_is_what_cryptography_makes(half):
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    top = 2 ** (8 * half) - 1
    for r, s in [(1, 1), (top, top), (top >> 1, 0x80), (0x7F, top >> 9), (0, 5)]:
        raw = r.to_bytes(half, "big") + s.to_bytes(half, "big")
        assert ecdsa_der(raw) == encode_dss_signature(r, s)
