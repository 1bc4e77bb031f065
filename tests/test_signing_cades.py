"""CAdES: every kind of key at every level, judged by openssl cms and ts; streams, and evidence that is missing."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

import pytest
from asn1crypto import cms as asn1
from asn1crypto import core, util
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from tests.support.programs import openssl
from tests.support.revocation import AskableAuthority
from tokenauth.errors import LevelNotReached, TokenAuthError
from tokenauth.signing import cades, der, levels
from tokenauth.signing import cms as pieces
from tokenauth.signing.choice import signing_key
from tokenauth.signing.model import LEVELS, Document, Job, Means, Options
from tokenauth.testing import Authority, SoftToken

if TYPE_CHECKING:
    from tokenauth.signing.model import SigningKey

#: OpenSSL 3.0 knows no Ed25519 in CMS; such signatures are taken apart below.
KINDS = ("rsa2048", "p256", "p384", "p521")
CONTENT = bytes(range(256)) * 300
SIGNATURE_TIME_STAMP, ARCHIVE_TIME_STAMP = "1.2.840.113549.1.9.16.2.14", "0.4.0.1733.2.4"


def signed(keys, kind="p256", level="b-b", *, pss=False, content=CONTENT, **options):
    target = io.BytesIO()
    job = Job(keys.keys[kind]._replace(pss=pss), level, keys.means, Options(**options))
    cades.sign([Document("x.bin", data=content)], job, target)
    return target.getvalue()


def extended(keys, content, level):
    target = io.BytesIO()
    cades.extend(Document("x.p7s", data=content), Job(cast("SigningKey", None), level, keys.means), target)
    return target.getvalue()


def openssl_takes(signature, keys, directory, content=CONTENT):
    """What ``openssl cms -verify -cades`` finds inside the signature, or takes beside it."""
    for name, data in {"signature": signature, "content": content}.items():
        if data is not None:
            (directory / name).write_bytes(data)
    beside = [] if content is None else ["-content", directory / "content"]
    return openssl(
        *("cms", "-verify", "-cades", "-binary", "-inform", "DER", "-in", directory / "signature", *beside),
        *("-CAfile", keys.root_pem, "-purpose", "any"),
    )


def taken_apart(signature):
    data = asn1.ContentInfo.load(signature)["content"]
    info = data["signer_infos"][0]
    return data, info, {one["type"].dotted: one["values"] for one in info["unsigned_attrs"]}


def members(sequence):
    return core.SequenceOf.load(sequence.dump(), spec=core.Any)


def stamped_by(token, data, keys, directory):
    """That ``openssl ts`` takes a token for a time stamp of data."""
    (directory / "token").write_bytes(token)
    (directory / "stamped").write_bytes(data)
    openssl(
        *("ts", "-verify", "-token_in", "-in", directory / "token", "-data", directory / "stamped"),
        *("-CAfile", keys.root_pem, "-untrusted", keys.services.directory / "tsa.chain"),
    )


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("kind", "pss"), [*((kind, False) for kind in KINDS), ("rsa2048", True)])
def test_openssl_verifies(signers, tmp_path, kind, pss, level, attached):
    made = signed(signers, kind, level, pss=pss, attached=attached)
    assert openssl_takes(made, signers, tmp_path, None if attached else CONTENT) == CONTENT
    data, _, unsigned = taken_apart(made)
    wanted = {"b-b": set(), "b-t": {SIGNATURE_TIME_STAMP}, "b-lt": {SIGNATURE_TIME_STAMP}}
    assert set(unsigned) == wanted.get(level, {SIGNATURE_TIME_STAMP, ARCHIVE_TIME_STAMP})
    # Of signer, issuer, time-stamping authority and issuer again.
    assert len(data["crls"]) == (4 if level in {"b-lt", "b-lta"} else 0)
    assert data["version"].native == ("v5" if level in {"b-lt", "b-lta"} else "v1")


def test_openssl_refuses_another_document(signers, tmp_path):
    with pytest.raises(AssertionError, match=r"digest failure|verification failure"):
        openssl_takes(signed(signers), signers, tmp_path, CONTENT[:-1] + b"!")


def test_an_ed25519_signature_verifies(signers):
    for level in LEVELS:
        _, info, _ = taken_apart(signed(signers, "ed25519", level))
        key = signers.keys["ed25519"].certificate.public_key()
        key.verify(info["signature"].native, info["signed_attrs"].untag().dump())
        assert info["digest_algorithm"]["algorithm"].native == "sha512"
        assert info["signature_algorithm"]["algorithm"].native == "ed25519"
        digests = [one["values"][0].native for one in info["signed_attrs"] if one["type"].native == "message_digest"]
        assert digests == [hashlib.sha512(CONTENT).digest()]


@pytest.mark.parametrize("kind", [*KINDS, "ed25519"])
def test_it_is_der_as_asn1crypto_writes_it(signers, kind):
    made = signed(signers, kind, attached=True)
    assert asn1.ContentInfo.load(made, strict=True).dump(force=True) == made


def test_the_certificate_is_named_in_what_is_signed(signers):
    for kind in ("p256", "p384"):
        _, info, _ = taken_apart(signed(signers, kind))
        [named] = [one["values"][0] for one in info["signed_attrs"] if one["type"].native == "signing_certificate_v2"]
        [identifier] = named["certs"]
        certificate = signers.keys[kind].certificate
        algorithm = identifier["hash_algorithm"]["algorithm"].native
        assert algorithm == {"p256": "sha256", "p384": "sha384"}[kind]
        assert identifier["cert_hash"].native == hashlib.new(algorithm, certificate.public_bytes(Encoding.DER)).digest()
        assert identifier["issuer_serial"]["serial_number"].native == certificate.serial_number


def test_the_time_of_signing_is_said(signers):
    _, info, _ = taken_apart(signed(signers))
    [moment] = [one["values"][0].native for one in info["signed_attrs"] if one["type"].native == "signing_time"]
    assert abs((datetime.now(UTC) - moment).total_seconds()) < 60


def test_the_time_stamp_is_of_the_signature(signers, tmp_path):
    _, info, unsigned = taken_apart(signed(signers, "p384", "b-t"))
    stamped_by(unsigned[SIGNATURE_TIME_STAMP][0].dump(), info["signature"].native, signers, tmp_path)


@pytest.mark.parametrize("attached", [False, True])
def test_the_archive_time_stamp_is_of_everything(signers, tmp_path, attached):
    """EN 319 122-1 section 5.5.3, put together again from the file."""
    data, info, unsigned = taken_apart(signed(signers, "p521", "b-lta", attached=attached))
    token = asn1.ContentInfo.load(unsigned[ARCHIVE_TIME_STAMP][0].dump())
    attributes = token["content"]["signer_infos"][0]["unsigned_attrs"]
    [values] = [one["values"] for one in attributes if one["type"].dotted == "0.4.0.19122.1.5"]
    [index] = core.SetOf.load(values.dump(), spec=core.Any)

    def hashed(value):
        return hashlib.sha512(value).digest()

    signed_part = b"".join(info[name].dump() for name in ("version", "sid", "digest_algorithm", "signed_attrs"))
    signed_part += b"".join(info[name].dump() for name in ("signature_algorithm", "signature"))
    imprint = data["encap_content_info"]["content_type"].dump() + hashed(CONTENT) + signed_part + index.dump()
    stamped_by(token.dump(), imprint, signers, tmp_path)
    _, *columns = (core.SequenceOf.load(one.dump(), spec=core.OctetString) for one in members(index))
    entries = [
        [one.dump() for one in data["certificates"]],
        [one.dump() for one in data["crls"]],
        [core.ObjectIdentifier(SIGNATURE_TIME_STAMP).dump() + unsigned[SIGNATURE_TIME_STAMP][0].dump()],
    ]
    for column, values in zip(columns, entries, strict=True):
        assert {one.native for one in column} == set(map(hashed, values))


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize(("before", "after"), [("b-b", "b-t"), ("b-b", "b-lta"), ("b-t", "b-lt"), ("b-lt", "b-lta")])
def test_the_level_is_raised_without_a_key(signers, tmp_path, before, after, attached):
    made = signed(signers, "p256", before, attached=attached)
    raised = extended(signers, made, after)
    assert openssl_takes(raised, signers, tmp_path, None if attached else CONTENT) == CONTENT
    data, _, unsigned = taken_apart(raised)
    assert (ARCHIVE_TIME_STAMP in unsigned) == (after == "b-lta")
    assert len(unsigned[SIGNATURE_TIME_STAMP]) == 1
    assert bool(len(data["crls"])) == (after in {"b-lt", "b-lta"})


def test_openssls_own_signature_is_raised(signers, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key)
    request = openssl("req", "-new", "-key", key, "-subj", "/CN=file")
    issuer = signers.services.authorities["issuer"]
    issued = issuer.issue(x509.load_pem_x509_csr(request), purposes=("document",))
    certificate.write_bytes(issued.public_bytes(Encoding.PEM))
    (tmp_path / "content").write_bytes(CONTENT)
    (tmp_path / "chain").write_bytes(issuer.pem)
    made = openssl(
        *("cms", "-sign", "-cades", "-binary", "-in", tmp_path / "content", "-signer", certificate, "-inkey", key),
        *("-certfile", tmp_path / "chain", "-outform", "DER"),
    )
    assert openssl_takes(extended(signers, made, "b-lta"), signers, tmp_path) == CONTENT


@pytest.mark.parametrize("content", [b"", b"0", b"0\x80", CONTENT, b"0\x03\x02\x01\x05"])
def test_what_is_no_signature_has_no_level(signers, content):
    with pytest.raises(TokenAuthError, match="no CMS signature"):
        extended(signers, content, "b-t")


@given(st.binary(max_size=200))
def test_reading_garbage_is_refused(content):
    with pytest.raises(TokenAuthError):
        pieces.read(content)


def test_a_changed_byte_is_refused_or_read(signers):
    made = signed(signers)
    for position in range(0, len(made), 7):
        changed = bytearray(made)
        changed[position] ^= 0x55
        try:
            pieces.read(bytes(changed))
        except TokenAuthError:
            continue


def test_a_document_that_changes_meanwhile(signers, tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(CONTENT)
    document = Document("x.bin", path)
    job = Job(signers.keys["p256"], options=Options(attached=True))
    attributes = cades.prepare([document], job)
    path.write_bytes(CONTENT[:-1] + b"!")
    signature = job.key.sign(pieces.to_sign(attributes))
    with pytest.raises(TokenAuthError, match="changed while it was being signed"):
        cades.complete([document], job, attributes, signature, io.BytesIO())


def test_two_documents_are_not_one(signers):
    files = [Document("a", data=b"a"), Document("b", data=b"b")]
    with pytest.raises(TokenAuthError, match="not of 2"):
        cades.sign(files, Job(signers.keys["p256"]), io.BytesIO())


MEASURED = """
import re, sys
from pathlib import Path
from tokenauth.signing import cades
from tokenauth.signing.choice import find_signer, signing_key
from tokenauth.signing.model import Document, Job, Options
uri, pin, module, source, output, attached = sys.argv[1:]
key = signing_key(find_signer(uri, pin=pin, module=module))
with open(output, "wb") as target:
    cades.sign([Document("big", Path(source))], Job(key, options=Options(attached=attached == "True")), target)
