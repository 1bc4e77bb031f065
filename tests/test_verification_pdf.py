"""What is done to a PDF after it was signed: what is permitted is told, the rest makes the signature invalid."""

from __future__ import annotations

import io
import re

import pytest
from pyhanko.pdf_utils.generic import NameObject, StreamObject, TextStringObject, pdf_name
from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter
from pyhanko.pdf_utils.reader import PdfFileReader
from pyhanko.pdf_utils.writer import copy_into_new_writer
from pyhanko.sign import PdfSignatureMetadata, fields, signers

from tests.support.signed_files import key_pem, made, pdf, pki
from tests.test_verification_formats import only
from tokenauth.signing.verification import verify


@pytest.fixture(scope="module")
def signer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pdf")
    key, certificate, chain = key_pem(pki().keys["p256"], directory)
    return signers.SimpleSigner.load(key, certificate, [chain])


def with_form(text: str = "") -> bytes:
    """A PDF with a text field."""
    from pyhanko.pdf_utils.generic import ArrayObject, DictionaryObject, NumberObject

    writer = IncrementalPdfFileWriter(io.BytesIO(pdf()))
    field = DictionaryObject(
        {
            pdf_name("/FT"): pdf_name("/Tx"),
            pdf_name("/T"): TextStringObject("amount"),
            pdf_name("/V"): TextStringObject(text),
            pdf_name("/Type"): pdf_name("/Annot"),
            pdf_name("/Subtype"): pdf_name("/Widget"),
            pdf_name("/F"): NumberObject(4),
            pdf_name("/Rect"): ArrayObject([NumberObject(number) for number in (10, 10, 100, 30)]),
        }
    )
    reference = writer.add_object(field)
    page = writer.root["/Pages"]["/Kids"][0]
    page[pdf_name("/Annots")] = ArrayObject([reference])
    writer.update_container(page)
    form = DictionaryObject({pdf_name("/Fields"): ArrayObject([reference])})
    writer.root[pdf_name("/AcroForm")] = form
    writer.update_root()
    written = io.BytesIO()
    writer.write(written)
    return written.getvalue()


def signed(data: bytes, signer, name: str = "Sig", **how) -> bytes:
    meta = PdfSignatureMetadata(field_name=name, subfilter=fields.SigSeedSubFilter.PADES, **how)
    made: bytes = signers.sign_pdf(IncrementalPdfFileWriter(io.BytesIO(data)), meta, signer=signer).getvalue()
    return made


def updated(data: bytes, change) -> bytes:
    writer = IncrementalPdfFileWriter(io.BytesIO(data))
    change(writer)
    written = io.BytesIO()
    writer.write(written)
    return written.getvalue()


def fill(writer):
    field = next(one.get_object() for one in writer.root["/AcroForm"]["/Fields"] if one.get_object()["/T"] == "amount")
    field[pdf_name("/V")] = TextStringObject("1000")
    writer.update_container(field)


def new_page_content(writer):
    page = writer.root["/Pages"]["/Kids"][0]
    page[pdf_name("/Contents")] = writer.add_object(StreamObject(stream_data=b"BT (two apples) Tj ET"))
    writer.update_container(page)


def new_page(writer):
    from pyhanko.pdf_utils.writer import PageObject

    content = writer.add_object(StreamObject(stream_data=b"q Q"))
    writer.insert_page(PageObject(contents=content, media_box=(0, 0, 10, 10)))


def redefined_font(writer):
    page = writer.root["/Pages"]["/Kids"][0]
    page["/Resources"]["/Font"]["/F1"][pdf_name("/BaseFont")] = NameObject("/Symbol")
    writer.update_container(page["/Resources"]["/Font"]["/F1"])


def script(writer):
    from pyhanko.pdf_utils.generic import DictionaryObject

    action = DictionaryObject({pdf_name("/S"): pdf_name("/JavaScript"), pdf_name("/JS"): TextStringObject("x()")})
    writer.root[pdf_name("/OpenAction")] = writer.add_object(action)
    writer.update_root()


def report_on(data: bytes):
    return verify(data, trust=pki().trust)


def test_a_field_filled_in_is_permitted_and_told(signer):
    data = signed(with_form(), signer)
    report = only(report_on(updated(data, fill)))
    assert report.status == "valid", report.reason
    assert report.covers == (
        f"revision 3 of 4: the first {len(data)} of {len(updated(data, fill))} bytes",
        "not the later revisions, in which form fields were filled in or signed, as is permitted",
    )


@pytest.mark.parametrize("change", [new_page_content, new_page, redefined_font, script])
def test_other_changes_are_forbidden(change, signer):
    data = signed(with_form(), signer)
    assert only(report_on(data)).status == "valid"
    report = only(report_on(updated(data, change)))
    assert report.status == "invalid"
    assert "changed after it was signed" in report.reason


@pytest.mark.parametrize(
    ("permission", "status"), [(fields.MDPPerm.NO_CHANGES, "invalid"), (fields.MDPPerm.FILL_FORMS, "valid")]
)
def test_a_certified_pdf_says_what_is_permitted(permission, status, signer):
    data = signed(with_form(), signer, certify=True, docmdp_permissions=permission)
    assert only(report_on(data)).status == "valid"
    assert only(report_on(updated(data, fill))).status == status


