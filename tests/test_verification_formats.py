"""Every kind of signed file, made by tokenauth and by other programs, is recognised and verified."""

from __future__ import annotations

import datetime
import io
import json
import os
import subprocess
import threading
import zipfile
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.documents import xmlsec1
from tests.support.programs import openssl, require
from tests.support.signed_files import FORMATS, certified, key_pem, made, pdf, pki, trusting, verified
from tokenauth.errors import MechanismUnsupported
from tokenauth.signing.refusals import DocumentError
from tokenauth.signing.verification import exit_code, load_trust, verify

KINDS = ("rsa2048", "p256", "p384", "p521", "ed25519")
SIGNED_CONTENT = {
    "pades": "the whole file",
    "cades": "order.txt",
    "cades attached": "the content inside the signature",
    "xades enveloped": "the whole document, without the signatures in it",
    "xades enveloping": "the element Object (Id",
    "xades detached": "order.xml",
    "asice": "order.txt",
    "asics": "order.txt",
    "jws": "header and payload",
    "jws detached": "header and the file beside it",
}


def only(report):
    assert len(report.signatures) == 1, report
    assert report.status == report.signatures[0].status
    return report.signatures[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FORMATS)
def test_what_tokenauth_signs_is_valid(name, kind):
    key = pki().keys[kind]
    if kind == "ed25519" and FORMATS[name].module in ("xades", "asic"):
        with pytest.raises(MechanismUnsupported):
            made(name, key)
        return
    report = only(verified(name, made(name, key)))
    assert report.status == "valid", report.reason
    assert report.signer == f"CN=signer {kind}"
    assert (report.level, report.format) == ("b-b", FORMATS[name].format)
    if name != "cades attached":
        assert report.covers[0].startswith(SIGNED_CONTENT[name])
    if not name.startswith("jws"):
        assert abs(report.time - datetime.datetime.now(datetime.UTC)) < datetime.timedelta(minutes=5)


@pytest.mark.parametrize("name", [name for name in FORMATS if not name.startswith(("xades", "asic"))])
def test_rsa_pss_is_valid(name):
    key = pki().keys["rsa2048"]._replace(pss=True)
    assert only(verified(name, made(name, key))).status == "valid"


@pytest.mark.parametrize("name", FORMATS)
def test_an_issuer_that_nobody_trusts_makes_it_indeterminate(name):
    stranger = certified(pki().issuer).chain[0]
    report = only(verified(name, made(name, pki().keys["p256"]), trusting(certified(certified_root()).certificate)))
    assert report.status == "indeterminate"
    assert "not trusted" in report.reason
    assert "--trust" in report.reason
    assert stranger  # the intermediate in the file is no anchor


def certified_root():
    from tokenauth.testing import Authority

    return Authority("somebody else")


@pytest.mark.parametrize("name", [name for name in FORMATS if name.endswith("detached") or name == "cades"])
def test_a_detached_signature_is_for_the_file_beside_it(name, tmp_path):
    case = FORMATS[name]
    (tmp_path / case.document.name).write_bytes(case.document.read())
    suffix = {"cades": ".p7s", "xades": ".xades", "jws": ".jws"}[case.format]
    signature = tmp_path / f"{case.document.name}{suffix}"
    signature.write_bytes(made(name, pki().keys["p256"]))
    assert only(verify(signature, trust=pki().trust)).status == "valid"
    (tmp_path / case.document.name).write_bytes(case.document.read() + b" ")
    assert only(verify(str(signature), trust=pki().trust)).status == "invalid"
    (tmp_path / case.document.name).unlink()
    missing = verify(signature, trust=pki().trust)
    assert missing.status in ("invalid", "indeterminate")
    assert "not beside it" in (missing.reason or missing.signatures[0].reason)


def test_a_file_without_a_signature(tmp_path):
    assert verify(pdf(), trust=pki().trust).status == "indeterminate"
    assert "no signature" in verify(b"<a/>", trust=pki().trust).reason
    text = verify(b"just text", trust=pki().trust)
    assert (text.status, text.signatures) == ("indeterminate", ())
    assert "no PDF, CMS, XML, ASiC or JWS" in text.reason
    with pytest.raises(DocumentError, match="can not be read"):
        verify(tmp_path / "nothing", trust=pki().trust)
    (tmp_path / "x").write_bytes(b"text")
    (tmp_path / "x.p7s").write_bytes(b"")
    report = verify(tmp_path / "x", trust=pki().trust)
    assert (report.status, report.signatures) == ("indeterminate", ())
    assert report.reason.endswith(f"verified with the file {tmp_path / 'x.p7s'}")
    with pytest.raises(ValueError, match="zone"):
        verify(b"%PDF-", at=datetime.datetime(2026, 1, 1))


