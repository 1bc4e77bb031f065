"""XAdES signatures by keys in a token; xmlsec1, openssl and the schemas of ETSI and W3C judge them."""

from __future__ import annotations

import contextlib
import copy
import datetime
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree

from tests.support.documents import DS, XADES, XML_KINDS, DocumentKeys, schema_errors, time_stamp_is_of, xmlsec1
from tokenauth.errors import LevelNotReached, MechanismUnsupported, TokenAuthError
from tokenauth.signing import load_trust, verify, xades, xades_levels
from tokenauth.signing.model import LEVELS, Document, Job, Means, Options
from tokenauth.signing.refusals import DocumentError
from tokenauth.signing.xades_xml import C14N, C14N_11, EC14N, canonical, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support import counting

PLAIN = b"<order><item n='1'>paper</item> <item n='2'/></order>"
#: All that canonicalisation can get wrong: what the signature inherits, several prefixes, comments, text's edges.
INTRICATE = (
    '<?xml version="1.0" encoding="ISO-8859-1"?>\n<?style sheet?><!-- before -->\n'
    '<r xmlns="urn:d" xmlns:p="urn:p" xmlns:q="urn:p" xmlns:dsig="http://www.w3.org/2000/09/xmldsig#" '
    'xmlns:ds="urn:other" xml:lang="de" xml:base="http://example.org/a/" xml:space="preserve" xml:id="top" b="2" a="1">'
    '<p:x q:y="1" z="&#13;&lt;"><n xmlns="" xml:base="../c/"><!-- in --><q:m/></n></p:x>\r\n<![CDATA[<>&]]> \xe4\xf6 '
    "</r>\n<!-- after -->"
).encode("latin-1")
WHOLE = "the whole document, without the {} in it"
DOCUMENTS = {"plain": PLAIN, "intricate": INTRICATE}
XPATH_LEVELS = f"//{{{XADES}}}UnsignedSignatureProperties/*"


def document(content: bytes = PLAIN, name: str = "order.xml") -> Document:
    return Document(name, data=content, mime="text/xml")


def signed(
    keys: DocumentKeys,
    kind: str = "p256",
    *documents: Document,
    level: str = "b-b",
    means: Means | None = None,
    pss: bool = False,
    **options: Any,
) -> bytes:
    target = io.BytesIO()
    key = keys.keys[kind]._replace(pss=pss)
    job = Job(key, level, means or keys.means, Options(**options), "xades")
    xades.sign(documents or [document()], job, target)
    return target.getvalue()


def extended(keys: DocumentKeys, content: bytes, level: str, files: Sequence[Document] = (), **job: Any) -> bytes:
    target = io.BytesIO()
    xades.extend(document(content), Job(keys.keys["p256"], level, **{"means": keys.means} | job), target, files)
    return target.getvalue()


def written(directory: Path, content: bytes, name: str = "signed.xml") -> Path:
    path = directory / name
    path.write_bytes(content)
    return path


def signatures(content: bytes) -> list[Any]:
    return list(etree.fromstring(content).iter(f"{{{DS}}}Signature"))


def unsigned_properties(content: bytes) -> list[str]:
    return [etree.QName(one).localname for one in etree.fromstring(content).iterfind(f".{XPATH_LEVELS}")]


@pytest.mark.parametrize("packaging", ["enveloped", "enveloping", "detached"])
@pytest.mark.parametrize(("kind", "content"), [*((kind, "intricate") for kind in XML_KINDS), ("p256", "plain")])
def test_xmlsec1_verifies(document_keys, tmp_path, kind, content, packaging):
    file = document(DOCUMENTS[content], "an \u00f6rder #1.xml")
    made = signed(document_keys, kind, file, packaging=packaging)
    written(tmp_path, DOCUMENTS[content], file.name)
    assert xmlsec1(written(tmp_path, made), document_keys.root_pem) == ""
    assert schema_errors(signatures(made)[0]) == []


