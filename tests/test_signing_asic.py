"""ASiC containers: made, read and refused. ``unzip`` and xmlsec1 see what others would."""

from __future__ import annotations

import contextlib
import io
import stat
import struct
import unicodedata
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree

from tests.support.documents import DS, XML_KINDS, DocumentKeys, schema_errors, xmlsec1
from tokenauth.errors import MechanismUnsupported, TokenAuthError
from tokenauth.signing import asic, asic_reader
from tokenauth.signing.asic_names import name_in, uri_of
from tokenauth.signing.asic_reader import ASIC_E, ASIC_S, Container
from tokenauth.signing.formats import is_container
from tokenauth.signing.model import LEVELS, Document, Job, Options
from tokenauth.signing.refusals import DocumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

FILES = (
    Document("contract.txt", data=b"Between us.\n" * 500, mime="text/plain"),
    Document("gr\u00fc\u00dfe 100% #1 10:30+c&d.xml", data=b"<a/>", mime="text/xml"),
    Document("empty", data=b""),
)


def signed(
    keys: DocumentKeys, *files: Document, kind: str = "p256", format: str = "asice", level: str = "b-b"
) -> bytes:
    target = io.BytesIO()
    asic.sign(files or FILES, Job(keys.keys[kind], level, keys.means, format=format), target)
    return target.getvalue()


def signed_again(keys: DocumentKeys, content: bytes, kind: str = "rsa2048", name: str = "x.asice") -> bytes:
    target = io.BytesIO()
    job = Job(keys.keys[kind], "b-b", keys.means, Options(append=True), "asice")
    asic.sign([Document(name, data=content)], job, target)
    return target.getvalue()


def extended(keys: DocumentKeys, content: bytes, level: str, **means: Any) -> bytes:
    target = io.BytesIO()
    job = Job(keys.keys["p256"], level, keys.means._replace(**means), format="asice")
    asic.extend(Document("x.asice", data=content), job, target)
    return target.getvalue()


def unpacked(content: bytes, directory: Path) -> Path:
    """Unpacked by zipfile, not by what is tested."""
    zipfile.ZipFile(io.BytesIO(content)).extractall(directory)
    return directory


def opened(content: bytes) -> Container:
    return Container(io.BytesIO(content), "x.asice")


def verdicts(content: bytes, directory: Path, root: Path) -> list[str]:
    """xmlsec1's, of every signature in every signature file, run from the container's root."""
    place = unpacked(content, directory)
    found = []
    for file in sorted(place.glob("META-INF/*signatures*.xml")):
        count = len(list(etree.parse(file).iter(f"{{{DS}}}Signature")))
        found += [xmlsec1(file, root, number=number, directory=place) for number in range(1, count + 1)]
    return found


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", XML_KINDS)
@pytest.mark.parametrize("format", ["asice", "asics"])
def test_xmlsec1_verifies(document_keys, tmp_path, kind, level, format):
    made = signed(document_keys, *FILES[: 1 if format == "asics" else 3], kind=kind, format=format, level=level)
    assert verdicts(made, tmp_path, document_keys.root_pem) == [""]
    (file,) = tmp_path.glob("META-INF/signatures*.xml")
    root = etree.parse(file).getroot()
    assert root.tag == "{http://uri.etsi.org/02918/v1.2.1#}XAdESSignatures"
    assert schema_errors(root[0]) == []


def test_xmlsec1_sees_a_change(document_keys, tmp_path):
    assert verdicts(signed(document_keys), tmp_path, document_keys.root_pem) == [""]
    (tmp_path / "contract.txt").write_text("Between you.\n")
    assert xmlsec1(tmp_path / "META-INF/signatures0.xml", document_keys.root_pem, directory=tmp_path) != ""


def test_the_layout(document_keys):
    made = signed(document_keys)
    assert made[:4] == b"PK\x03\x04"
    assert made[30:38] == b"mimetype"
    assert made[38:].startswith(b"application/vnd.etsi.asic-e+zipPK")  # no extra field, nothing compressed
    assert is_container(made[:100])
    container = zipfile.ZipFile(io.BytesIO(made))
    names = [file.name for file in FILES]
    assert container.namelist() == ["mimetype", *names, "META-INF/manifest.xml", "META-INF/signatures0.xml"]
    manifest = etree.fromstring(container.read("META-INF/manifest.xml"))
    assert [list(entry.attrib.values()) for entry in manifest] == [
        ["/", ASIC_E],
        *([file.name, file.mime] for file in FILES),
    ]
    references = [
        one.get("URI")
        for one in etree.fromstring(container.read("META-INF/signatures0.xml")).iter(f"{{{DS}}}Reference")
    ]
    assert references[:2] == ["contract.txt", "gr%C3%BC%C3%9Fe%20100%25%20%231%2010%3A30%2Bc%26d.xml"]


