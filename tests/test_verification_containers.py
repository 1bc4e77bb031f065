"""ASiC containers that somebody put something into, or that readers see differently."""

from __future__ import annotations

import hashlib
import io
import re
import struct
import warnings
import zipfile
from pathlib import Path

import pytest

from tests.support.programs import openssl
from tests.support.signed_files import FORMATS, key_pem, made, pki, verified
from tokenauth.signing.verification import verify

ASIC_E = "application/vnd.etsi.asic-e+zip"
ASIC_S = "application/vnd.etsi.asic-s+zip"


def files_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as container:
        return {one.filename: container.read(one) for one in container.infolist()}


def packed(files, *, stored=("mimetype",)) -> bytes:
    """A ZIP file of names and contents, which may name a file twice."""
    written = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(written, "w") as container:
        warnings.simplefilter("ignore")  # about duplicate names, which are meant
        for name, content in files:
            method = zipfile.ZIP_STORED if name in stored else zipfile.ZIP_DEFLATED
            container.writestr(zipfile.ZipInfo(name), content, method)
    return written.getvalue()


@pytest.fixture(scope="module")
def good() -> dict[str, bytes]:
    return files_of(made("asice", pki().keys["p256"]))


def report_on(files):
    return verify(packed(files), trust=pki().trust)


def test_packed_again_it_is_valid(good):
    assert report_on(good.items()).status == "valid"


@pytest.mark.parametrize(
    ("made", "internal", "external"),
    [
        (0x0000, 1, 0),
        (0x031E, 1, 0o100644 << 16),
        (0x003F, 0, 0x20),
        (0x0014, 1, 0),
    ],  # minizip, Info-ZIP, 7-Zip, others
)
def test_what_other_programs_write_in_the_directory(good, made, internal, external):
    data = bytearray(packed(good.items()))
    for at in (one.start() for one in re.finditer(rb"PK\x01\x02", bytes(data))):
        struct.pack_into("<H", data, at + 4, made)
        struct.pack_into("<HI", data, at + 36, internal, external)
    assert verify(bytes(data), trust=pki().trust).status == "valid"


def test_a_time_stamp_of_the_files_is_called_so(good):
    report = report_on([*good.items(), ("META-INF/timestamp.tst", b"0")])
    assert report.status == "indeterminate"
    assert "time stamp of its files" in report.reason


def test_a_file_more(good):
    manifest = "META-INF/manifest.xml"
    without_list = [(name, content) for name, content in good.items() if name != manifest]
    report = report_on([*without_list, ("more.txt", b"not signed")])
    assert report.status == "indeterminate"
    assert "not covered: more.txt" in report.signatures[0].reason
    assert report.signatures[0].covers == ("order.txt",)
    assert "lists other files" in report_on([*good.items(), ("more.txt", b"not signed")]).reason


def test_a_file_less(good):
    report = report_on([(name, content) for name, content in good.items() if name != "order.txt"])
    assert report.status == "invalid"


@pytest.mark.parametrize("name", ["META-INF/other.txt", "META-INF/sub/x"])
def test_something_else_in_meta_inf(good, name):
    report = report_on([*good.items(), (name, b"x")])
    assert report.status != "valid"
    assert "belongs to no signature" in report.reason


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "a/../../evil",
        "/etc/evil",
        "C:evil",
        "a\\..\\evil",
        "a//b",
        "./x",
        "order.txt",
        "ORDER.TXT",
        "order.txt/x",
        "meta-inf/signatures1.xml",
        "",
    ],
)
def test_hostile_names(good, name):
    report = report_on([*good.items(), (name, b"x")])
    assert report.status == "invalid"
    assert report.reason


def test_the_mimetype_comes_first_and_is_stored(good):
    items = list(good.items())
    others = [packed([*items[1:], items[0]]), packed(items, stored=()), packed([("mimetype", b"a/b"), *items[1:]])]
    for other in others:
        report = verify(other, trust=pki().trust)
        assert (report.status, report.signatures) == ("indeterminate", ())
        assert "no PDF, CMS, XML, ASiC" in report.reason
    longer = ("mimetype", ASIC_E.encode() + b".x")
    assert report_on([longer, *items[1:]]).status == "invalid"


def test_a_zip_bomb(good):
    report = report_on([*good.items(), ("zeros", bytes(200 << 20))])
    assert report.status == "invalid"
    assert "bomb" in report.reason


def test_a_bomb_that_lies_about_its_size(good):
    """The directory says 1 byte; unpacking stops there."""
    data = bytearray(packed([*good.items(), ("zeros", bytes(50 << 20))]))
    size = struct.pack("<I", 50 << 20)
    while (at := bytes(data).find(size)) >= 0:
        data[at : at + 4] = struct.pack("<I", 1)
    report = verify(bytes(data), trust=pki().trust)
    assert report.status == "invalid"
    assert "another content than its checksum" in report.reason or "damaged" in report.reason


