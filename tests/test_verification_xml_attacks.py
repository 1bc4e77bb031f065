"""XML signature wrapping: the signature stays good, and something else is shown. None of it is valid."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from lxml import etree

from tests.support.signed_files import FORMATS, made, pki, verified
from tests.test_verification_formats import FORMS, SHA256, TEMPLATE, xmlsec_signed
from tokenauth.signing.refusals import DocumentError
from tokenauth.signing.verification import verify

DS = "{http://www.w3.org/2000/09/xmldsig#}"
XADES = "{http://uri.etsi.org/01903/v1.3.2#}"
ENVELOPED = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"

ENVELOPING = "xades enveloping"
ENVELOPED_NAME = "xades enveloped"

#: One element of a document is signed, by its Id.
PARTIAL = """<?xml version="1.0"?>
<message><body Id="body"><pay>10</pay></body>
<Signature xmlns="http://www.w3.org/2000/09/xmldsig#"><SignedInfo>
<CanonicalizationMethod Algorithm="{form}"/>
<SignatureMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256"/>
<Reference URI="#body"><Transforms><Transform Algorithm="{form}"/></Transforms>
<DigestMethod Algorithm="{digest}"/><DigestValue/></Reference></SignedInfo><SignatureValue/>
<KeyInfo><X509Data><X509Certificate/></X509Data></KeyInfo></Signature></message>
"""


@pytest.fixture
def partial(tmp_path) -> etree._Element:
    text = PARTIAL.format(form=FORMS[1], digest=SHA256).replace(
        '<?xml version="1.0"?>', '<?xml version="1.0"?>\n<!DOCTYPE message [<!ATTLIST body Id ID #IMPLIED>]>'
    )
    signed = xmlsec_signed(tmp_path, "p256", text).read_bytes()
    # xmlsec1 needs the document type to find the Id; we refuse document types.
    head, _, rest = signed.partition(b"<!DOCTYPE")
    return etree.fromstring(head.strip() + rest.partition(b"]>")[2])


@pytest.fixture
def enveloped() -> etree._Element:
    return etree.fromstring(made(ENVELOPED_NAME, pki().keys["p256"]))


@pytest.fixture
def enveloping() -> etree._Element:
    return etree.fromstring(made(ENVELOPING, pki().keys["p256"]))


def report_on(root, name=ENVELOPED_NAME):
    return verified(name, etree.tostring(root.getroottree()))


def signature(root):
    return root if root.tag == f"{DS}Signature" else root.find(f"{DS}Signature")


def refused(root, name=ENVELOPED_NAME) -> str:
    report = report_on(root, name)
    assert report.status != "valid", report
    return report.reason or "; ".join(one.reason for one in report.signatures)


def test_the_corpus_starts_from_valid_files(enveloped, enveloping, partial):
    assert report_on(enveloped).status == "valid"
    assert report_on(enveloping, ENVELOPING).status == "valid"
    assert report_on(partial).status == "valid"
    assert report_on(partial).signatures[0].covers == ("the element body (Id body)",)


def test_the_signed_element_moved_away(partial):
    body = partial.find("body")
    forged = copy.deepcopy(body)
    forged.find("pay").text = "1000"
    forged.set("Id", "other")
    partial.insert(0, forged)
    wrapper = etree.SubElement(partial, "wrapper")
    wrapper.append(body)
    assert "covers only a part of the document; not: " in refused(partial)
    assert "not: " in report_on(partial).signatures[0].covers[1]


def test_the_signed_element_moved_into_the_signature(partial):
    body = '<body Id="body"><pay>10</pay></body>'
    text = etree.tostring(partial).decode()
    assert body in text
    moved = text.replace(body, "<body><pay>1000</pay></body>")
    moved = moved.replace(
        "</Signature>", "<Object>" + body.replace("<body ", '<body xmlns="" ') + "</Object></Signature>"
    )
    assert "covers only a part" in refused(etree.fromstring(moved))


@pytest.mark.parametrize("attribute", ["Id", "ID", "id", "{http://www.w3.org/XML/1998/namespace}id"])
@pytest.mark.parametrize("first", [True, False])
def test_two_elements_with_the_signed_id(partial, attribute, first):
    forged = etree.Element("body")
    etree.SubElement(forged, "pay").text = "1000"
    forged.set(attribute, "body")
    partial.insert(0 if first else 1, forged)
    assert "several times" in refused(partial)


def test_an_element_beside_what_is_signed(partial):
    etree.SubElement(partial, "pay").text = "1000"
    assert "not: pay" in refused(partial)


def test_text_and_attributes_around_what_is_signed(partial):
    partial.set("to", "somebody else")
    assert "covers only a part" in refused(partial)
    del partial.attrib["to"]
    partial.text = "ignore the following"
    assert "covers only a part" in refused(partial)


@pytest.mark.parametrize("place", [0, 1])
def test_a_second_signed_info(enveloped, place):
    own = signature(enveloped)
    second = copy.deepcopy(own.find(f"{DS}SignedInfo"))
    second.find(f".//{DS}DigestValue").text = "AAAA"
    own.insert(place, second)
    assert "several times" in refused(enveloped)
    for one in second.iter(f"{DS}Reference"):
        del one.attrib["Id"]
    assert "2 elements SignedInfo" in refused(enveloped)


def test_a_second_signature_value(enveloped):
    own = signature(enveloped)
    second = copy.deepcopy(own.find(f"{DS}SignatureValue"))
    own.insert(1, second)
    assert "2 elements SignatureValue" in refused(enveloped)


def test_swapped_references(enveloping):
    info = enveloping.find(f"{DS}SignedInfo")
    first, second = info.findall(f"{DS}Reference")
    first.addprevious(second)
    assert "does not verify" in refused(enveloping, ENVELOPING)
    uri = first.get("URI")
    first.set("URI", second.get("URI"))
    second.set("URI", uri)
    refused(enveloping, ENVELOPING)


def test_a_reference_left_out(enveloping):
    info = enveloping.find(f"{DS}SignedInfo")
    info.remove(info.findall(f"{DS}Reference")[0])
    refused(enveloping, ENVELOPING)


@pytest.mark.parametrize(
    "algorithm",
    [
        "http://www.w3.org/TR/2001/REC-xml-c14n-20010315",
        "http://www.w3.org/2001/10/xml-exc-c14n#",
        "urn:none",
        "http://www.w3.org/2006/12/xml-c14n11#WithComments",
    ],
)
def test_another_canonicalisation(enveloped, algorithm):
    enveloped.find(f".//{DS}CanonicalizationMethod").set("Algorithm", algorithm)
    refused(enveloped)


@pytest.mark.parametrize(
    "algorithm",
    ["http://www.w3.org/TR/1999/REC-xslt-19991116", "http://www.w3.org/TR/1999/REC-xpath-19991116", "urn:none"],
)
def test_a_transform_that_could_leave_anything_out(tmp_path, algorithm):
    inner = "<XPath>count(ancestor-or-self::item) = 1</XPath>" if "xpath" in algorithm else ""
    template = TEMPLATE.replace(
        "<Transforms>", f'<Transforms><Transform Algorithm="{algorithm}">{inner}</Transform>', 1
    ).format(form=FORMS[0], method="ecdsa-sha256", digest=SHA256)
    if "xpath" in algorithm:  # xmlsec1 signs this one
        signed = xmlsec_signed(tmp_path, "p256", template).read_bytes()
    else:
        key = made(ENVELOPED_NAME, pki().keys["p256"])
        signed = key.replace(ENVELOPED.encode(), algorithm.encode(), 1)
    report = verify(signed, trust=pki().trust)
    assert report.status == "indeterminate"
    assert "not accepted" in report.signatures[0].reason


def test_an_unsigned_object(enveloping):
    etree.SubElement(enveloping, f"{DS}Object").text = "trust me"
    assert "an object that it does not cover" in refused(enveloping, ENVELOPING)


def test_what_an_object_is_called(enveloping):
    found = next(one for one in enveloping.findall(f"{DS}Object") if one.get("MimeType"))
    found.set("MimeType", "text/html")
    assert "another kind of data" in refused(enveloping, ENVELOPING)


def test_properties_of_another_signature(enveloped):
    enveloped.find(f".//{XADES}QualifyingProperties").set("Target", "#other")
    assert "for another signature" in refused(enveloped)


def test_two_sets_of_properties(enveloped):
    holder = enveloped.find(f".//{XADES}QualifyingProperties").getparent()
    second = copy.deepcopy(holder)
    for one in second.iter():
        if one.get("Id"):
            one.set("Id", one.get("Id") + "x")
    holder.addnext(second)
    assert "several sets" in refused(enveloped)


def test_properties_that_are_not_signed(enveloped):
    """They could name any certificate and time."""
    holder = enveloped.find(f".//{XADES}QualifyingProperties")
    signed = holder.find(f"{XADES}SignedProperties")
    forged = copy.deepcopy(signed)
    forged.set("Id", "forged")
    forged.find(f".//{XADES}SigningTime").text = "2001-01-01T00:00:00Z"
    wrapper = etree.Element("wrapper")
    holder.replace(signed, forged)
    enveloped.insert(0, wrapper)
    wrapper.append(signed)
    refused(enveloped)


def test_another_certificate_in_the_key_info(enveloped):
    import base64

    from cryptography.hazmat.primitives.serialization import Encoding

    other = pki().keys["p384"].certificate.public_bytes(Encoding.DER)
    enveloped.find(f".//{DS}X509Certificate").text = base64.b64encode(other).decode()
    assert "not the one that the signature names" in refused(enveloped)


def test_a_bare_key_in_the_document_is_not_trusted(tmp_path):
    template = TEMPLATE.replace("<X509Data><X509Certificate/></X509Data>", "<KeyValue/>")
    signed = xmlsec_signed(tmp_path, "rsa2048", template.format(form=FORMS[0], method="rsa-sha256", digest=SHA256))
    report = verify(signed, trust=pki().trust)
    assert report.status == "indeterminate"
    assert "certificate is not in" in report.signatures[0].reason


def test_a_mac_is_no_signature(enveloped):
    method = enveloped.find(f".//{DS}SignatureMethod")
    method.set("Algorithm", "http://www.w3.org/2001/04/xmldsig-more#hmac-sha256")
    assert "not known" in refused(enveloped)


@pytest.mark.parametrize(
    "uri", ["file:///etc/passwd", "http://127.0.0.1:9/x", "../secret", "/etc/passwd", "a%2f..%2f..%2fb", "order.xml#x"]
)
def test_files_elsewhere_are_not_read(tmp_path, uri):
    data = made("xades detached", pki().keys["p256"]).replace(b'URI="order.xml"', f'URI="{uri}"'.encode())
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret").write_bytes(FORMATS["xades detached"].document.data)
    (inside / "order.xades").write_bytes(data)
    report = verify(inside / "order.xades", trust=pki().trust)
    assert report.status == "invalid"
    reason = report.signatures[0].reason
    assert any(words in reason for words in ("refers to", "not beside it", "name is not accepted")), reason


BOMB = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))


@pytest.mark.parametrize(
    "doctype",
    [
        "<!DOCTYPE order>",
        '<!DOCTYPE order SYSTEM "http://127.0.0.1:9/x.dtd">',
        '<!DOCTYPE order [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        f'<!DOCTYPE order [<!ENTITY a0 "ha">{BOMB}]>',
        "<!DOCTYPE order [<!ATTLIST item Id ID #IMPLIED>]>",
    ],
)
def test_document_types_are_refused(doctype):
    data = made(ENVELOPED_NAME, pki().keys["p256"])
    head, mark, rest = data.partition(b"?>")
    report = verified(ENVELOPED_NAME, head + mark + doctype.encode() + rest)
    assert report.status == "invalid"
    assert "DOCTYPE" in report.reason


@pytest.mark.parametrize("depth", [300, 100_000])
def test_deep_documents_do_no_harm(depth):
    report = verify(b"<a>" * depth + b"</a>" * depth, trust=pki().trust)
    assert report.status != "valid"


def test_many_references_into_the_document_are_refused(enveloped):
    """Each takes as long as the document is large."""
    info = signature(enveloped).find(f"{DS}SignedInfo")
    for _ in range(101):
        info.append(copy.deepcopy(info.find(f"{DS}Reference")))
        info[-1].attrib.pop("Id")
    assert "references" in refused(enveloped)


def test_many_signatures_are_refused():
    data = b"<a>" + b'<Signature xmlns="http://www.w3.org/2000/09/xmldsig#"/>' * 1000 + b"</a>"
    assert "more than 100 signatures" in verify(data, trust=pki().trust).reason


def test_a_broken_signature_beside_a_good_one(enveloped):
    bad = copy.deepcopy(signature(enveloped))
    for one in bad.iter():
        if one.get("Id"):
            one.set("Id", one.get("Id") + "x")
    enveloped.append(bad)
    report = report_on(enveloped)
    assert sorted(one.status for one in report.signatures) == ["invalid", "valid"]
    assert report.status == "invalid"


def test_two_good_signatures(tmp_path):
    import io

    from tokenauth.signing import xades
    from tokenauth.signing.model import Document, Job

    first = Document("order.xml", data=made(ENVELOPED_NAME, pki().keys["p256"]))
    written = io.BytesIO()
    xades.sign([first], Job(pki().keys["rsa2048"], format="xades"), written)
    report = verify(written.getvalue(), trust=pki().trust)
    assert [one.status for one in report.signatures] == ["valid", "valid"], report
    assert {one.signer for one in report.signatures} == {"CN=signer p256", "CN=signer rsa2048"}


def test_comments_inside_the_signature(enveloped):
    value = enveloped.find(f".//{DS}DigestValue")
    value.append(etree.Comment("x"))
    assert "comments" in refused(enveloped) or "more than text" in refused(enveloped)


def test_nothing_is_fetched(enveloped):
    with pytest.raises(DocumentError):
        verify(Path("/nonexistent/file.xml"))