def test_the_layout_of_asic_s(document_keys):
    made = signed(document_keys, FILES[0], format="asics")
    assert zipfile.ZipFile(io.BytesIO(made)).namelist() == ["mimetype", "contract.txt", "META-INF/signatures.xml"]
    assert made[38:].startswith(ASIC_S.encode())
    with pytest.raises(DocumentError, match=r"holds one file, not 3; .*--format asice"):
        signed(document_keys, format="asics")


@pytest.mark.parametrize("format", ["asice", "asics"])
def test_a_second_signature(document_keys, tmp_path, format):
    made = signed(document_keys, *FILES[:1], format=format)
    for kind in ("rsa2048", "p521"):
        made = signed_again(document_keys, made, kind)
    assert verdicts(made, tmp_path, document_keys.root_pem) == ["", "", ""]
    with opened(made) as container:
        assert container.data_files == ["contract.txt"]
        assert len(container.signatures) == (3 if format == "asice" else 1)


def test_the_first_signature_stays_as_it_is(document_keys):
    before = opened(made := signed(document_keys))
    after = opened(signed_again(document_keys, made))
    for file in before.files:
        assert b"".join(before.pieces(file)) == b"".join(after.pieces(file))
    assert [before.is_compressed(file) for file in before.files] == [after.is_compressed(file) for file in before.files]
    second = etree.fromstring(after.read("META-INF/signatures1.xml"))
    assert [one.text for one in second.iter("{http://uri.etsi.org/01903/v1.3.2#}MimeType")] == [f.mime for f in FILES]


def test_the_level_of_all_signatures_is_raised_without_the_token(document_keys, tmp_path, calls):
    made = signed_again(document_keys, signed(document_keys))
    before = calls.signatures
    for level in LEVELS[1:]:
        made = extended(document_keys, made, level)
    assert calls.signatures == before
    assert verdicts(made, tmp_path, document_keys.root_pem) == ["", ""]
    for number in (0, 1):
        text = (tmp_path / f"META-INF/signatures{number}.xml").read_text()
        assert text.count("ArchiveTimeStamp ") == 1
    assert opened(made).data_files == [file.name for file in FILES]


def test_what_was_changed_is_not_extended(document_keys):
    made = changed_file(signed(document_keys), "contract.txt", b"Between you.\n")
    with pytest.raises(DocumentError, match=r"what was signed has changed since \('contract.txt'\)"):
        extended(document_keys, made, "b-t")
    with pytest.raises(DocumentError, match=r"does not hold the file 'contract\.txt'"):
        extended(document_keys, changed_file(signed(document_keys), "contract.txt", None), "b-t")


def changed_file(content: bytes, name: str, new: bytes | None) -> bytes:
    made, old = io.BytesIO(), zipfile.ZipFile(io.BytesIO(content))
    with zipfile.ZipFile(made, "w") as container:
        for info in old.infolist():
            data = new if info.filename == name else old.read(info)
            if data is not None:
                container.writestr(info, data)
    return made.getvalue()


def test_files_are_listed_and_unpacked(document_keys, tmp_path):
    with opened(signed(document_keys)) as container:
        paths = container.extract(tmp_path / "new")
        assert [path.name for path in paths] == [file.name for file in FILES]
        assert [path.read_bytes() for path in paths] == [file.read() for file in FILES]
        with pytest.raises(FileExistsError):
            container.extract(tmp_path / "new")
        paths[0].unlink()
        with pytest.raises(FileExistsError):
            container.extract(tmp_path / "new")
        assert not paths[0].exists(), "all or none"
    assert paths[1].read_bytes() == FILES[1].read()
    (tmp_path / "x.asice").write_bytes(signed(document_keys))
    with Container(str(tmp_path / "x.asice")) as container:
        assert container.name.endswith("x.asice")
        assert container.data_files == [file.name for file in FILES]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["a.txt", "a.txt"], "two of the files are called 'a.txt'"),
        (["a.txt", "A.TXT"], "two of the files are called 'A.TXT'"),
        (["\u00e9", "e\u0301"], "two of the files"),
        (["mimetype"], "can not be called 'mimetype'"),
        (["Meta-Inf"], "can not be called 'Meta-Inf'"),
        (["../a"], "not accepted"),
        (["a/b"], "can not be called"),
        (["c:a"], "not accepted"),
        (["a\\b"], "not accepted"),
        (["a\nb"], "not accepted"),
        (["\udc80"], "not accepted"),
        ([""], "not accepted"),
        ([], "no file was given"),
    ],
)
def test_names_that_can_not_be_in_a_container(document_keys, calls, names, reason):
    job = Job(document_keys.keys["p256"], format="asice")
    with pytest.raises(DocumentError, match=reason):
        asic.sign([Document(name, data=b"x") for name in names], job, io.BytesIO())
    assert not calls.signatures