@pytest.mark.parametrize("packaging", ["enveloped", "enveloping", "detached"])
def test_xmlsec1_sees_a_change(document_keys, tmp_path, packaging):
    """Or the tests above would show nothing."""
    made = signed(document_keys, packaging=packaging)
    changed = made.replace(b"paper", b"Paper") if packaging == "enveloped" else made.replace(b"PG9yZGVy", b"PG9yZGV5")
    written(tmp_path, PLAIN.replace(b"paper", b"Paper"), "order.xml")
    assert xmlsec1(written(tmp_path, changed), document_keys.root_pem) != ""
    time = re.sub(rb"(SigningTime>)\d{4}", rb"\g<1>1999", made)
    assert xmlsec1(written(tmp_path, time), document_keys.root_pem) != ""


def test_comments_are_covered(document_keys, tmp_path):
    made = signed(document_keys, "p256", document(b"<!-- a --><order><!-- b --></order>"))
    assert b'URI="#xpointer(/)"' in made
    assert xmlsec1(written(tmp_path, made), document_keys.root_pem) == ""
    trust = load_trust([document_keys.root_pem], online=True)
    report = verify(made, trust=trust)
    assert (report.status, report.signatures[0].covers) == ("valid", (WHOLE.format("signatures"),))
    for changed in (made.replace(b" a ", b" A "), made.replace(b" b ", b" B "), made + b"<!-- c -->"):
        assert verify(changed, trust=trust).status == "invalid"
        assert xmlsec1(written(tmp_path, changed), document_keys.root_pem) != ""
    again = signed(document_keys, "p256", document(made))
    assert [one.status for one in verify(again, trust=trust).signatures] == ["valid", "valid"]


def test_a_document_without_comments_is_named_in_the_usual_way(document_keys):
    made = signed(document_keys)
    assert b'Reference Id="' in made
    assert b'URI=""' in made
    report = verify(made + b"<!-- c -->", trust=load_trust([document_keys.root_pem], online=True))
    assert (report.status, report.signatures[0].covers) == ("valid", (WHOLE.format("signatures and comments"),))


@pytest.mark.parametrize("packaging", ["enveloping", "detached"])
def test_several_files(document_keys, tmp_path, packaging):
    files = [Document("a.bin", data=bytes(range(256))), Document("b.txt", data=b"", mime="text/plain")]
    made = signed(document_keys, "p384", *files, packaging=packaging)
    for file in files:
        written(tmp_path, file.read(), file.name)
    assert xmlsec1(written(tmp_path, made), document_keys.root_pem) == ""
    assert [one.text for one in etree.fromstring(made).iter(f"{{{XADES}}}MimeType")] == [f.mime for f in files]


@pytest.mark.parametrize("kind", ["rsa2048", "rsa3072"])
def test_pss_is_verified_by_signxml(document_keys, kind):
    from signxml.algorithms import SignatureMethod
    from signxml.verifier import SignatureConfiguration, XMLVerifier

    # It knows no XPath, so the file is beside the signature.
    made = signed(document_keys, kind, document(), packaging="detached", pss=True)
    configuration = SignatureConfiguration(
        require_x509=True, expect_references=2, signature_methods=frozenset({SignatureMethod.SHA256_RSA_MGF1})
    )
    results: Any = XMLVerifier().verify(
        made,
        x509_cert=document_keys.keys[kind].certificate,
        expect_config=configuration,
        uri_resolver=lambda uri: PLAIN if uri == "order.xml" else None,
    )
    assert results[0].signed_data == PLAIN


def test_pss_is_not_pkcs1(document_keys):
    with_pss = signed(document_keys, "rsa2048", pss=True)
    assert b"2007/05/xmldsig-more#sha256-rsa-MGF1" in with_pss
    assert b"2001/04/xmldsig-more#rsa-sha256" in signed(document_keys, "rsa2048")
    assert extended(document_keys, with_pss, "b-b")  # our own verification of what is extended