@pytest.mark.parametrize("name", ["pades", "cades attached", "xades enveloped", "asice", "jws"])
def test_what_comes_out_of_a_pipe_is_verified(name, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(made(name, pki().keys["p256"]),))
    writer.start()
    report = verify(pipe, trust=pki().trust)
    writer.join()
    assert (report.file, report.status) == (str(pipe), "valid"), report


def test_a_directory_is_no_signed_file(tmp_path):
    with pytest.raises(DocumentError, match="can not be read: Is a directory"):
        verify(tmp_path, trust=pki().trust)


def test_other_zip_files_hold_no_signature():
    """A document of an office program, for example: it is not forged, there is only nothing to verify."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as file:
        file.writestr("[Content_Types].xml", "<Types/>")
    report = verify(written.getvalue(), trust=pki().trust)
    assert (report.status, report.signatures) == ("indeterminate", ())
    assert "no signature" in report.reason


def test_the_exit_code_is_the_worst():
    good = verified("jws", made("jws", pki().keys["p256"]))
    bad = verified("jws", made("jws", pki().keys["p256"])[:-3] + b"AAA")
    doubtful = verify(pdf(), trust=pki().trust)
    assert exit_code([good]) == 0
    assert exit_code([good, doubtful]) == 11
    assert exit_code([doubtful, bad, good]) == 10


def test_the_report_as_json():
    report = verified("cades", made("cades", pki().keys["p256"])).as_json()
    assert json.loads(json.dumps(report)) == report
    assert list(report) == ["file", "status", "signatures"]
    assert list(report["signatures"][0]) == ["status", "reason", "signer", "time", "level", "format", "covers"]
    assert report["signatures"][0]["time"].endswith("+00:00")
    without = verify(pdf(), trust=pki().trust, name="x.pdf").as_json()
    assert without == {"file": "x.pdf", "status": "indeterminate", "signatures": []}


# --- made by other programs ---


@pytest.mark.parametrize("kind", ["rsa2048", "p256", "p384"])
@pytest.mark.parametrize("how", ["der", "pem", "stream"])
@pytest.mark.parametrize("attached", [False, True])
def test_openssl_cms(kind, how, attached, tmp_path):
    key, certificate, chain = key_pem(pki().keys[kind], tmp_path)
    (tmp_path / "data").write_bytes(b"some data" * 50)
    options: list[str | Path] = ["-outform", "PEM" if how == "pem" else "DER", *(["-nodetach"] if attached else [])]
    options += ["-stream"] if how == "stream" else []
    signer: list[str | Path] = ["-signer", certificate, "-inkey", key, "-certfile", chain, "-binary"]
    openssl("cms", "-sign", "-cades", *signer, *options, "-in", tmp_path / "data", "-out", tmp_path / "data.p7s")
    report = only(verify(tmp_path / "data.p7s", trust=pki().trust))
    assert (report.status, report.level) == ("valid", "b-b"), report.reason
    (tmp_path / "data").write_bytes(b"other data")
    assert verify(tmp_path / "data.p7s", trust=pki().trust).status == "invalid"


def test_openssl_cms_with_two_signers(tmp_path):
    (tmp_path / "data").write_bytes(b"some data")
    signers: list[str | Path] = []
    for kind in ("rsa2048", "p256"):
        (tmp_path / kind).mkdir()
        key, certificate, chain = key_pem(pki().keys[kind], tmp_path / kind)
        signers += ["-signer", certificate, "-inkey", key, "-certfile", chain]
    out: list[str | Path] = ["-outform", "DER", "-in", tmp_path / "data", "-out", tmp_path / "data.p7s"]
    openssl("cms", "-sign", "-binary", "-cades", *signers, *out)
    report = verify(tmp_path / "data.p7s", trust=pki().trust)
    assert sorted(one.signer for one in report.signatures) == ["CN=signer p256", "CN=signer rsa2048"]
    assert report.status == "valid"


def test_a_cms_without_the_signer_s_certificate_in_what_is_signed_has_no_level(tmp_path):
    key, certificate, chain = key_pem(pki().keys["p256"], tmp_path)
    (tmp_path / "data").write_bytes(b"some data")
    signer: list[str | Path] = ["-signer", certificate, "-inkey", key, "-certfile", chain, "-binary", "-outform", "DER"]
    files: list[str | Path] = ["-in", tmp_path / "data", "-out", tmp_path / "data.p7s"]
    openssl("cms", "-sign", *signer, *files)
    report = only(verify(tmp_path / "data.p7s", trust=pki().trust))
    assert (report.status, report.level) == ("valid", "")
    assert "does not cover the signer's certificate" in report.reason
    openssl("cms", "-sign", "-noattr", *signer, *files)
    assert only(verify(tmp_path / "data.p7s", trust=pki().trust)).status == "indeterminate"


TEMPLATE = """<?xml version="1.0"?>
<order><item>ten apples</item>
<Signature xmlns="http://www.w3.org/2000/09/xmldsig#"><SignedInfo>
<CanonicalizationMethod Algorithm="{form}"/>
<SignatureMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#{method}"/>
<Reference URI=""><Transforms><Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"/>
<Transform Algorithm="{form}"/></Transforms>
<DigestMethod Algorithm="{digest}"/><DigestValue/></Reference></SignedInfo><SignatureValue/>
<KeyInfo><X509Data><X509Certificate/></X509Data></KeyInfo></Signature></order>
"""
PARTIAL = (
    TEMPLATE.partition("\n")[2]
    .replace("<order><item>ten apples</item>", '<r xmlns="urn:a"><a><b Id="x"><k xmlns="urn:b"/><k/></b></a>')
    .replace("</order>", "</r>")
    .replace('URI=""', 'URI="#x"')
    .replace('<Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"/>', "")
)
FORMS = ("http://www.w3.org/TR/2001/REC-xml-c14n-20010315", "http://www.w3.org/2001/10/xml-exc-c14n#")
SHA256 = "http://www.w3.org/2001/04/xmlenc#sha256"


def xmlsec_signed(directory: Path, kind: str, template: str) -> Path:
    key, certificate, chain = key_pem(pki().keys[kind], directory)
    (directory / "template.xml").write_text(template)
    command: list[str | Path] = [
        *(require("xmlsec1"), "--sign", "--privkey-pem", f"{key},{certificate},{chain}"),
        *("--output", directory / "signed.xml", directory / "template.xml"),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return directory / "signed.xml"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("kind", "method"), [("rsa2048", "rsa-sha256"), ("p256", "ecdsa-sha256")])
def test_xmlsec1(kind, method, form, tmp_path):
    signed = xmlsec_signed(tmp_path, kind, TEMPLATE.format(form=form, method=method, digest=SHA256))
    report = only(verify(signed, trust=pki().trust))
    assert (report.status, report.level) == ("valid", ""), report.reason
    signed.write_bytes(signed.read_bytes().replace(b"ten", b"two"))
    assert only(verify(signed, trust=pki().trust)).status == "invalid"


@pytest.mark.parametrize("form", FORMS)
def test_xmlsec1_signs_an_element_whose_namespace_is_declared_above(form, tmp_path):
    template = PARTIAL.format(form=form, method="ecdsa-sha256", digest=SHA256)
    signed = xmlsec_signed(tmp_path, "p256", "<!DOCTYPE r [<!ATTLIST b Id ID #IMPLIED>]>" + template)
    signed.write_bytes(signed.read_bytes().replace(b"<!DOCTYPE r [\n<!ATTLIST b Id ID #IMPLIED>\n]>", b""))
    report = only(verify(signed, trust=pki().trust))
    assert (report.status, report.covers) == ("valid", ("the element b (Id x)",)), report.reason


def test_sha1_in_xml_is_not_valid(tmp_path):
    sha1 = "http://www.w3.org/2000/09/xmldsig#sha1"
    signed = xmlsec_signed(tmp_path, "rsa2048", TEMPLATE.format(form=FORMS[0], method="rsa-sha256", digest=sha1))
    report = only(verify(signed, trust=pki().trust))
    assert report.status == "indeterminate"
    assert "SHA1" in report.reason


@pytest.mark.parametrize("kind", ["rsa2048", "p256"])
def test_pyhanko(kind, tmp_path):
    from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter
    from pyhanko.sign import PdfSignatureMetadata, signers
    from pyhanko.sign.fields import SigSeedSubFilter

    signer = signers.SimpleSigner.load(*key_pem(pki().keys[kind], tmp_path)[:2], [tmp_path / "chain.pem"])
    for subfilter, name in ((SigSeedSubFilter.PADES, "A"), (SigSeedSubFilter.ADOBE_PKCS7_DETACHED, "B")):
        meta = PdfSignatureMetadata(field_name=name, subfilter=subfilter)
        out = signers.sign_pdf(IncrementalPdfFileWriter(io.BytesIO(pdf())), meta, signer=signer)
        report = only(verify(out.getvalue(), trust=pki().trust))
        assert (report.status, report.covers) == ("valid", ("the whole file",)), report.reason


ALGORITHMS = {"RS256": "rsa2048", "PS256": "rsa2048", "ES256": "p256", "ES384": "p384", "ES512": "p521"}


@pytest.mark.parametrize(("algorithm", "kind"), [*ALGORITHMS.items(), ("EdDSA", "ed25519")])
def test_pyjwt(algorithm, kind):
    import base64

    key = pki().keys[kind]
    certificates = [base64.b64encode(one.public_bytes(Encoding.DER)).decode() for one in (key.certificate, *key.chain)]
    headers = {"x5c": certificates, "iat": 1_780_000_000}
    token = jwt.encode({"sub": "me"}, key.private_key, algorithm=algorithm, headers=headers)
    report = only(verify(token.encode(), trust=pki().trust))
    assert report.status == "valid", report.reason
    assert report.time == datetime.datetime.fromtimestamp(1_780_000_000, datetime.UTC)


# --- agreement with the judges ---


def pdfsig(file: Path, directory: Path) -> str:
    """What ``pdfsig`` says with a database that trusts the test root; its exit code says nothing."""
    database = directory / "nss"
    if not database.exists():
        database.mkdir()
        subprocess.run([require("certutil"), "-N", "-d", f"sql:{database}", "--empty-password"], check=True)
        (directory / "root.pem").write_bytes(pki().root.pem)
        trust: list[str | Path] = ["-A", "-n", "root", "-t", "CT,CT,CT", "-i", directory / "root.pem"]
        subprocess.run([require("certutil"), "-d", f"sql:{database}", *trust], check=True)
    done = subprocess.run(
        [require("pdfsig"), "-nssdir", database, file], check=False, capture_output=True, text=True, timeout=60
    )
    return done.stdout


@pytest.mark.parametrize("kind", ["rsa2048", "p256"])
def test_pdfsig_agrees(kind, tmp_path):
    data = made("pades", pki().keys[kind])
    good, bad = tmp_path / "good.pdf", tmp_path / "bad.pdf"
    good.write_bytes(data)
    bad.write_bytes(data.replace(b"ten apples", b"two apples"))
    for file, verdict in ((good, "valid"), (bad, "invalid")):
        assert only(verify(file, trust=pki().trust)).status == verdict
        said = "Signature is Valid" if verdict == "valid" else "Digest Mismatch"
        assert said in pdfsig(file, tmp_path)


@pytest.mark.parametrize("kind", ["rsa2048", "p256", "p384", "p521"])
def test_openssl_agrees(kind, tmp_path):
    (tmp_path / "root.pem").write_bytes(pki().root.pem)
    document = FORMATS["cades"].document
    (tmp_path / document.name).write_bytes(document.read())
    signature = tmp_path / f"{document.name}.p7s"
    signature.write_bytes(made("cades", pki().keys[kind]))
    check: list[str | Path] = [
        "cms",
        "-verify",
        "-cades",
        "-binary",
        "-inform",
        "DER",
        "-in",
        signature,
        "-purpose",
        "any",
    ]
    check += ["-content", tmp_path / document.name, "-CAfile", tmp_path / "root.pem", "-out", tmp_path / "out"]
    openssl(*check)
    assert only(verify(signature, trust=pki().trust)).status == "valid"
    (tmp_path / document.name).write_bytes(b"changed")
    with pytest.raises(AssertionError, match="exited with"):
        openssl(*check)
    assert only(verify(signature, trust=pki().trust)).status == "invalid"


@pytest.mark.parametrize("name", ["xades enveloped", "xades enveloping"])
def test_xmlsec1_agrees(name, tmp_path):
    (tmp_path / "root.pem").write_bytes(pki().root.pem)
    good, bad = tmp_path / "good.xml", tmp_path / "bad.xml"
    data = made(name, pki().keys["p256"])
    good.write_bytes(data)
    change = (b"ten apples", b"two apples") if name == "xades enveloped" else (b"PG9yZG", b"PG9yZH")
    assert change[0] in data
    bad.write_bytes(data.replace(*change))
    for file, verdict in ((good, "valid"), (bad, "invalid")):
        assert (xmlsec1(file, tmp_path / "root.pem") == "") == (verdict == "valid")
        assert only(verify(file, trust=pki().trust)).status == verdict


def test_trust_comes_from_files(tmp_path):
    data = made("jws", pki().keys["p256"])
    (tmp_path / "two.pem").write_bytes(pki().issuer.pem + pki().root.pem)
    (tmp_path / "one.der").write_bytes(pki().root.certificate.public_bytes(Encoding.DER))
    for file in ("two.pem", "one.der"):
        assert verify(data, trust=load_trust([tmp_path / file])).status == "valid"
    (tmp_path / "no.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (tmp_path / "no.txt").write_bytes(b"hello")
    for file in ("no.pem", "no.txt"):
        with pytest.raises(DocumentError, match="holds no certificates"):
            load_trust([tmp_path / file])
    with pytest.raises(DocumentError, match="can not be read"):
        load_trust([tmp_path / "nothing"])
    assert verify(data, trust=load_trust([], system=True)).status == "indeterminate"
    assert verify(data).status == "indeterminate"