def test_names_are_composed(document_keys):
    assert opened(signed(document_keys, Document("e\u0301", data=b""))).data_files == ["\u00e9"]


def test_ed25519_is_refused_before_anything_is_read(document_keys):
    with pytest.raises(MechanismUnsupported, match="Ed25519"):
        asic.sign([], Job(document_keys.keys["ed25519"], format="asice"), io.BytesIO())


def test_large_files_go_through_in_pieces(document_keys, tmp_path):
    """Zeros, which would deflate to what readers take for a ZIP bomb, are stored."""
    import tracemalloc

    file = tmp_path / "zeros"
    with file.open("wb") as zeros:
        zeros.truncate(70 << 20)
    document = Document("zeros", file)
    with (tmp_path / "x.asice").open("w+b") as target:
        tracemalloc.start()
        asic.sign([document], Job(document_keys.keys["p256"], format="asice"), target)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 10 << 20
    with Container(tmp_path / "x.asice", "x") as container:
        assert container.size("zeros") == 70 << 20
        assert sum(map(len, container.pieces("zeros"))) == 70 << 20
        assert not container.is_compressed("zeros")


# --- what comes from anybody ---


def entry(name: str, data: bytes = b"x", **attributes: Any) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info, data


MIMETYPE = entry("mimetype", ASIC_E.encode())


def container_of(*entries: tuple[zipfile.ZipInfo, bytes]) -> bytes:
    made = io.BytesIO()
    doubles = pytest.warns(UserWarning, match="Duplicate") if has_doubles(entries) else contextlib.nullcontext()
    with doubles, zipfile.ZipFile(made, "w") as container:
        for info, data in entries:
            container.writestr(info, data)
    return made.getvalue()


def has_doubles(entries: Iterable[tuple[zipfile.ZipInfo, bytes]]) -> bool:
    names = [info.filename for info, _ in entries]
    return len(set(names)) < len(names)


def patched(content: bytes, at: int, form: str, value: int, *, central: int | None = None, number: int = 1) -> bytes:
    """With a field of an entry's local header, and of its central one, changed."""
    made = bytearray(content)
    infos = zipfile.ZipFile(io.BytesIO(content)).infolist()
    struct.pack_into(form, made, infos[number].header_offset + at, value)
    if central is not None:
        place = -1
        for _ in range(number + 1):
            place = content.index(b"PK\x01\x02", place + 1)
        struct.pack_into(form, made, place + central, value)
    return bytes(made)