def test_ed25519_is_refused_before_anything_is_read(document_keys, calls: counting.Calls):
    with pytest.raises(MechanismUnsupported, match=r"Ed25519.*--format cades or jws"):
        signed(document_keys, "ed25519", Document("x.xml", path=Path("/nonexistent")))
    assert not calls.any


def test_the_digest_follows_the_key(document_keys):
    for kind, digest in {"rsa3072": "sha256", "p384": "sha384", "p521": "sha512"}.items():
        methods = {one.get("Algorithm", "") for one in signatures(signed(document_keys, kind))[0].iter(f"{{{DS}}}*")}
        named = {re.sub(r".*(sha\d+)$", r"\1", one) for one in methods if "sha" in one}
        assert named == {digest}


# --- several signatures ---


def test_signatures_in_parallel(document_keys, tmp_path):
    content = PLAIN
    for kind in ("p256", "rsa2048", "p384"):
        content = signed(document_keys, kind, document(content))
    file = written(tmp_path, content)
    assert [xmlsec1(file, document_keys.root_pem, number=number) for number in (1, 2, 3)] == ["", "", ""]
    assert len({one.get("Id") for one in signatures(content)}) == 3


def test_a_signature_that_covers_everything_is_not_broken(document_keys):
    foreign = re.sub(rb"<ds:Transform [^>]*xmldsig-filter2.*?</ds:Transform>", b"", signed(document_keys))
    with pytest.raises(DocumentError, match="a second one in it would break"):
        signed(document_keys, "p256", document(foreign))


def test_what_signs_a_part_stays_covered(document_keys, tmp_path):
    """A signature deep in the document is content: the filter for parallel signatures would leave it out."""
    inner = signed(document_keys)
    outer = b"<all>" + inner.partition(b"?>")[2] + b"</all>"
    made = signed(document_keys, "p384", document(outer))
    assert xmlsec1(written(tmp_path, made), document_keys.root_pem, number=2) == ""
    changed = made.replace(b'Id="S-', b'Id="X-', 1)
    assert xmlsec1(written(tmp_path, changed), document_keys.root_pem, number=2) != ""


def test_no_signature_is_enveloped_in_a_signature(document_keys):
    with pytest.raises(DocumentError, match=r"is itself an XML signature.*asice"):
        signed(document_keys, "p256", document(signed(document_keys, packaging="enveloping")))


# --- levels ---


@pytest.mark.parametrize("level", LEVELS[1:])
@pytest.mark.parametrize(
    ("kind", "packaging"), [*((kind, "enveloped") for kind in XML_KINDS), ("p256", "enveloping"), ("p256", "detached")]
)
def test_levels(document_keys, tmp_path, kind, level, packaging):
    made = signed(document_keys, kind, document(), level=level, packaging=packaging)
    written(tmp_path, PLAIN, "order.xml")
    assert xmlsec1(written(tmp_path, made), document_keys.root_pem) == ""
    assert schema_errors(signatures(made)[0]) == []
    expected = ["SignatureTimeStamp", "TimeStampValidationData", "CertificateValues", "RevocationValues"]
    expected = {"b-t": expected[:1], "b-lt": expected, "b-lta": [*expected, "ArchiveTimeStamp"]}[level]
    assert unsigned_properties(made) == expected
    check_time_stamps(made, document_keys, tmp_path, packaging)