def test_a_locked_field_stays_as_it_was(signer):
    writer = IncrementalPdfFileWriter(io.BytesIO(with_form()))
    lock = fields.FieldMDPSpec(fields.FieldMDPAction.INCLUDE, fields=["amount"])
    fields.append_signature_field(writer, fields.SigFieldSpec("Sig", field_mdp_spec=lock))
    written = io.BytesIO()
    writer.write(written)
    data = signed(written.getvalue(), signer)
    assert only(report_on(data)).status == "valid"
    assert only(report_on(updated(data, fill))).status == "invalid"


def test_two_signatures(signer):
    data = signed(signed(with_form(), signer, "First"), signer, "Second")
    report = report_on(data)
    assert [one.status for one in report.signatures] == ["valid", "valid"]
    assert report.signatures[0].covers[0].startswith("revision 3 of 4")
    assert report.signatures[1].covers == ("the whole file",)
    filled = report_on(updated(data, fill))
    assert filled.status == "valid"
    changed = report_on(updated(data, new_page_content))
    assert [one.status for one in changed.signatures] == ["invalid", "invalid"]


def test_a_hidden_layer_shown_later(signer):
    """A shadow attack: what was signed holds two contents, and an update switches from one to the other."""
    writer = IncrementalPdfFileWriter(io.BytesIO(with_form()))
    hidden = writer.add_object(StreamObject(stream_data=b"BT /F1 24 Tf 20 50 Td (two pears) Tj ET"))
    writer.root[pdf_name("/Hidden")] = hidden
    writer.update_root()
    written = io.BytesIO()
    writer.write(written)
    data = signed(written.getvalue(), signer)

    def show(writer):
        page = writer.root["/Pages"]["/Kids"][0]
        page[pdf_name("/Contents")] = hidden_reference(writer)
        writer.update_container(page)

    def hidden_reference(writer):
        return writer.root.raw_get("/Hidden")

    assert only(report_on(data)).status == "valid"
    assert only(report_on(updated(data, show))).status == "invalid"


@pytest.mark.parametrize("kind", ["shorter", "later", "hole", "negative", "huge", "three"])
def test_byte_ranges(kind, signer):
    """The range is changed in the file, so it can not verify; and it must not confuse the reader."""
    data = signed(pdf(), signer)
    found = re.search(rb"/ByteRange \[(\d+) (\d+) (\d+) (\d+)( *)\]", data)
    assert found is not None
    numbers = [int(found[index]) for index in range(1, 5)]
    other = {
        "shorter": [*numbers[:3], numbers[3] - 10],
        "later": [5, numbers[1] - 5, *numbers[2:]],
        "hole": [0, numbers[1] - 20, *numbers[2:]],
        "negative": [0, numbers[1], -5, numbers[3]],
        "huge": [0, 10**5, 10**5, 10**5],
        "three": numbers[:3],
    }[kind]
    text = b"/ByteRange [" + b" ".join(b"%d" % number for number in other)
    changed = data[: found.start()] + text.ljust(len(found[0]) - 1) + b"]" + data[found.end() :]
    assert report_on(changed).status == "invalid"


def test_something_else_beside_the_signature_in_its_gap(signer):
    """The gap that the signature leaves is made larger before signing, so that it holds more than the signature."""
    data = made("pades", pki().keys["p256"])
    found = re.search(rb"/Contents ?<([0-9a-fA-F]+)>", data)
    assert found is not None
    padding = found.end() - 3
    assert data[padding - 50 : padding].strip(b"0") == b""
    for place, other in ((padding, b"a"), (padding - 50, b" "), (padding - 50, b">")):
        changed = data[:place] + other + data[place + 1 :]
        assert report_on(changed).status != "valid"


@pytest.mark.parametrize("subfilter", ["/adbe.x509.rsa_sha1", "/adbe.pkcs7.sha1", "/unknown"])
def test_old_kinds_of_signatures_are_not_valid(subfilter, signer):
    data = signed(pdf(), signer)
    changed = data.replace(b"/ETSI.CAdES.detached", subfilter.encode().ljust(20))
    assert report_on(changed).status != "valid"


def test_an_encrypted_pdf(signer):
    writer = copy_into_new_writer(PdfFileReader(io.BytesIO(pdf())))
    writer.encrypt("owner", "user")
    written = io.BytesIO()
    writer.write(written)
    update = IncrementalPdfFileWriter(io.BytesIO(written.getvalue()))
    update.encrypt("user")
    data = signers.sign_pdf(
        update, PdfSignatureMetadata(field_name="Sig", subfilter=fields.SigSeedSubFilter.PADES), signer=signer
    ).getvalue()
    report = report_on(data)
    assert report.status == "indeterminate"
    assert "password" in report.reason
    assert only(verify(data, trust=pki().trust, password="user")).status == "valid"
    wrong = verify(data, trust=pki().trust, password="secret-word")
    assert wrong.status == "indeterminate"
    assert "secret-word" not in repr(wrong)


def test_an_empty_field_is_no_signature():
    writer = IncrementalPdfFileWriter(io.BytesIO(pdf()))
    fields.append_signature_field(writer, fields.SigFieldSpec("Empty"))
    written = io.BytesIO()
    writer.write(written)
    report = report_on(written.getvalue())
    assert (report.status, report.signatures) == ("indeterminate", ())
