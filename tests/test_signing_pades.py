"""PAdES: every kind of key at every level, judged by poppler's pdfsig; and the PDFs that are not so simple."""

from __future__ import annotations

import asyncio
import contextlib
import io
import subprocess
from typing import TYPE_CHECKING, Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pyhanko.pdf_utils.reader import PdfFileReader
from pyhanko.sign.fields import SigSeedValFlags, SigSeedValueSpec
from pyhanko.sign.validation import DocumentSecurityStore

from tests.support.pdfs import hybrid, one_page, pdfsig, trusting, with_fields
from tests.support.programs import require
from tokenauth.errors import LevelNotReached, TokenAuthError
from tokenauth.signing import levels, load_trust, pades, timestamps, verify
from tokenauth.signing.model import LEVELS, Document, Job, Means, Options, Visible
from tokenauth.signing.schemes import key_for

if TYPE_CHECKING:
    from tokenauth.signing.model import SigningKey

#: Those that pdfsig knows; Ed25519 has tests of its own.
KINDS = ("rsa2048", "p256", "p384", "p521")


@pytest.fixture(scope="session")
def database(signers, tmp_path_factory):
    return trusting(signers.root_pem, tmp_path_factory.mktemp("nss"))


@pytest.fixture
def judged(database, tmp_path):
    """What pdfsig says of a PDF."""

    def judge(content, *options):
        (tmp_path / "judged.pdf").write_bytes(content)
        return pdfsig(tmp_path / "judged.pdf", database, *options)

    return judge


def signed(keys, content, kind="p256", level="b-b", *, pss=False, **options):
    target = io.BytesIO()
    job = Job(keys.keys[kind]._replace(pss=pss), level, keys.means, Options(**options))
    pades.sign([Document("x.pdf", data=content)], job, target)
    return target.getvalue()


def extended(keys, content, level, **options):
    target = io.BytesIO()
    pades.extend(
        Document("x.pdf", data=content), Job(cast("SigningKey", None), level, keys.means, Options(**options)), target
    )
    return target.getvalue()


def contents_of(content):
    """The kinds of the signatures in a PDF, and how much is in its security store."""
    reader = PdfFileReader(io.BytesIO(content))
    kinds = [str(one.sig_object_type) for one in reader.embedded_signatures]
    if "/DSS" not in reader.root:
        return kinds, None
    store = DocumentSecurityStore.read_dss(reader)
    return kinds, (len(store.certs), len(store.ocsps), len(store.crls))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("kind", "pss"), [*((kind, False) for kind in KINDS), ("rsa2048", True)])
def test_pdfsig_finds_it_valid_and_trusted(signers, judged, kind, pss, level):
    made = signed(signers, one_page(), kind, level, pss=pss)
    assert made.startswith(one_page()[:200])
    first, *stamps = judged(made)
    assert first.is_good
    assert first.kind == "ETSI.CAdES.detached"
    assert len(stamps) == (level == "b-lta")
    assert first.is_total == (level != "b-lta")
    kinds, store = contents_of(made)
    assert kinds == ["/Sig", "/DocTimeStamp"][: 2 if level == "b-lta" else 1]
    # Signer, issuer, root and the time-stamping authority; two answers each for the signer's chain and the authority's.
    assert store == (None if level in {"b-b", "b-t"} else (4, 4, 0))


def test_an_ed25519_signature_verifies(signers):
    made = signed(signers, one_page(), "ed25519")
    [one] = PdfFileReader(io.BytesIO(made)).embedded_signatures
    info = one.signer_info
    key = signers.keys["ed25519"].certificate.public_key()
    key.verify(info["signature"].native, info["signed_attrs"].untag().dump())
    assert info["digest_algorithm"]["algorithm"].native == "sha512"
    assert one.compute_digest() in info["signed_attrs"].dump()


def test_a_changed_byte_is_seen(signers, judged):
    made = bytearray(signed(signers, one_page()))
    made[made.index(b"0 0 1 rg")] = ord("1")
    [one] = judged(bytes(made))
    assert one.validation == "Digest Mismatch."


def test_a_time_stamp_is_of_the_signature(signers, tmp_path):
    made = signed(signers, one_page(), "p384", "b-t")
    [one] = PdfFileReader(io.BytesIO(made)).embedded_signatures
    [token] = one.signer_info["unsigned_attrs"][0]["values"]
    (tmp_path / "token").write_bytes(token.dump())
    (tmp_path / "data").write_bytes(one.signer_info["signature"].native)
    chain = signers.services.directory / "tsa.chain"
    subprocess.run(
        [
            *(require("openssl"), "ts", "-verify", "-token_in", "-in", tmp_path / "token", "-data", tmp_path / "data"),
            *("-CAfile", signers.root_pem, "-untrusted", chain),
        ],
        check=True,
        capture_output=True,
    )