def check_time_stamps(made: bytes, keys: DocumentKeys, directory: Path, packaging: str) -> None:
    """``openssl ts`` verifies each over bytes that are put together here, from the whole document's canonical form."""
    whole = etree.tostring(etree.fromstring(made), method="c14n", with_comments=False).decode()
    stamps = etree.fromstring(made).findall(f".//{{{XADES}}}EncapsulatedTimeStamp")
    value = element_text(whole, "ds:SignatureValue")
    time_stamp_is_of(stamps[0], value.encode(), keys, directory)
    if len(stamps) == 1:
        return
    enveloped = whole[: whole.index("<ds:Signature")] + whole[whole.index("</ds:Signature>") + 15 :]
    content = enveloped if packaging == "enveloped" else PLAIN.decode()
    parts = [content, element_text(whole, "xades:SignedProperties"), element_text(whole, "ds:SignedInfo")]
    parts += [value, element_text(whole, "ds:KeyInfo")]
    for name in ("SignatureTimeStamp", "TimeStampValidationData", "CertificateValues", "RevocationValues"):
        prefix = "xades141" if name == "TimeStampValidationData" else "xades"
        after = whole if prefix == "xades141" else whole.replace(element_text(whole, DATA, raw=True), "")
        parts.append(element_text(after, f"{prefix}:{name}"))
    time_stamp_is_of(stamps[1], "".join(parts).encode(), keys, directory)


DATA = "xades141:TimeStampValidationData"


def element_text(whole: str, name: str, *, raw: bool = False) -> str:
    """An element's canonical form, cut out of the document's; the namespaces that hold there are written to it."""
    found = re.search(rf"<{name}[ >].*?</{name}>", whole, re.DOTALL)
    if found is None:
        return "nothing"
    if raw:
        return found[0]
    declared = f' xmlns:ds="{DS}" xmlns:xades="{XADES}"'
    return found[0].replace(f"<{name}", f"<{name}{declared}", 1)


@pytest.mark.parametrize("packaging", ["enveloped", "detached"])
def test_the_level_is_raised_later_without_the_token(document_keys, tmp_path, calls, packaging):
    made = signed(document_keys, "p384", document(INTRICATE), packaging=packaging)
    written(tmp_path, INTRICATE, "order.xml")
    before = calls.signatures
    for level in LEVELS:
        made = extended(document_keys, made, level, [document(INTRICATE)])
        assert xmlsec1(written(tmp_path, made), document_keys.root_pem) == ""
    assert calls.signatures == before
    assert unsigned_properties(made)[-2:] == ["RevocationValues", "ArchiveTimeStamp"]
    again = extended(document_keys, made, "b-lta", [document(INTRICATE)])
    assert unsigned_properties(again)[-3:] == ["ArchiveTimeStamp", "TimeStampValidationData", "ArchiveTimeStamp"]
    assert schema_errors(signatures(again)[0]) == []


def test_all_parallel_signatures_are_raised(document_keys):
    made = signed(document_keys, "rsa2048", document(signed(document_keys)))
    assert unsigned_properties(extended(document_keys, made, "b-t")) == ["SignatureTimeStamp"] * 2


@pytest.mark.parametrize(
    ("was", "becomes", "reason"),
    [
        (b"paper", b"Paper", "what was signed has changed"),
        (b"<xades:SigningTime>2", b"<xades:SigningTime>3", "what was signed has changed"),
        (b"c14n11", b"c14n99", "which is not known"),
        (b"xmlenc#sha256", b"xmlenc#sha1", "'http://www.w3.org/2001/04/xmlenc#sha1', which is not accepted"),
        (b"<ds:SignedInfo>", b"<ds:SignedInfo><!-- -->", None),
        (b"<ds:CanonicalizationMethod ", b"<ds:CanonicalizationMethod Id='x' ", "does not verify"),
        (b"ds:SignatureValue", b"ds:SignatureVolue", "has 0 elements SignatureValue"),
        (b"ds:X509Certificate", b"ds:X509Certificote", "does not hold the signer's certificate"),
        (b"<ds:Object>", b"<ds:Object><ds:KeyInfo/>", None),
    ],
)
def test_what_does_not_verify_is_not_extended(document_keys, was, becomes, reason):
    changed = signed(document_keys).replace(was, becomes)
    if reason is None:  # what is neither signed nor hidden
        extended(document_keys, changed, "b-t")
        return
    with pytest.raises(DocumentError, match=reason):
        extended(document_keys, changed, "b-t")


