"""Which certificate signs documents, and what is seen before a PIN is asked for."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

import tokenauth
from tests.conftest import log_out
from tests.support import common_name
from tests.support.pdfs import one_page
from tokenauth import signing
from tokenauth.errors import (
    AmbiguousIdentity,
    IdentityNotFound,
    LevelNotReached,
    PinIncorrect,
    PinRequired,
    TokenAuthError,
)
from tokenauth.pkcs11.keys import KeyReference
from tokenauth.provisioning import keys
from tokenauth.signing import formats
from tokenauth.signing.choice import choose, find_signer, signing_key
from tokenauth.signing.model import Document, Means, Visible
from tokenauth.signing.operations import plan
from tokenauth.signing.verification import load_trust
from tokenauth.testing import SoftToken

pytestmark = pytest.mark.xdist_group("signing_choice")
DAY = timedelta(days=1)
NOW = datetime.now(UTC)


@pytest.fixture
def empty():
    with SoftToken("card", key_type=None) as token:
        yield token


@pytest.fixture(scope="module")
def card():
    """As a national card: one certificate for authentication, one for documents; the labels say nothing."""
    with SoftToken("national", key_type=None) as token:
        token.add_identity("first", label="Certificate 1")
        token.add_identity("second", label="Certificate 2", purposes=("document",), key_type="p384")
        yield token


def never(request):
    raise AssertionError("the PIN was asked for")


def found(token, suffix="", **settings):
    return find_signer(token.uri + suffix, module=token.module, **settings)


def test_the_certificate_for_documents_is_taken(card, caplog):
    assert found(card).label == "Certificate 2"
    assert not caplog.records


def test_a_certificate_for_authentication_if_it_is_named(card, caplog):
    assert found(card, ";object=Certificate%201").label == "Certificate 1"
    [one] = tokenauth.identities(f"{card.uri};object=Certificate%201", module=card.module)
    assert find_signer(one) is one
    assert not caplog.records


def test_a_certificate_for_authentication_if_there_is_no_other(empty, caplog):
    empty.add_identity("only", label="Authentication")
    assert found(empty).label == "Authentication"
    assert "is for authentication" in caplog.text


def test_a_servers_certificate_is_the_last_to_be_taken(empty):
    empty.add_identity("server", purposes=("tls-server",))
    assert found(empty).label == "server"
    empty.add_identity("client")
    assert found(empty).label == "client"


def test_several_for_documents_are_not_chosen_among(empty):
    for name in ("a", "b"):
        empty.add_identity(name, purposes=("document",))
    with pytest.raises(AmbiguousIdentity) as caught:
        found(empty)
    assert len(caught.value.candidates) == 2
    assert find_signer(caught.value.candidates[1], module=empty.module).label == "b"


def test_several_for_authentication_are_not_chosen_among(empty):
    for name in ("a", "b"):
        empty.add_identity(name)
    with pytest.raises(AmbiguousIdentity):
        found(empty)


@pytest.mark.parametrize(
    ("validity", "words"),
    [
        ({"not_before": NOW - 3 * DAY, "not_after": NOW - DAY}, "'old' expired on"),
        ({"not_before": NOW + DAY, "not_after": NOW + 3 * DAY}, "'old' is not valid before"),
    ],
)
def test_one_that_is_not_valid_now_signs_nothing(empty, validity, words):
    empty.add_identity("old", purposes=("document",), **validity)
    with pytest.raises(IdentityNotFound, match=words):
        found(empty)
    with pytest.raises(IdentityNotFound, match=words):
        found(empty, ";object=old")
    empty.add_identity("new", purposes=("document",))
    assert found(empty).label == "new"


def shown(*tokens):
    return [one for token in tokens for one in tokenauth.identities(token.uri, module=token.module)]


def certified(token, key, name, reference, **settings):
    request = x509.CertificateSigningRequestBuilder().subject_name(common_name(name)).sign(key, hashes.SHA256())
    made = token.ca.issue(request, **settings)
    keys.store_certificate(token.token, token.credentials, made, reference)
    return made


def test_two_tokens_of_one_card_with_the_same_id(empty):
    """Each PIN of a card is a slot; some modules show both certificates in both."""
    identifier = b"\x01"
    reference = KeyReference(identifier, "one")
    with SoftToken("card sign", key_type=None, authority=empty.ca) as other:
        authentication = keys.generate_key(empty.token, empty.credentials, "p256", reference)
        documents = keys.generate_key(other.token, other.credentials, "p256", reference)
        certificates = [
            certified(empty, authentication, "authentication", reference),
            certified(other, documents, "documents", reference, purposes=("document",)),
        ]
        keys.store_certificate(empty.token, empty.credentials, certificates[1], KeyReference(identifier, "also"))
        keys.store_certificate(other.token, other.credentials, certificates[0], KeyReference(identifier, "also"))
        for token in (empty, other):
            token.token.logout()
        chosen = choose(shown(empty, other))
        assert chosen.token.label == "card sign"
        assert chosen.certificate == certificates[1]
        mine = tokenauth.identity(chosen.uri, pin=other.pin, module=other.module)
        assert signing.sign(b"x", mine, format="cades")


def test_a_certificate_whose_key_is_elsewhere_signs_nothing(empty):
    me = empty.add_identity("me", purposes=("document",))
    with SoftToken("other", key_type=None, authority=empty.ca) as other:
        keys.store_certificate(other.token, other.credentials, me.certificate, KeyReference(b"\x05", "copy"))
        other.token.logout()
        assert choose(shown(empty, other)).token.label == "card"
        other.token.login(other.credentials)
        with pytest.raises(IdentityNotFound, match="'copy' has its key elsewhere"):
            found(other)


@pytest.mark.parametrize(
    ("kind", "digest"),
    [("rsa2048", "sha256"), ("p256", "sha256"), ("p384", "sha384"), ("p521", "sha512"), ("ed25519", "sha512")],
)
def test_the_hash_follows_the_key(signers, kind, digest):
    assert signers.keys[kind].digest == digest
    assert not signers.keys[kind].pss


def test_pss_is_for_rsa(card):
    assert not signing_key(found(card), pss=True).pss


# Before a PIN is asked for.


def refused(card, source, error, match=None, **settings):
    log_out(card)
    with pytest.raises(error, match=match):
        signing.sign(source, card.uri, module=card.module, pin=never, **settings)


def test_a_document_that_is_not_there(card, tmp_path):
    refused(card, tmp_path / "missing.pdf", FileNotFoundError, "missing")
    refused(card, tmp_path, TokenAuthError, "no ordinary file")
    os.mkfifo(tmp_path / "pipe")
    refused(card, tmp_path / "pipe", TokenAuthError, "no ordinary file")


def test_a_place_where_nothing_can_be_written(card, tmp_path):
    refused(card, b"x", FileNotFoundError, "no such directory", output=tmp_path / "missing" / "x")


def test_a_file_that_is_there_is_not_replaced(card, tmp_path):
    (tmp_path / "x.pdf").write_bytes(one_page())
    (tmp_path / "x.signed.pdf").write_text("precious")
    refused(card, tmp_path / "x.pdf", TokenAuthError, "x.signed.pdf is there already")
    assert (tmp_path / "x.signed.pdf").read_text() == "precious"
    made = signing.sign(tmp_path / "x.pdf", card.uri, module=card.module, pin=card.pin, overwrite=True)
    assert made == tmp_path / "x.signed.pdf"
    assert (tmp_path / "x.signed.pdf").read_bytes().startswith(one_page()[:100])


def test_what_is_asked_is_checked(card):
    refused(card, b"x", ValueError, "format is one of", format="odt")
    refused(card, b"x", ValueError, "level is one of", level="b-c")
    refused(card, b"x", TypeError, "colour", colour="blue")
    refused(card, b"x", ValueError, "certify is one of", certify="yes", format="pades")
    refused(card, [], ValueError, "no document")
    refused(card, b"x", TokenAuthError, "B-LT needs a time stamp", level="b-lt")


def test_an_authority_that_does_not_listen(card):
    refused(card, b"x", LevelNotReached, "does not answer", tsa="http://127.0.0.1:9/", format="cades")


def test_evidence_that_can_not_be_had(card, signers):
    means = Means(trust=(card.ca.root.certificate, signers.root.certificate))
    refused(card, b"x", LevelNotReached, "can not be learned", tsa=signers.services.tsa, level="b-lt", means=means)


def test_a_document_that_is_no_pdf(card):
    refused(card, b"x", TokenAuthError, "document can not be signed", format="pades")


def test_no_pin_means_nothing_written(card, tmp_path):
    log_out(card)
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(PinRequired):
        signing.sign(tmp_path / "x.txt", card.uri, module=card.module, format="cades")
    assert [one.name for one in tmp_path.iterdir()] == ["x.txt"]


def test_a_wrong_pin_is_one_try_and_nothing_written(card, calls, tmp_path):
    log_out(card)
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(PinIncorrect):
        signing.sign(tmp_path / "x.txt", card.uri, module=card.module, format="cades", pin="0000-wrong")
    assert calls.logins == 1
    assert [one.name for one in tmp_path.iterdir()] == ["x.txt"]


def test_no_time_stamp_means_nothing_written(signers, tmp_path, monkeypatch):
    """The authority listens, and refuses only once the signature is there."""
    monkeypatch.setattr(signers.services, "is_down", True)
    (tmp_path / "x.txt").write_text("x")
    uri = f"{signers.token.uri};object=only%20p256"
    settings = {
        "module": signers.token.module,
        "pin": signers.token.pin,
        "format": "cades",
        "tsa": signers.services.tsa,
    }
    with pytest.raises(LevelNotReached):
        signing.sign(tmp_path / "x.txt", uri, **settings)
    assert [one.name for one in tmp_path.iterdir()] == ["x.txt"]
    made = signing.sign(tmp_path / "x.txt", uri, allow_lower_level=True, **settings)
    assert made == tmp_path / "x.txt.p7s"


# Where it goes, and as what.


@pytest.mark.parametrize(
    ("names", "settings", "output"),
    [
        (["contract.pdf"], {}, "contract.signed.pdf"),
        (["report.docx"], {}, "report.asice"),
        (["report.docx", "photo.jpg"], {}, "report.asice"),
        (["report.docx"], {"format": "asics"}, "report.asics"),
        (["big.iso"], {"format": "cades"}, "big.iso.p7s"),
        (["big.iso"], {"format": "cades", "attached": True}, "big.iso.p7m"),
        (["data.xml"], {}, "data.asice"),
        (["data.xml"], {"format": "xades"}, "data.signed.xml"),
        (["data.xml"], {"format": "xades", "packaging": "detached"}, "data.xml.xades.xml"),
        (["claims.json"], {"format": "jws"}, "claims.jws"),
    ],
)
def test_names_and_default_formats(card, tmp_path, names, settings, output):
    contents = {".pdf": one_page(), ".xml": b"<a/>", ".json": b"{}"}
    paths = [tmp_path / name for name in names]
    for path in paths:
        path.write_bytes(contents.get(path.suffix, b"some content"))
    made = signing.sign(paths, card.uri, module=card.module, pin=card.pin, **settings)
    assert made == tmp_path / output
    into = tmp_path / "signed"
    into.mkdir()
    assert signing.sign(paths, card.uri, module=card.module, pin=card.pin, output=into, **settings) == into / output


def test_bytes_give_bytes(card):
    made = signing.sign(one_page(), card.uri, module=card.module, pin=card.pin, visible=Visible(1, 10, 10, 100, 40))
    assert bytes(made).startswith(b"%PDF-")


def test_the_level_is_the_highest_that_is_at_hand(signers):
    assert plan(b"x", format="cades").level == "b-b"
    assert plan(b"x", format="cades", tsa=signers.services.tsa).level == "b-t"
    assert plan(b"x", format="jws", tsa=signers.services.tsa).level == "b-b"


def test_a_container_below_what_its_readers_accept_is_told(caplog):
    plan(b"x", tsa="http://127.0.0.1/", level="b-lt")
    assert not caplog.records
    plan(b"x")
    assert "most readers of .asice containers want level B-LT" in caplog.text


def test_extending_a_file_replaces_it_whole(signers, tmp_path):
    path = tmp_path / "x.pdf"
    uri = f"{signers.token.uri};object=only%20p256"
    signing.sign(one_page(), uri, output=path, module=signers.token.module, pin=signers.token.pin)
    before = path.read_bytes()
    with pytest.raises(LevelNotReached):
        signing.extend(path, tsa="http://127.0.0.1:9/", means=signers.means._replace(tsa=None))
    assert path.read_bytes() == before
    assert signing.extend(path, means=signers.means) == path
    assert path.read_bytes().startswith(before)
    assert b"/DocTimeStamp" in path.read_bytes()


def test_what_has_no_level(tmp_path):
    with pytest.raises(TokenAuthError, match="no signed file"):
        signing.extend(b"junk")


# With the key elsewhere.

ELSEWHERE = [
    ("pades", one_page(), {}),
    ("pades", one_page(password="secret"), {"password": "secret"}),
    ("pades", one_page(), {"visible": Visible(1, 50, 50, 200, 60), "reason": "yes"}),
    ("cades", b"x", {}),
    ("cades", b"x", {"attached": True}),
    ("xades", b"<a>b</a>", {}),
    ("xades", b"<a>b</a>", {"packaging": "enveloping"}),
    ("asice", b"x", {}),
    ("asics", b"x", {}),
    ("jws", b"{}", {"headers": (("typ", "JOSE"),)}),
]


@pytest.mark.parametrize("level", ["b-b", "b-lta"])
@pytest.mark.parametrize(("format", "content", "options"), ELSEWHERE)
@pytest.mark.parametrize("kind", ["p256", "rsa2048"])
def test_a_key_elsewhere_signs(signers, format, content, options, level, kind):
    if format == "jws":
        level = "b-b"
    key = signers.keys[kind]
    prepared = signing.prepare(
        content, key.certificate, chain=key.chain, format=format, level=level, means=signers.means, **options
    )
    kept = signing.Prepared(*prepared)
    made = signing.complete(kept, key.sign_digest(prepared.digest))
    trust = load_trust([signers.root_pem])
    beside = [Document("document", data=content)]
    report = signing.verify(made, trust=trust, beside=beside, name="x", password=options.get("password"))
    [one] = report.signatures
    assert (one.format, one.level) == (format, level), report
    assert one.status != "invalid"
    if level == "b-lta":
        assert one.status == "valid", one.reason


def test_r_and_s_do_as_well(signers):
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    key = signers.keys["p384"]
    prepared = signing.prepare(b"x", key.certificate, chain=key.chain, format="cades")
    numbers = decode_dss_signature(key.sign_digest(prepared.digest))
    raw = b"".join(number.to_bytes(48, "big") for number in numbers)
    assert signing.complete(prepared, raw)


@pytest.mark.parametrize("format", ["pades", "cades", "asice", "jws"])
def test_another_signature_completes_nothing(signers, format, tmp_path):
    key, other = signers.keys["p256"], signers.keys["p384"]
    prepared = signing.prepare(one_page(), key.certificate, chain=key.chain, format=format)
    for signature in (key.sign(b"something else"), other.sign(prepared.to_sign), b"", b"junk" * 16):
        with pytest.raises(TokenAuthError, match="not of the prepared message"):
            signing.complete(prepared, signature, output=tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("state", [b"", b"junk", b"{}", b"[]", b'{"format": "pades"}'])
def test_a_damaged_state_completes_nothing(signers, state):
    key = signers.keys["p256"]
    prepared = signing.prepare(b"x", key.certificate, format="cades")._replace(state=state)
    with pytest.raises(TokenAuthError, match="damaged"):
        signing.complete(prepared, key.sign(prepared.to_sign))


@pytest.mark.parametrize("format", ["pades", "cades"])
def test_the_state_of_another_signature_completes_nothing(signers, format):
    key = signers.keys["p256"]
    one, other = (
        signing.prepare(one_page(filler=size), key.certificate, chain=key.chain, format=format) for size in (1, 2)
    )
    with pytest.raises(TokenAuthError, match="another one's"):
        signing.complete(one._replace(state=other.state), key.sign(one.to_sign))


def test_what_is_kept_is_not_shown(signers):
    key = signers.keys["p256"]
    content = one_page(password="secret")
    prepared = signing.prepare(content, key.certificate, format="pades", password="secret")
    assert "secret" not in repr(prepared)


def test_a_missing_extra_says_what_to_install(monkeypatch):
    formats._missing_packages.cache_clear()
    monkeypatch.setitem(sys.modules, "lxml", None)
    try:
        with pytest.raises(TokenAuthError, match=r"need lxml, .* not installed; pip install 'tokenauth\[sign\]'"):
            signing.sign(b"x", format="cades")
    finally:
        formats._missing_packages.cache_clear()