def test_a_second_signature_leaves_the_first_one_good(signers, judged):
    once = signed(signers, one_page(), "p256")
    twice = signed(signers, once, "rsa2048", "b-t")
    assert twice.startswith(once)
    first, second = judged(twice)
    assert first.is_good
    # Of the certificate of a second signature, poppler 22.12 says in every case: unknown issue.
    assert second.validation == "Signature is Valid."
    assert second.is_total
    assert {first.field, second.field} == {"Signature1", "Signature2"}


@pytest.mark.parametrize(("before", "after"), [("b-b", "b-t"), ("b-b", "b-lta"), ("b-t", "b-lt"), ("b-lt", "b-lta")])
def test_the_level_is_raised_without_a_key(signers, judged, before, after):
    made = signed(signers, one_page(), "p256", before)
    raised = extended(signers, made, after)
    assert raised.startswith(made)
    assert judged(raised)[0].is_good
    kinds, store = contents_of(raised)
    stamps = (before == "b-b") + (after == "b-lta")
    assert kinds == ["/Sig", *["/DocTimeStamp"] * stamps]
    assert (store is not None) == (after in {"b-lt", "b-lta"})


def test_the_signature_covers_its_evidence(signers, monkeypatch):
    """Else it could be changed, where nobody looks. A batch asks the authority once for who it is."""
    asked: list[bytes] = []

    def timestamp(digest: bytes, *how: Any) -> bytes:
        asked.append(digest)
        return timestamps.timestamp(digest, *how)

    monkeypatch.setattr(levels, "timestamp", timestamp)
    levels._kept.clear()
    trust = load_trust([signers.root_pem])
    for number in (1, 2):
        made = signed(signers, one_page(), level="b-lt")
        report = verify(made, trust=trust)
        assert (report.status, report.signatures[0].level) == ("valid", "b-lt")
        assert report.signatures[0].covers == ("the whole file",)
        assert len(asked) == 1 + number


def test_evidence_for_another_authority_than_foreseen_is_added(signers, monkeypatch):
    """A time-stamping authority may sign with several keys in turn."""
    monkeypatch.setattr(levels, "evidence_for_authority", lambda *_: levels.Evidence())
    made = signed(signers, one_page(), level="b-lt")
    report = verify(made, trust=load_trust([signers.root_pem]))
    assert (report.status, report.signatures[0].level) == ("valid", "b-lt")
    assert report.signatures[0].covers[0].startswith("revision 2 of 3")


def test_raising_again_renews_the_archive_time_stamp(signers):
    once = signed(signers, one_page(), level="b-lta")
    kinds, _ = contents_of(extended(signers, once, "b-lta"))
    assert kinds == ["/Sig", "/DocTimeStamp", "/DocTimeStamp"]


def test_a_pdf_without_a_signature_has_no_level(signers):
    with pytest.raises(TokenAuthError, match="holds no signature"):
        extended(signers, one_page(), "b-lt")


def picture_of(content, tmp_path):
    """The first page as poppler draws it, RGB."""
    (tmp_path / "drawn.pdf").write_bytes(content)
    command = [require("pdftoppm"), "-r", "36", tmp_path / "drawn.pdf"]
    return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout


def test_a_visible_signature_shows_where_it_should(signers, judged, tmp_path):
    place = Visible(1, 72, 100, 200, 60, text="{signer} agrees, 100% sure\n{reason}\n{time}")
    made = signed(signers, one_page(), visible=place, reason="It is so")
    assert judged(made)[0].is_good
    header, plain = picture_of(one_page(), tmp_path).split(b"255\n", 1)
    _, marked = picture_of(made, tmp_path).split(b"255\n", 1)
    width = int(header.split()[1])
    changed = {
        (number // 3 % width * 2, 842 - number // 3 // width * 2)
        for number, (a, b) in enumerate(zip(plain, marked, strict=True))
        if a != b
    }
    assert changed
    assert all(68 <= x <= 276 and 96 <= y <= 164 for x, y in changed)
    appearance = PdfFileReader(io.BytesIO(made)).root["/AcroForm"]["/Fields"][0]["/AP"]["/N"]
    assert b"(only p256 agrees\\054 100\\045 sure)" in appearance.data
    assert b"(It is so)" in appearance.data


def test_a_picture_may_be_behind_it(signers, judged, tmp_path):
    Image.new("RGB", (40, 20), "red").save(tmp_path / "stamp.png")
    made = signed(signers, one_page(), visible=Visible(-1, 72, 100, 200, 60, image=tmp_path / "stamp.png"))
    assert judged(made)[0].is_good
    assert bytes((255, 0, 0)) in picture_of(made, tmp_path)


def font_of(path, characters):
    """A font in which each character is a square."""
    pen = TTGlyphPen(None)
    for move, point in ((pen.moveTo, (0, 0)), (pen.lineTo, (0, 500)), (pen.lineTo, (500, 500)), (pen.lineTo, (500, 0))):
        move(point)
    pen.closePath()
    square = pen.glyph()
    names = {ord(char): f"u{ord(char):04X}" for char in characters}
    order = [".notdef", *names.values()]
    builder = FontBuilder(1000)
    builder.setupGlyphOrder(order)
    builder.setupCharacterMap(names)
    builder.setupGlyf(dict.fromkeys(order, square))
    builder.setupHorizontalMetrics(dict.fromkeys(order, (600, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular", "psName": "Squares-Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


def test_names_beyond_latin_1_need_a_font(signers, judged, tmp_path):
    place = Visible(1, 72, 100, 200, 60, text="\u0150r\u00fclt \u0418\u0432\u0430\u043d")
    with pytest.raises(TokenAuthError, match="need a font: \u0150\u0418\u0432\u0430\u043d"):
        signed(signers, one_page(), visible=place)
    made = signed(signers, one_page(), visible=place._replace(font=font_of(tmp_path / "font.ttf", place.text)))
    assert judged(made)[0].is_good
    (tmp_path / "made.pdf").write_bytes(made)
    text = subprocess.run(
        [require("mutool"), "draw", "-F", "txt", tmp_path / "made.pdf"], check=True, capture_output=True
    )
    assert place.text in text.stdout.decode()


def test_what_is_no_font_and_no_picture(signers, tmp_path):
    (tmp_path / "junk").write_bytes(b"junk")
    for what in ("font", "image"):
        with pytest.raises(TokenAuthError, match=r"junk can not be read"):
            signed(signers, one_page(), visible=Visible(1, 72, 100, 200, 60)._replace(**{what: tmp_path / "junk"}))


def test_a_page_that_is_not_there(signers):
    with pytest.raises(TokenAuthError, match=r"has 1 page\(s\), and no page 3"):
        signed(signers, one_page(), visible=Visible(3, 0, 0, 10, 10))


def test_a_certified_pdf_says_what_may_follow(signers, judged):
    made = signed(signers, one_page(), certify="no-changes")
    reader = PdfFileReader(io.BytesIO(made))
    permissions = reader.root["/Perms"]["/DocMDP"]["/Reference"][0]["/TransformParams"]["/P"]
    assert permissions == 1
    assert judged(made)[0].is_good
    with pytest.raises(TokenAuthError, match="forbids all changes"):
        signed(signers, made)


def test_only_the_first_signature_certifies(signers):
    once = signed(signers, one_page())
    with pytest.raises(TokenAuthError, match="must be the first"):
        signed(signers, once, certify="fill-forms")


@pytest.mark.parametrize("password", ["secret", "owner-secret"])
@pytest.mark.parametrize("level", ["b-b", "b-lta"])
def test_an_encrypted_pdf(signers, judged, caplog, password, level):
    made = signed(signers, one_page(password="secret"), level=level, password=password)
    assert judged(made, "-upw", "secret")[0].is_good
    reader = PdfFileReader(io.BytesIO(made))
    reader.decrypt("secret")  # checks the MAC (ISO/TS 32004) of the last signature, and raises
    assert reader.security_handler.pdf_mac_enabled
    assert not caplog.records


@pytest.mark.parametrize(
    ("password", "words"), [(None, "encrypted; give its password: "), ("wrong", "password is wrong")]
)
def test_an_encrypted_pdf_without_its_password(signers, calls, password, words):
    with pytest.raises(TokenAuthError, match=words) as caught:
        signed(signers, one_page(password="secret"), password=password)
    assert "wrong'" not in str(caught.value)
    assert calls.signatures == 0


def test_a_password_is_not_shown():
    assert "secret" not in repr(Options(password="secret"))
    assert "secret" not in repr(Job(cast("SigningKey", None), options=Options(password="secret")))


def test_a_hybrid_reference_pdf(signers, judged):
    assert PdfFileReader(io.BytesIO(hybrid()), strict=False).root["/Hidden"]["/Secret"] == "for new readers"
    for level in ("b-b", "b-lta"):
        made = signed(signers, hybrid(), level=level)
        assert made.startswith(hybrid())
        assert judged(made)[0].is_good


def test_the_only_empty_field_is_taken(signers, judged):
    [one] = judged(signed(signers, with_fields("Buyer")))
    assert one.field == "Buyer"
    assert one.is_good


def test_of_several_empty_fields_one_is_named(signers, judged):
    form = with_fields("Buyer", "Seller")
    with pytest.raises(TokenAuthError, match="2 empty signature fields; name one of: 'Buyer', 'Seller'"):
        signed(signers, form)
    once = signed(signers, form, field="Seller")
    assert [one.field for one in judged(once)] == ["Seller"]
    with pytest.raises(TokenAuthError, match="'Seller' is signed already"):
        signed(signers, once, field="Seller")
    assert {one.field for one in judged(signed(signers, once))} == {"Buyer", "Seller"}


def test_a_field_may_ask_for_a_reason(signers, judged):
    seed = SigSeedValueSpec(reasons=["I agree", "I have read it"], flags=SigSeedValFlags.REASONS)
    form = with_fields("Buyer", seed=seed)
    with pytest.raises(TokenAuthError, match="I agree"):
        signed(signers, form, reason="Because")
    assert judged(signed(signers, form, reason="I agree"))[0].is_good


def test_a_field_may_ask_for_a_hash(signers, judged):
    seed = SigSeedValueSpec(digest_methods=["sha384"], flags=SigSeedValFlags.DIGEST_METHOD)
    form = with_fields("Buyer", seed=seed)
    assert judged(signed(signers, form, "p384"))[0].is_good
    with pytest.raises(TokenAuthError, match="sha384"):
        signed(signers, form, "p256")


def test_a_field_may_ask_for_a_time_stamp(signers, judged):
    seed = SigSeedValueSpec(timestamp_server_url=signers.services.tsa, timestamp_required=True)
    form = with_fields("Buyer", seed=seed)
    with pytest.raises(TokenAuthError, match="asks for a time stamp"):
        signed(signers, form)
    assert judged(signed(signers, form, level="b-t"))[0].is_good


@pytest.mark.parametrize("content", [b"", b"not a PDF at all", b"%PDF-1.7\n" + b"junk " * 100, one_page()[:-200]])
def test_what_is_no_pdf(signers, calls, content):
    with pytest.raises(TokenAuthError, match=r"x\.pdf can not be signed"):
        signed(signers, content)
    assert calls.signatures == 0


BASES = (one_page(), hybrid(), with_fields("A", "B"), one_page(password="secret"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(st.data())
def test_a_damaged_pdf_is_signed_or_refused(signers, data):
    content = bytearray(data.draw(st.sampled_from(BASES)))
    for _ in range(data.draw(st.integers(1, 5))):
        start = data.draw(st.integers(0, len(content) - 1))
        content[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    with contextlib.suppress(TokenAuthError):
        signed(signers, bytes(content), password="secret")
    with contextlib.suppress(TokenAuthError):
        extended(signers, bytes(content), "b-b", password="secret")


def test_a_signer_without_a_common_name(signers, judged):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COUNTRY_NAME, "XX"), x509.NameAttribute(NameOID.SERIAL_NUMBER, "1")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    certificate = signers.services.authorities["issuer"].issue(request, purposes=("document",))
    job = Job(key_for(certificate, (), key), options=Options(visible=Visible(1, 50, 50, 200, 60)))
    target = io.BytesIO()
    pades.sign([Document("x.pdf", data=one_page())], job, target)
    assert judged(target.getvalue())[0].validation == "Signature is Valid."


def test_no_answer_means_no_signature(signers, calls, monkeypatch):
    monkeypatch.setattr(signers.services, "is_down", True)
    with pytest.raises(LevelNotReached, match="answers with HTTP status 503"):
        signed(signers, one_page(), level="b-t")


def test_a_lower_level_if_it_is_allowed(signers, judged, monkeypatch, caplog):
    with monkeypatch.context() as patched:
        patched.setattr(signers.services, "is_down", True)
        made = signed(signers, one_page(), level="b-lta", allow_lower_level=True)
    assert judged(made)[0].is_good
    assert "stays below level B-T" in caplog.text


def test_an_authority_that_does_not_listen(signers):
    means = Means(tsa="http://127.0.0.1:9/tsa")
    job = Job(signers.keys["p256"], "b-t", means)
    with pytest.raises(LevelNotReached, match=r"127\.0\.0\.1:9/tsa does not answer"):
        pades.sign([Document("x.pdf", data=one_page())], job, io.BytesIO())


def test_it_signs_while_an_event_loop_runs(signers, judged):
    async def handler():
        return signed(signers, one_page())

    assert judged(asyncio.run(handler()))[0].is_good


def test_two_documents_are_not_one_pdf(signers):
    files = [Document("a.pdf", data=one_page()), Document("b.pdf", data=one_page())]
    with pytest.raises(TokenAuthError, match="2 documents were given"):
        pades.sign(files, Job(signers.keys["p256"]), io.BytesIO())