@pytest.mark.parametrize("number", [0, 1])
def test_a_time_stamp_of_something_else_is_noticed(document_keys, number):
    """Each of the two stamps in one signature takes the place of the one in another."""
    once, other = (etree.fromstring(signed(document_keys, level="b-lta")) for _ in range(2))
    path = f".//{{{XADES}}}EncapsulatedTimeStamp"
    once.findall(path)[number].text = other.findall(path)[number].text
    with pytest.raises(DocumentError, match="a time stamp of the signature is of something else"):
        extended(document_keys, etree.tostring(once), "b-lta")


def test_what_comes_before_an_archive_time_stamp_is_protected(document_keys):
    made = signed(document_keys, level="b-lta")
    changed = re.sub(rb"<xades:OCSPValues>.*?</xades:OCSPValues>", b"", made, count=1)
    with pytest.raises(DocumentError, match="a time stamp of the signature is of something else"):
        extended(document_keys, changed, "b-lta")


def test_a_crl_that_readers_could_not_read_back_is_refused(document_keys, monkeypatch):
    monkeypatch.setattr(xades_levels, "_MOST_IN_A_TEXT", 200)
    with pytest.raises(LevelNotReached, match=r"at most 200 fit into an XML signature; .*--format cades"):
        signed(document_keys, level="b-lt")


def test_a_file_that_is_missing_is_named(document_keys):
    made = signed(document_keys, packaging="detached")
    with pytest.raises(DocumentError, match=r"for the file 'order.xml', which is not there"):
        extended(document_keys, made, "b-t")


def test_what_is_not_signed_has_no_level(document_keys):
    with pytest.raises(DocumentError, match="holds no XML signature"):
        extended(document_keys, PLAIN, "b-t")


def test_nothing_is_written_if_the_level_can_not_be_reached(document_keys, unused_tcp_port_url):
    target = io.BytesIO()
    job = Job(document_keys.keys["p256"], "b-t", Means(tsa=unused_tcp_port_url))
    with pytest.raises(LevelNotReached, match="does not answer"):
        xades.sign([document()], job, target)
    assert target.getvalue() == b""


def test_a_lower_level_is_taken_if_that_is_allowed(document_keys, tmp_path, unused_tcp_port_url, caplog):
    means = Means(tsa=unused_tcp_port_url)
    made = signed(document_keys, level="b-lta", means=means, allow_lower_level=True)
    assert xmlsec1(written(tmp_path, made), document_keys.root_pem) == ""
    assert unsigned_properties(made) == []
    assert "the signature stays below level B-T: the time-stamping authority" in caplog.text
    assert schema_errors(signatures(made)[0]) == []


@pytest.fixture
def unused_tcp_port_url() -> str:
    """Nothing listens there: the port was free, and is in nobody's range for new ones."""
    return "http://127.0.0.1:1"


# --- what comes from anybody ---