def test_bytes_between_the_files(good):
    data = packed(good.items())
    for more in (b"PK\x03\x04", b"x" * 30):
        assert verify(data + more, trust=pki().trust).status == "invalid"
    start = data.find(b"PK\x01\x02")
    assert verify(data[:start] + b"hidden" + data[start:], trust=pki().trust).status == "invalid"


def test_a_local_header_that_differs(good):
    data = packed(good.items())
    at = data.find(b"order.txt")
    changed = data[:at] + b"other.txt" + data[at + 9 :]
    assert verify(changed, trust=pki().trust).status == "invalid"


def test_a_document_type_in_a_signature_or_manifest(good):
    for name in ("META-INF/signatures0.xml", "META-INF/manifest.xml"):
        files = {**good, name: good[name].replace(b"?>", b"?><!DOCTYPE x>", 1)}
        assert files != good
        report = report_on(files.items())
        assert report.status == "invalid"
        assert "DOCTYPE" in (report.reason or report.signatures[0].reason)


def test_a_reference_to_a_signature_file_is_refused(good):
    name = "META-INF/signatures0.xml"
    files = {**good, name: good[name].replace(b'URI="order.txt"', b'URI="META-INF/manifest.xml"')}
    report = report_on(files.items())
    assert report.status == "invalid"
    assert "no data file" in report.signatures[0].reason


# --- with CAdES inside, made with openssl ---


def cades_of(data: bytes, directory) -> bytes:
    key, certificate, chain = key_pem(pki().keys["p256"], directory)
    (directory / "data").write_bytes(data)
    signer: list[str | Path] = ["-signer", certificate, "-inkey", key, "-certfile", chain, "-binary", "-outform", "DER"]
    return openssl("cms", "-sign", "-cades", *signer, "-in", directory / "data")


MANIFEST = """<?xml version="1.0" encoding="UTF-8"?>
<asic:ASiCManifest xmlns:asic="http://uri.etsi.org/02918/v1.2.1#" xmlns:ds="http://www.w3.org/2000/09/xmldsig#">
<asic:SigReference URI="META-INF/signature.p7s" MimeType="application/x-pkcs7-signature"/>{references}
</asic:ASiCManifest>
"""
REFERENCE = (
    '<asic:DataObjectReference URI="{name}"><ds:DigestMethod Algorithm="http://www.w3.org/2001/04/xmlenc#sha256"/>'
    "<ds:DigestValue>{digest}</ds:DigestValue></asic:DataObjectReference>"
)


def asic_e_with_cades(directory, files, listed=None) -> list[tuple[str, bytes]]:
    import base64

    references = "".join(
        REFERENCE.format(name=name, digest=base64.b64encode(hashlib.sha256(content).digest()).decode())
        for name, content in (listed or files).items()
    )
    manifest = MANIFEST.format(references=references).encode()
    meta = [("META-INF/ASiCManifest.xml", manifest), ("META-INF/signature.p7s", cades_of(manifest, directory))]
    return [("mimetype", ASIC_E.encode()), *files.items(), *meta]


def test_asic_s_with_cades(tmp_path):
    data = b"ten apples"
    files = [("mimetype", ASIC_S.encode()), ("a.txt", data), ("META-INF/signature.p7s", cades_of(data, tmp_path))]
    report = report_on(files)
    assert report.status == "valid", report
    assert (report.signatures[0].format, report.signatures[0].covers) == ("asics", ("a.txt",))
    files[1] = ("a.txt", b"two apples")
    assert report_on(files).status == "invalid"
    assert "one file" in report_on([*files, ("b.txt", b"")]).reason


def test_asic_e_with_cades(tmp_path):
    files = {"a.txt": b"ten apples", "b c.txt": b"a pear"}
    written = {"a.txt": files["a.txt"], "b%20c.txt": files["b c.txt"]}
    container = asic_e_with_cades(tmp_path, files, written)
    report = report_on(container)
    assert report.status == "valid", report
    assert report.signatures[0].covers == ("a.txt", "b c.txt")
    changed = [(name, b"two apples" if name == "a.txt" else content) for name, content in container]
    report = report_on(changed)
    assert report.status == "invalid"
    assert "a.txt was changed" in report.signatures[0].reason
    report = report_on([*container, ("more", b"x")])
    assert (report.status, report.signatures[0].covers) == ("indeterminate", ("a.txt", "b c.txt"))


def test_asic_e_with_cades_and_a_manifest_that_was_changed(tmp_path):
    container = asic_e_with_cades(tmp_path, {"a.txt": b"ten"})
    other = asic_e_with_cades(tmp_path, {"a.txt": b"two"})
    mixed = [(name, dict(other)[name] if name != "META-INF/signature.p7s" else content) for name, content in container]
    assert report_on(mixed).status == "invalid"
    without = [item for item in container if "Manifest" not in item[0]]
    assert "named by 0 manifests" in report_on(without).signatures[0].reason


def test_no_signature_in_it():
    report = report_on([("mimetype", ASIC_E.encode()), ("a.txt", b"x")])
    assert report.status == "indeterminate"
    assert "no signature" in report.reason
    assert FORMATS["asice"].format == "asice"
    assert verified("asice", made("asice", pki().keys["p256"])).status == "valid"