GOOD = container_of(MIMETYPE, entry("a.txt"))
NO_UTF8 = container_of(MIMETYPE, entry("\u00fcber.txt"))
DEFLATED = zipfile.ZIP_DEFLATED
#: What is wrong: how to make it (some are large), and what is said about it.
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "no zip": (lambda: b"%PDF-1.7", "is no ZIP file"),
    "nothing": (lambda: b"", "is no ZIP file"),
    "an empty zip": (lambda: container_of(), "does not begin with the file 'mimetype'"),
    "no mimetype": (lambda: container_of(entry("a.txt")), "does not begin with the file 'mimetype'"),
    "a late mimetype": (lambda: container_of(entry("a.txt"), MIMETYPE), "does not begin with the file 'mimetype'"),
    "a compressed mimetype": (
        lambda: container_of(entry("mimetype", ASIC_E.encode(), compress_type=DEFLATED)),
        "'mimetype' compressed",
    ),
    "another type": (lambda: container_of(entry("mimetype", b"application/epub+zip")), "is no ASiC container"),
    "a long type": (lambda: container_of(entry("mimetype", bytes(2 << 20))), "'mimetype' of 2097152 bytes"),
    "a parent": (lambda: container_of(MIMETYPE, entry("../a")), "name is not accepted: '../a'"),
    "a parent within": (lambda: container_of(MIMETYPE, entry("a/../../b")), "name is not accepted"),
    "an absolute name": (lambda: container_of(MIMETYPE, entry("/etc/passwd")), "name is not accepted"),
    "a drive": (lambda: container_of(MIMETYPE, entry("C:/a")), "name is not accepted"),
    "a backslash": (lambda: container_of(MIMETYPE, entry("..\\a")), "name is not accepted"),
    "a control character": (lambda: container_of(MIMETYPE, entry("a\x1bb")), "name is not accepted"),
    "nothing between": (lambda: container_of(MIMETYPE, entry("a//b")), "name is not accepted"),
    "a long name": (lambda: container_of(MIMETYPE, entry("a" * 2000)), "name is not accepted"),
    "a double": (lambda: container_of(MIMETYPE, entry("a"), entry("a", b"y")), "two files with the name 'a'"),
    "a double mimetype": (lambda: container_of(MIMETYPE, entry("a"), MIMETYPE), "two files with the name 'mimetype'"),
    "a double by case": (lambda: container_of(MIMETYPE, entry("a"), entry("A")), "the same on some systems"),
    "a double by composition": (
        lambda: container_of(MIMETYPE, entry("\u00e9"), entry(unicodedata.normalize("NFD", "\u00e9"))),
        "the same on some systems",
    ),
    "a file as a directory": (lambda: container_of(MIMETYPE, entry("a"), entry("A/b")), "a directory as well"),
    "META-INF in another way": (lambda: container_of(MIMETYPE, entry("meta-inf/signatures0.xml")), "in another way"),
    "META-INF as a file": (lambda: container_of(MIMETYPE, entry("META-INF")), "in another way"),
    "a symbolic link": (
        lambda: container_of(MIMETYPE, entry("a", b"/etc/passwd", external_attr=(stat.S_IFLNK | 0o777) << 16)),
        "is no ordinary file",
    ),
    "a directory with contents": (lambda: container_of(MIMETYPE, entry("a/", b"x")), "with contents"),
    "encrypted": (lambda: patched(GOOD, 6, "<H", 1, central=8), "encrypted file 'a.txt'"),
    "in another compression": (
        lambda: container_of(MIMETYPE, entry("a", compress_type=zipfile.ZIP_LZMA)),
        "compressed in a way",
    ),
    "two sizes": (lambda: patched(GOOD, 22, "<I", 1000, central=24), "with two different sizes"),
    "a bomb": (
        lambda: container_of(MIMETYPE, entry("a", bytes(80 << 20), compress_type=DEFLATED)),
        "as only a ZIP bomb does",
    ),
    "many bombs": (
        lambda: container_of(MIMETYPE, *(entry(str(i), bytes(1 << 20), compress_type=DEFLATED) for i in range(80))),
        "as only a ZIP bomb does",
    ),
    "something in front": (lambda: b"#!/bin/sh\n" + GOOD, "something in front"),
    "many files": (lambda: container_of(MIMETYPE, *(entry(str(i), b"") for i in range(10_001))), "at most 10000"),
    "a shortened file": (lambda: GOOD[:60], "is no ZIP file"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_containers_are_refused(what):
    make, reason = HOSTILE[what]
    with pytest.raises(DocumentError, match=reason) as caught, opened(make()):
        pass
    assert "x.asice" in str(caught.value)


@pytest.mark.parametrize(("was", "becomes"), [(b"a.txtx", b"a.txty"), (b"a.txt", b"b.txt")])
def test_a_damaged_file_is_noticed_when_it_is_read(tmp_path, was, becomes):
    """Its contents do not fit its checksum, or it has another name in front of them than in the directory."""
    container = opened(GOOD.replace(was, becomes, 1))
    with pytest.raises(DocumentError, match="holds a damaged file"):
        list(container.pieces("a.txt"))
    with pytest.raises(DocumentError, match="holds a damaged file"):
        container.extract(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_shorter_than_the_directory_says_is_noticed_when_it_is_read():
    content = container_of(MIMETYPE, entry("a.txt", b"x" * 500, compress_type=DEFLATED))
    container = opened(patched(content, 22, "<I", 501, central=24))
    with pytest.raises(DocumentError, match="ends too early"):
        list(container.pieces("a.txt"))


def test_overlapping_files_are_refused():
    """As in the bombs of which all files share one body: the central directory points twice to one place."""
    content = container_of(MIMETYPE, entry("a", b"x" * 50), entry("b", b"x" * 50))
    first = zipfile.ZipFile(io.BytesIO(content)).infolist()[1].header_offset
    made = bytearray(content)
    struct.pack_into("<I", made, content.rindex(b"PK\x01\x02") + 42, first)
    with pytest.raises(DocumentError, match="overlap"), opened(bytes(made)):
        pass


def test_names_in_utf8_without_the_flag_are_read():
    """Some programs write them so."""
    content = patched(patched(NO_UTF8, 6, "<H", 0, central=8), 6, "<H", 0, central=8)
    with opened(content) as container:
        assert container.data_files == ["\u00fcber.txt"]
        assert b"".join(container.pieces("\u00fcber.txt")) == b"x"


def test_directories_are_passed_over(document_keys, tmp_path):
    content = container_of(
        MIMETYPE, entry("a/", b"", external_attr=0o40755 << 16), entry("a/b.txt"), entry("META-INF/", b"")
    )
    made = signed_again(document_keys, content)
    assert opened(made).data_files == ["a/b.txt"]
    assert verdicts(made, tmp_path, document_keys.root_pem) == [""]
    assert [path.relative_to(tmp_path / "new").as_posix() for path in opened(made).extract(tmp_path / "new")] == [
        "a/b.txt"
    ]


@pytest.mark.parametrize("file", ["META-INF/signature.p7s", "META-INF/ASiCManifest.xml", "META-INF/timestamp.tst"])
def test_containers_signed_in_another_way_are_left_alone(document_keys, file):
    with pytest.raises(DocumentError, match="not with XAdES"):
        signed_again(document_keys, container_of(MIMETYPE, entry("a"), entry(file)))


def test_hostile_xml_in_a_container_is_refused(document_keys):
    bomb = b"<!DOCTYPE r [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><r>&e;</r>"
    content = container_of(MIMETYPE, entry("a"), entry("META-INF/signatures0.xml", bomb))
    with pytest.raises(DocumentError, match=r"x\.asice: META-INF/signatures0\.xml has a document type"):
        extended(document_keys, content, "b-t")
    content = container_of(MIMETYPE, entry("a"), entry("META-INF/manifest.xml", bomb))
    with pytest.raises(DocumentError, match=r"manifest\.xml has a document type"):
        signed_again(document_keys, content)


def test_a_large_signature_file_is_refused(document_keys, monkeypatch):
    monkeypatch.setattr(asic_reader, "MAXIMUM_META_BYTES", 100)
    with pytest.raises(DocumentError, match=r"signatures0\.xml' of \d+ bytes, which is too large"):
        extended(document_keys, signed(document_keys), "b-t")


@pytest.mark.parametrize("content", [container_of(MIMETYPE), container_of(MIMETYPE, entry("META-INF/x.xml"))])
def test_an_empty_container_is_not_signed(document_keys, content):
    with pytest.raises(DocumentError, match="holds no file that could be signed"):
        signed_again(document_keys, content)


FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
MADE: dict[str, bytes] = {}


@FUZZ
@given(st.data())
def test_mutilated_containers_are_read_or_refused(document_keys, data):
    """Whatever bytes are changed: an error of ours, or the very contents."""
    made = bytearray(MADE.get("made") or MADE.setdefault("made", signed(document_keys)))
    central = made.index(b"PK\x01\x02")
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(made) - 1) | st.integers(min(central, len(made) - 1), len(made) - 1))
        made[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    with contextlib.suppress(TokenAuthError), opened(bytes(made)) as container:
        for file in container.files:
            assert len(b"".join(container.pieces(file))) == container.size(file)
        extended(document_keys, bytes(made), "b-b")


@FUZZ
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(content):
    with contextlib.suppress(DocumentError), opened(content):
        pass
    with contextlib.suppress(DocumentError), opened(GOOD[:80] + content):
        pass


@given(st.text())
def test_a_reference_names_the_file_again(name):
    with contextlib.suppress(DocumentError, UnicodeEncodeError):
        assert name_in(uri_of(name)) == name


@given(st.text())
def test_any_reference_names_a_file_below_or_none(uri):
    with contextlib.suppress(DocumentError):
        name = name_in(uri)
        assert not name.startswith("/")
        assert ".." not in name.split("/")


@pytest.mark.parametrize(
    "uri",
    [
        "http://x/a",
        "//x/a",
        "file:///etc/passwd",
        "../a",
        "%2e%2e/a",
        "/a",
        "a?b",
        "a#b",
        "",
        "%FF",
        "a%00b",
        "//[",
        "a%5Cb",
    ],
)
def test_references_that_name_no_file_of_the_container(uri):
    with pytest.raises(DocumentError):
        name_in(uri)