BOMB = b"<!DOCTYPE r [<!ENTITY a 'aaaaaaaaaa'>" + b"".join(
    b"<!ENTITY %c '%s'>" % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(9)
)
HOSTILE = {
    "a document type": b"<!DOCTYPE r><r/>",
    "an entity": b"<!DOCTYPE r [<!ENTITY e 'x'>]><r>&e;</r>",
    "an entity in an attribute": BOMB + b"]><r a='&j;'/>",
    "a bomb": BOMB + b"]><r>&j;</r>",
    "a file": b"<!DOCTYPE r [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><r>&e;</r>",
    "a document type elsewhere": b"<!DOCTYPE r SYSTEM 'http://127.0.0.1:1/x.dtd'><r/>",
    "in another encoding": "<?xml version='1.0' encoding='UTF-16'?><!DOCTYPE r><r/>".encode("utf-16"),
    "too deep": b"<r>" + b"<a>" * 300 + b"</a>" * 300 + b"</r>",
    "a long text": b"<r>" + b"x" * 10_000_001 + b"</r>",
    "no XML": b"%PDF-1.7",
    "nothing": b"",
    "half": b"<r><a></r>",
    "a relative namespace": b"<r xmlns:a='relative'/>",
    "an undeclared prefix": b"<a:r/>",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_documents_are_refused_before_the_key_is_used(document_keys, calls, content):
    with pytest.raises(DocumentError, match=r"^order\.xml|^the XML can not be canonicalised"):
        signed(document_keys, "p256", document(content))
    assert not calls.signatures


def test_a_large_file_does_not_go_into_xml(document_keys):
    with pytest.raises(DocumentError, match="at most 7000000 fit into an XML signature"):
        signed(document_keys, "p256", Document("big", data=bytes(7_000_001)), packaging="enveloping")


def test_the_largest_that_does_can_be_read_again(document_keys, tmp_path):
    made = signed(document_keys, "p256", Document("big", data=bytes(7_000_000)), packaging="enveloping")
    assert xmlsec1(written(tmp_path, made), document_keys.root_pem) == ""


def test_one_document_is_enveloped(document_keys):
    with pytest.raises(DocumentError, match="not for 2 files"):
        signed(document_keys, "p256", document(), document())


def test_a_double_id_is_refused(document_keys):
    made = signed(document_keys)
    identifier = re.search(rb'Id="([^"]*-SignedProperties)"', made)
    assert identifier
    double = made.replace(b"</ds:Signature>", b'<ds:Object Id="' + identifier[1] + b'"/></ds:Signature>')
    with pytest.raises(DocumentError, match="2 elements in the document has"):
        extended(document_keys, double, "b-t")


@pytest.mark.parametrize(
    "transform",
    [
        '<ds:Transform Algorithm="http://www.w3.org/TR/1999/REC-xslt-19991116"/>',
        '<ds:Transform Algorithm="http://www.w3.org/TR/1999/REC-xpath-19991116"><ds:XPath>false()</ds:XPath></ds:Transform>',
    ],
)
def test_transforms_that_hide_something_are_refused(document_keys, transform):
    made = signed(document_keys).replace(b"<ds:Transforms>", b"<ds:Transforms>" + transform.encode(), 1)
    with pytest.raises(DocumentError, match="does not verify"):
        extended(document_keys, made, "b-t")  # the signature is wrong first; the transform would be next
    from tokenauth.signing.xades_references import octets

    reference = next(etree.fromstring(made).iter(f"{{{DS}}}Reference"))
    with pytest.raises(DocumentError, match="which is not accepted"):
        list(octets(reference, lambda uri: []))


XML_SETTINGS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@XML_SETTINGS
@given(st.binary(max_size=400) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_read_or_refused(content):
    with contextlib.suppress(DocumentError):
        parse(content, "anything")


@XML_SETTINGS
@given(st.data())
def test_mutilated_signatures_are_extended_or_refused(document_keys, data):
    """Whatever is changed in a signed document, an error of ours says why, and no other comes out."""
    content = MADE.get("made") or MADE.setdefault("made", signed(document_keys, level="b-lta"))
    tree = etree.fromstring(content).getroottree()
    for _ in range(data.draw(st.integers(1, 3))):
        mutilate(tree, data)
    with contextlib.suppress(TokenAuthError):
        extended(
            document_keys, etree.tostring(tree), "b-lta", means=document_keys.means._replace(tsa=None, fetch=False)
        )


MADE: dict[str, bytes] = {}
VALUES = ["", "#", "#x", "x.bin", "/etc/passwd", "http://127.0.0.1:1/", "AAAA", "=", "\u00e4", "%", "%FF", "x" * 5000]


def mutilate(tree: Any, data: st.DataObject) -> None:
    elements = list(tree.iter("*"))
    element = elements[data.draw(st.integers(0, len(elements) - 1))]
    other = elements[data.draw(st.integers(0, len(elements) - 1))]
    what = data.draw(st.sampled_from(["remove", "double", "move", "text", "attribute", "name"]))
    if what == "attribute":
        element.set(data.draw(st.sampled_from(["Id", "URI", "Algorithm", "Type"])), data.draw(st.sampled_from(VALUES)))
    elif what == "text":
        element.text = data.draw(st.sampled_from(VALUES))
    elif what == "name":
        element.tag = other.tag
    elif element.getparent() is not None:
        taken = copy.deepcopy(element) if what == "double" else element
        if what == "remove":
            element.getparent().remove(element)
        elif element not in other.iterancestors() and element is not other:
            other.append(taken)


# --- canonical forms ---


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        (C14N, '<n xmlns:p="urn:p" xml:base="b/" xml:id="i" xml:lang="de"></n>'),
        (C14N_11, '<n xmlns:p="urn:p" xml:base="http://e.org/b/" xml:lang="de"></n>'),
        (EC14N, '<n xml:base="b/"></n>'),
    ],
)
def test_what_an_element_inherits(algorithm, expected):
    """As in the examples of Canonical XML 1.0 section 2.4 and 1.1 section 2.4."""
    tree = parse(
        b'<r xmlns:p="urn:p" xml:base="http://e.org/a" xml:lang="de" xml:id="i"><n xml:base="b/"><!-- c --></n></r>',
        "x",
    )
    before = etree.tostring(tree)
    assert canonical(tree.getroot()[0], algorithm) == expected.encode()
    assert etree.tostring(tree) == before


