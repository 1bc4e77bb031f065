"""One byte of a signed file is changed: it is never valid, unless what it means is the same, and the report says so."""

from __future__ import annotations

import io
import re
import zipfile

import pytest
from lxml import etree

from tests.support.signed_files import FORMATS, made, pki, verified, with_changes
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


@pytest.mark.parametrize("kind", ["rsa2048", "p256"])
@pytest.mark.parametrize("name", FORMATS)
def test_one_byte_of_the_signed_file(name, kind):
    data = made(name, pki().keys[kind])
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
@pytest.mark.parametrize("name", ["pades", "cades", "cades attached", "xades enveloped", "asice"])
def test_one_byte_of_a_signature_of_a_higher_level(name, level, document_keys):
    data = made(name, document_keys.keys["p256"], level, document_keys.means)
    online = load_trust([document_keys.root_pem])
    good = verified(name, data, online)
    if level == "b-t":  # revocations are not known yet
        assert (good.status, good.signatures[0].reason.count("revoked is not known")) == ("indeterminate", 2)
        return
    assert (good.status, good.signatures[0].level) == ("valid", level), good
    if name == "pades" and level == "b-lt":
        covered = covered_bytes(good)
        assert "validation data were added" in good.signatures[0].covers[1]
        for place, changed in with_changes(data, PLACES):
            report = verdict(name, changed, online)
            if report is not None and report.status == "valid":
                assert place >= covered
                assert covered_bytes(report) <= place, "the report says that the place is not covered"
        return
    refused_everywhere(name, data, online, SAME.get(FORMATS[name].module, lambda *_: False))


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
