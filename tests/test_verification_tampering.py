"""One byte of a signed file is changed: it is never valid, unless what it means is the same, and the report says so."""

from __future__ import annotations

import io
import re
import zipfile

import pytest
from lxml import etree

from tests.support.signed_files import FORMATS, made, pki, verified, with_changes
from tokenauth.signing import pades
from tokenauth.signing.model import Document, Job
from tokenauth.signing.refusals import DocumentError
from tokenauth.signing.verification import load_trust

PLACES = 200


def verdict(name, data, trust=None):
    """The report, or None for what is not even recognised as a signed file."""
    try:
        return verified(name, data, trust)
    except DocumentError:
        return None


def same_xml(before: bytes, after: bytes) -> bool:
    """Whether two documents differ in nothing but how they are written."""

    def form(data: bytes) -> bytes:
        written: bytes = etree.tostring(etree.fromstring(data).getroottree(), method="c14n")
        return written

    return form(before) == form(after)


def same_container(before: bytes, after: bytes) -> bool:
    """Whether two ZIP files hold the same files with the same contents, dates and checksums."""

    def files(data: bytes) -> list[object]:
        with zipfile.ZipFile(io.BytesIO(data)) as container:
            return [(one.filename, one.date_time, one.CRC, container.read(one)) for one in container.infolist()]

    return files(before) == files(after)


SAME = {"xades": same_xml, "asic": same_container}


def refused_everywhere(name: str, data: bytes, trust=None, same=lambda before, after: False) -> int:
    """See that no change makes a file that is valid and another one; the number of changes that are not even read."""
    unread = 0
    for place, changed in with_changes(data, PLACES):
        report = verdict(name, changed, trust)
        if report is None:
            unread += 1
        elif report.status == "valid":
            assert same(data, changed), (place, data[max(0, place - 30) : place + 30], report)
    return unread


@pytest.mark.parametrize("kind", ["rsa2048", "rsa2048 pss", "p256", "p384", "p521", "ed25519"])
@pytest.mark.parametrize("name", FORMATS)
def test_one_byte_of_the_signed_file(name, kind):
    kind, _, pss = kind.partition(" ")
    if kind == "ed25519" and name.startswith(("xades", "asic")):
        return  # there are none
    data = made(name, pki().keys[kind]._replace(pss=bool(pss)))
    assert verified(name, data).status == "valid"
    unread = refused_everywhere(name, data, same=SAME.get(FORMATS[name].module, lambda *_: False))
    assert unread < PLACES / 20, "most changes should reach the verifier"


@pytest.mark.parametrize("name", ["cades", "xades detached", "jws detached"])
def test_one_byte_of_the_file_beside_it(name):
    from tokenauth.signing.verification import verify

    data, document = made(name, pki().keys["p256"]), FORMATS[name].document
    for _, changed in with_changes(document.read(), PLACES):
        report = verify(data, trust=pki().trust, beside=[document._replace(data=changed)])
        assert report.status == "invalid"


def covered_bytes(report) -> int:
    """How many bytes of a PDF a report says are covered."""
    (said,) = re.findall(r"the first (\d+) of \d+ bytes", report.signatures[0].covers[0])
    return int(said)


@pytest.mark.parametrize("level", ["b-t", "b-lt", "b-lta"])
@pytest.mark.parametrize("name", [name for name in FORMATS if not name.startswith("jws")])
def test_one_byte_of_a_signature_of_a_higher_level(name, level, document_keys):
    data = made(name, document_keys.keys["p256"], level, document_keys.means)
    trust = load_trust([document_keys.root_pem], online=level == "b-t")
    good = verified(name, data, trust)
    assert (good.status, good.signatures[0].level) == ("valid", level), good
    refused_everywhere(name, data, trust, SAME.get(FORMATS[name].module, lambda *_: False))


def test_one_byte_of_a_pdf_whose_level_was_raised_later(document_keys):
    """What was added then is not signed: the report says up to where the file is covered."""
    job = Job(document_keys.keys["p256"], "b-lt", document_keys.means, format="pades")
    written = io.BytesIO()
    pades.extend(Document("x.pdf", data=made("pades", job.key, "b-t", document_keys.means)), job, written)
    data, trust = written.getvalue(), load_trust([document_keys.root_pem])
    good = verified("pades", data, trust)
    assert (good.status, good.signatures[0].level) == ("valid", "b-lt"), good
    covered = covered_bytes(good)
    assert "validation data were added" in good.signatures[0].covers[1]
    for place, changed in with_changes(data, PLACES):
        report = verdict("pades", changed, trust)
        if report is not None and report.status == "valid":
            assert place >= covered
            assert covered_bytes(report) <= place, "the report says that the place is not covered"