@pytest.mark.parametrize("algorithm", [C14N, C14N_11, EC14N])
def test_a_default_namespace_of_the_elements_above(algorithm):
    """Declared once where it holds, also beside an element that declares it anew."""
    tree = parse(b'<r xmlns="urn:a"><n><m><k xmlns="urn:b"/><k/></m></n></r>', "x")
    expected = b'<n xmlns="urn:a"><m><k xmlns="urn:b"></k><k></k></m></n>'
    assert canonical(tree.getroot()[0], algorithm) == expected


def test_an_unknown_canonical_form_is_refused():
    with pytest.raises(DocumentError, match="which is not known"):
        canonical(parse(PLAIN, "x"), "http://example.org/c14n")


def test_the_encoding_stays(document_keys):
    made = signed(document_keys, "p256", document(INTRICATE))
    assert made.startswith(b"<?xml version='1.0' encoding='ISO-8859-1'?>\n<?style sheet?><!-- before -->")
    assert b" \xe4\xf6 " in made
    assert made.endswith(b"<!-- after -->")


# --- in two steps ---


@pytest.mark.parametrize("packaging", ["enveloped", "enveloping", "detached"])
def test_a_moment_and_an_identifier_give_the_same_signature_again(document_keys, packaging):
    """So that one place can prepare what another signs. RSA, because ECDSA signatures are never the same."""
    moment = datetime.datetime(2026, 5, 4, 3, 2, 1, tzinfo=datetime.UTC)
    once, again = (
        signed(document_keys, "rsa2048", packaging=packaging, moment=moment, identifier="one") for _ in range(2)
    )
    assert once == again
    assert b"<xades:SigningTime>2026-05-04T03:02:01Z<" in once


def test_an_identifier_that_is_taken_is_not_used_again(document_keys, tmp_path):
    content = PLAIN
    for _ in range(3):
        content = signed(document_keys, "p256", document(content), identifier="one")
    assert [one.get("Id") for one in signatures(content)] == ["one", "one-1", "one-2"]
    file = written(tmp_path, content)
    assert [xmlsec1(file, document_keys.root_pem, number=number) for number in (1, 2, 3)] == ["", "", ""]


def test_a_large_document_can_be_verified(document_keys, tmp_path):
    """An XPath of version 1.0 would take xmlsec1 minutes: it is evaluated for each node."""
    content = b"<r>" + b"<i n='1'>some text</i>" * 100_000 + b"</r>"
    made = signed(document_keys, "p256", document(content))
    assert xmlsec1(written(tmp_path, made), document_keys.root_pem) == ""