print(re.search("VmHWM:\\\\s+([0-9]+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("attached", [False, True])
def test_a_large_document_is_never_in_memory(signers, tmp_path, attached):
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(300 << 20)
    token = signers.token
    uri = f"{token.uri};object=only%20p256"
    output = tmp_path / "signature"
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, uri, token.pin, token.module, big, output, str(attached)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(done.stdout) < 100_000  # kB
    beside = [] if attached else ["-content", big]
    openssl(
        *("cms", "-verify", "-cades", "-binary", "-inform", "DER", "-in", output, *beside),
        *("-CAfile", signers.root_pem, "-purpose", "any", "-out", os.devnull),
    )


# Evidence.


@pytest.fixture
def unrevocable():
    """A key below an intermediate CA of which nobody says whether it was revoked."""
    authority = Authority("silent root").intermediate("silent issuer")
    with SoftToken("silent", authority=authority, key_type=None) as token:
        yield authority, signing_key(token.add_identity("me", purposes=("document",)))


def test_an_intermediate_without_revocation_data_fails(signers, unrevocable, calls):
    authority, key = unrevocable
    means = signers.means._replace(trust=(authority.root.certificate,))
    with pytest.raises(LevelNotReached, match="whether a certificate was revoked can not be learned"):
        levels.evidence_for(key.certificate, key.chain, means)
    with pytest.raises(LevelNotReached):
        cades.sign([Document("x", data=b"x")], Job(key, "b-lt", means), io.BytesIO())


def test_an_issuer_that_is_not_known_fails(unrevocable):
    _, key = unrevocable
    with pytest.raises(LevelNotReached, match=r"issuer .*is not known: 'CN=silent root'"):
        levels.evidence_for(key.certificate, key.chain, Means())
    with pytest.raises(LevelNotReached, match=r"issuer .*is not known: 'CN=silent issuer'"):
        levels.evidence_for(key.certificate, (), Means())


def test_crls_do_where_there_is_no_ocsp(signers, monkeypatch, tmp_path):
    monkeypatch.setattr(signers.services, "has_ocsp", False)
    root = AskableAuthority(signers.services, "crl-root")
    issuer = AskableAuthority(signers.services, "crl-issuer", root)
    with SoftToken("crl", authority=issuer, key_type=None) as token:
        key = signing_key(token.add_identity("me", purposes=("document",)))
        found = levels.evidence_for(key.certificate, key.chain, Means(trust=(root.certificate,)))
        assert (len(found.certificates), len(found.ocsps), len(found.crls)) == (3, 0, 2)
        target = io.BytesIO()
        means = signers.means._replace(trust=(root.certificate, signers.root.certificate))
        cades.sign([Document("x", data=CONTENT)], Job(key, "b-lta", means), target)
        (tmp_path / "both.pem").write_bytes(root.pem)
        assert len(taken_apart(target.getvalue())[0]["crls"]) == 4


def test_nothing_is_fetched_if_that_is_not_allowed(signers):
    before = len(signers.services.requests)
    key = signers.keys["p256"]
    with pytest.raises(LevelNotReached, match="can not be learned"):
        levels.evidence_for(key.certificate, key.chain, signers.means._replace(fetch=False))
    assert len(signers.services.requests) == before


def test_a_batch_asks_once(signers):
    key = signers.keys["rsa3072"]
    levels.evidence_for(key.certificate, key.chain, signers.means)
    before = len(signers.services.requests)
    levels.evidence_for(key.certificate, key.chain, signers.means)
    assert len(signers.services.requests) == before


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "127.0.0.1", "http://u:secret@127.0.0.1:9/x?key=secret"])
def test_an_authority_that_can_not_be_asked(url):
    with pytest.raises(LevelNotReached) as caught:
        levels.timestamp(bytes(32), "sha256", Means(tsa=url))
    assert "secret" not in str(caught.value)