# --- what no signature covers, and readers pass over ---


def test_a_time_stamp_without_signed_attributes(document_keys):
    """Damaged so that it looks like another kind of signature, it is still the damage that counts."""
    data = bytearray(made("cades", document_keys.keys["rsa2048"], "b-t", document_keys.means))
    attributes = data.rindex(bytes.fromhex("608648016503040201 0500 a081")) + 12
    data[attributes] = 0
    assert verified("cades", bytes(data), load_trust([document_keys.root_pem], online=True)).status == "indeterminate"


def test_another_tag_for_the_unsigned_attributes(document_keys):
    data = made("cades", document_keys.keys["rsa2048"], "b-lt", document_keys.means)
    attributes = re.search(
        rb"\xa1\x82..\x30\x82..\x06\x0b\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x02\x0e", data, re.DOTALL
    )
    assert attributes is not None
    for tag in (0xBC, 0xA2, 0x71, 0x04):
        changed = data[: attributes.start()] + bytes([tag]) + data[attributes.start() + 1 :]
        assert verified("cades", changed, load_trust([document_keys.root_pem])).status == "invalid"


def test_bits_behind_the_end_of_a_packed_file():
    data = made("asice", pki().keys["p256"])
    with zipfile.ZipFile(io.BytesIO(data)) as container:
        packed = [one for one in container.infolist() if one.compress_type == zipfile.ZIP_DEFLATED]
    assert packed
    for one in packed:
        last = one.header_offset + 30 + len(one.filename) + one.compress_size - 1
        changed = bytearray(data)
        changed[last] |= 0x80
        assert changed[last] == data[last] or verified("asice", bytes(changed)).status != "valid", one


@pytest.mark.parametrize(("field", "value"), [(4, 0x1F), (5, 0x0A), (36, 1), (38, 0x20), (40, 0xB0), (41, 0x81)])
@pytest.mark.parametrize("number", [0, 1, -1])
def test_what_a_directory_says_of_one_file_only(number, field, value):
    """Versions, systems, permissions: plausible each, but no program writes them for one of its files."""
    data = bytearray(made("asice", pki().keys["p256"]))
    entries = [one.start() for one in re.finditer(rb"PK\x01\x02", data)]
    assert data[entries[number] + field] != value
    data[entries[number] + field] = value
    assert verified("asice", bytes(data)).status != "valid"


def test_a_time_stamp_of_a_pdf_that_its_tables_do_not_lead_to(document_keys):
    data = made("pades", document_keys.keys["p256"], "b-lta", document_keys.means)
    at = data.rindex(b"/W [ ")  # of the last table of cross-references
    changed = data[:at] + data[at:].replace(b"/Index [ ", b"/Index [ 9", 1)[: len(data) - at]
    assert verified("pades", changed, load_trust([document_keys.root_pem])).status != "valid"
    hidden = data + b"\n%" + data[data.rindex(b"/ByteRange") :][:100]
    assert verified("pades", hidden, load_trust([document_keys.root_pem])).status != "valid"


@pytest.mark.parametrize("name", FORMATS)
def test_cut_short_or_longer(name):
    data = made(name, pki().keys["p256"])
    for length in range(0, len(data), max(1, len(data) // 60)):
        report = verdict(name, data[:length])
        assert report is None or report.status != "valid"
    for more in (b"\0", b"x" * 10, b"<!-- -->", data):
        report = verdict(name, data + more)
        if report is not None and report.status == "valid":
            assert (name, more) == ("pades", b"\0")
            assert "but the white space behind" in report.signatures[0].covers[0]


@pytest.mark.parametrize("name", ["cades", "xades detached", "jws"])
def test_every_byte(name):
    """The lowest bit of each: also of lengths, versions and unused bits, which lenient readers pass over."""
    data = made(name, pki().keys["p256"])
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        report = verdict(name, changed)
        assert report is None or report.status != "valid", (place, data[max(0, place - 30) : place + 30])