def test_a_time_stamp_of_something_else_is_refused(signers, monkeypatch):
    reply: list[bytes] = []
    monkeypatch.setattr("tokenauth.signing.timestamps._post", lambda *asked: reply[0])
    asked = {"first": (bytes(32), "sha256"), "other": (bytes(31) + b"!", "sha256")}
    real = signers.services.answer

    def request(digest):
        from asn1crypto import algos, tsp

        imprint = {"hash_algorithm": algos.DigestAlgorithm({"algorithm": "sha256"}), "hashed_message": digest}
        return tsp.TimeStampReq({"version": "v1", "message_imprint": imprint, "cert_req": True}).dump()

    reply.append(real("/tsa", request(asked["other"][0]))[1])
    with pytest.raises(LevelNotReached, match="is not of what was sent"):
        levels.timestamp(*asked["first"], signers.means)
    for junk in (b"", b"junk", b"0\x03\x02\x01\x05", real("/tsa", b"junk")[1]):
        reply[0] = junk
        with pytest.raises(LevelNotReached, match=r"no time stamp|refuses a time stamp"):
            levels.timestamp(*asked["first"], signers.means)


# DER.


@given(st.integers(0, 2**170))
def test_integers(number):
    assert der.integer(number) == core.Integer(number).dump()


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=8), st.integers(0, 2), st.integers(0, 39))
def test_object_identifiers(rest, first, second):
    dotted = ".".join(map(str, (first, second, *rest)))
    assert der.oid(dotted) == core.ObjectIdentifier(dotted).dump()


@given(st.integers(0, 2**33))
def test_lengths(length):
    made = der.header(der.OCTET_STRING, length)
    digits = made[2:] if made[1] & 0x80 else made[1:]
    assert int.from_bytes(digits, "big") == length
    assert len(digits) == max(1, (length.bit_length() + 7) // 8)


@given(st.datetimes(datetime(1950, 1, 1), datetime(2100, 1, 1)))
def test_times(moment):
    made = asn1.Time.load(der.time(moment)).native
    assert made == moment.replace(microsecond=0, tzinfo=util.timezone.utc)
