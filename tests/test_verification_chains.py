"""Who stands behind a signature: expired, revoked, weak or wrong keys; time stamps; JWS headers; trusted lists."""

from __future__ import annotations

import base64
import datetime
import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from tests.support import common_name
from tests.support.programs import openssl
from tests.support.revocation import AskableAuthority
from tests.support.signed_files import FORMATS, certified, made, pki, trusting, verified
from tests.test_verification_formats import only
from tokenauth.signing.model import Document, Job, SigningKey
from tokenauth.signing.refusals import DocumentError
from tokenauth.signing.verification import Anchor, Trust, load_trust, verify
from tokenauth.testing import Authority

NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
HOUR, DAY = datetime.timedelta(hours=1), datetime.timedelta(days=1)
SCRIPT = Path(__file__).parent / "support" / "verify_script.py"
NAMES = ("pades", "cades", "xades enveloped", "asice", "jws")


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


@pytest.mark.parametrize("name", NAMES)
def test_an_expired_certificate(name):
    key = certified(pki().issuer, not_before=NOW - 2 * HOUR, not_after=NOW + HOUR)
    data = made(name, key)
    assert verified(name, data).status == "valid"
    report = only(verified(name, data, at=NOW + 2 * HOUR))
    assert report.status == "indeterminate"
    assert "expired" in report.reason
    assert "no trusted time stamp" in report.reason
    assert only(verified(name, data, at=NOW - 3 * HOUR)).status == "indeterminate"


@pytest.mark.parametrize("name", NAMES)
def test_a_certificate_that_is_not_for_signing(name):
    from tests.support.signed_files import _MAKERS

    key = _MAKERS["p256"]()
    builder = x509.CertificateBuilder().subject_name(common_name("encrypts")).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(NOW - HOUR).not_valid_after(NOW + DAY)
    usages = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign"
    )
    bits = dict.fromkeys([*usages.split(), "encipher_only", "decipher_only"], False)
    builder = builder.add_extension(x509.KeyUsage(**{**bits, "key_agreement": True}), critical=True)
    certificate = pki().issuer._certify(builder)
    report = only(verified(name, made(name, SigningKey(certificate, pki().issuer.chain, key, "sha256"))))
    assert report.status == "indeterminate"
    assert "key usage" in report.reason


def test_a_ca_s_own_key_is_not_for_documents():
    ca = pki().issuer
    key = SigningKey(ca.certificate, (), ca._key, "sha256")
    report = only(verified("jws", made("jws", key)))
    assert report.status == "indeterminate"
    assert "does not allow signatures of documents" in report.reason


def test_an_end_entity_can_not_issue():
    """The issuer is an ordinary certificate of the trusted CA."""
    middle = certified(pki().issuer)
    fake = Authority("fake")
    fake.certificate, fake._key, fake.parent = middle.certificate, middle.private_key, pki().issuer
    report = only(verified("jws", made("jws", certified(fake))))
    assert report.status == "indeterminate"


@pytest.mark.parametrize("name", NAMES)
def test_a_weak_key(name):
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    request = x509.CertificateSigningRequestBuilder().subject_name(common_name("weak")).sign(key, hashes.SHA256())
    certificate = pki().issuer.issue(request, purposes=("document",))
    report = only(verified(name, made(name, SigningKey(certificate, pki().issuer.chain, key, "sha256"))))
    assert report.status == "indeterminate"
    assert "RSA key of 1024 bits" in report.reason


def test_the_signer_s_own_certificate_can_be_trusted():
    key = pki().keys["p256"]
    data = made("jws", key)
    assert verified("jws", data, trusting(key.certificate)).status == "valid"
    assert verified("jws", data, trusting(key.certificate), at=NOW + 3650 * DAY).status == "indeterminate"
    assert verified("jws", data, Trust()).status == "indeterminate"


# --- revocation ---


def crl(issuer: Authority, revoked: dict[int, datetime.datetime], *, at: datetime.datetime = NOW) -> bytes:
    builder = x509.CertificateRevocationListBuilder(issuer.certificate.subject, at - HOUR, at + DAY)
    for serial, when in revoked.items():
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(issuer._key, hashes.SHA256()).public_bytes(Encoding.DER)


@pytest.mark.parametrize("name", ["pades", "cades", "xades enveloped", "asice"])
@pytest.mark.parametrize(
    ("revoked", "status", "words"),
    [(-DAY, "invalid", "before the signature was made"), (-HOUR / 60, "invalid", "before the signature was made")],
)
def test_revoked_before_it_signed(name, revoked, status, words, tmp_path):
    key = certified(pki().issuer, not_before=NOW - 3 * DAY)
    lists = [crl(pki().issuer, {key.certificate.serial_number: NOW + revoked}), crl(pki().root, {})]
    report = only(verified(name, made(name, key), pki().trust._replace(crls=tuple(lists))))
    assert (report.status, report.level) == (status, "")
    assert words in report.reason


def test_revoked_after_it_says_it_signed_is_not_certain():
    """Without a time stamp nothing proves what the signer says."""
    key = certified(pki().issuer)
    data = made("cades", key)
    later = NOW + HOUR
    lists = (crl(pki().issuer, {key.certificate.serial_number: later}, at=NOW + 2 * HOUR), crl(pki().root, {}))
    report = only(verified("cades", data, pki().trust._replace(crls=lists), at=NOW + 2 * HOUR))
    assert report.status == "indeterminate"
    assert "no trusted time stamp" in report.reason


@pytest.mark.parametrize("whose", ["intermediate", "nobody"])
def test_a_revoked_intermediate(whose):
    root = Authority("root of a revoked one")
    issuer = root.intermediate("revoked one")
    revoked = {issuer.certificate.serial_number: NOW - DAY} if whose == "intermediate" else {}
    trust = trusting(root.certificate)._replace(crls=(crl(root, revoked), crl(issuer, {})))
    report = only(verified("cades", made("cades", certified(issuer)), trust))
    assert report.status == ("indeterminate" if revoked else "valid")
    assert ("revoked" in report.reason) == bool(revoked)


def test_crls_come_from_files_too(tmp_path):
    key = certified(pki().issuer)
    lists = [crl(pki().issuer, {key.certificate.serial_number: NOW - DAY}), crl(pki().root, {})]
    pem = b"".join(x509.load_der_x509_crl(one).public_bytes(Encoding.PEM) for one in lists)
    (tmp_path / "crls.pem").write_bytes(pem)
    (tmp_path / "crl.der").write_bytes(lists[0])
    (tmp_path / "root.pem").write_bytes(pki().root.pem)
    data = made("cades", key)
    for file in ("crls.pem", "crl.der"):
        assert verified("cades", data, load_trust([tmp_path / "root.pem", tmp_path / file])).status == "invalid"
    (tmp_path / "both.pem").write_bytes(pki().root.pem + pem)
    assert verified("cades", data, load_trust([tmp_path / "both.pem"])).status == "invalid"


def test_a_forged_crl_counts_for_nothing():
    """One signed by somebody else says neither that a certificate is good nor that it is not."""
    other = Authority("verification issuer")
    key = certified(pki().issuer)
    lists = (crl(other, {key.certificate.serial_number: NOW - DAY}), crl(pki().root, {}))
    assert verified("cades", made("cades", key), pki().trust._replace(crls=lists)).status == "valid"


@pytest.mark.parametrize("name", ["pades", "cades", "xades enveloped", "asice"])
def test_where_revocations_could_be_learned_of_they_must_be(name, document_keys):
    """Offline nothing is known; online it is asked; at level B-LT the file has it."""
    trust = load_trust([document_keys.root_pem])
    key = document_keys.keys["p256"]
    report = only(verified(name, made(name, key), trust))
    assert report.status == "indeterminate"
    assert "revoked is not known" in report.reason
    assert only(verified(name, made(name, key), trust._replace(online=True))).status == "valid"


LEVEL_NAMES = ["pades", "cades", "xades enveloped", "asice"]


@pytest.mark.parametrize("level", ["b-t", "b-lt", "b-lta"])
@pytest.mark.parametrize("name", LEVEL_NAMES)
def test_levels(name, level, document_keys):
    data = made(name, document_keys.keys["p256"], level, document_keys.means)
    online = load_trust([document_keys.root_pem], online=level == "b-t")
    report = only(verified(name, data, online))
    assert (report.status, report.level, report.reason) == ("valid", level, "")
    assert abs(report.time - datetime.datetime.now(datetime.UTC)) < 5 * HOUR / 60


@pytest.mark.parametrize("level", ["b-lt", "b-lta"])
@pytest.mark.parametrize("name", LEVEL_NAMES)
def test_levels_with_revocation_lists(name, level, document_keys):
    """Where no OCSP responder is named, CRLs are the evidence."""
    running = document_keys.services
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "has_ocsp", False)
        issuer = AskableAuthority(running, f"lists {name} {level}".replace(" ", "-"), document_keys.root)
        key = certified(issuer)
    data = made(name, key, level, document_keys.means)
    report = only(verified(name, data, load_trust([document_keys.root_pem])))
    assert (report.status, report.level, report.reason) == ("valid", level, "")


@pytest.mark.parametrize("name", LEVEL_NAMES)
def test_levels_in_a_program_that_only_verifies(name, document_keys, tmp_path):
    """Readers of ASN.1 learn of time stamps' contents by an import, which in these tests the signers have done."""
    file = tmp_path / FORMATS[name].document.name
    signed = file.with_name(file.name + ".p7s") if name == "cades" else file
    file.write_bytes(FORMATS[name].document.read())
    signed.write_bytes(made(name, document_keys.keys["p256"], "b-lta", document_keys.means))
    command = [sys.executable, str(SCRIPT), str(signed), str(document_keys.root_pem)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.split(), done.returncode) == (["valid", "b-lta"], 0), done.stderr


@pytest.mark.parametrize("name", LEVEL_NAMES)
def test_a_time_stamp_outlives_the_signer_s_certificate(name, document_keys):
    """The authority's certificate is good for 30 days, as the signer's; a day later only its own is not enough."""
    key = document_keys.keys["p256"]
    data = made(name, key, "b-lt", document_keys.means)
    trust = load_trust([document_keys.root_pem])
    report = only(verified(name, data, trust, at=key.certificate.not_valid_after_utc + DAY))
    assert report.status == "indeterminate"
    assert "expired" in report.reason


@pytest.mark.parametrize("name", NAMES)
def test_a_root_that_signed_itself_with_sha1(name, tmp_path):
    """Many old ones did. Nothing rests on that signature, and it is no damage."""
    request, root = ("req", "-newkey", "rsa:2048", "-nodes"), tmp_path / "root.pem"
    openssl(*request, "-x509", "-sha1", "-subj", "/CN=old root", "-keyout", tmp_path / "root.key", "-out", root)
    openssl(*request, "-subj", "/CN=signer", "-keyout", tmp_path / "key.pem", "-out", tmp_path / "request")
    issued = ("-CA", root, "-CAkey", tmp_path / "root.key", "-out", tmp_path / "signer.pem")
    openssl("x509", "-req", "-in", tmp_path / "request", *issued)
    certificate, issuer = (
        x509.load_pem_x509_certificate((tmp_path / f"{one}.pem").read_bytes()) for one in ("signer", "root")
    )
    key = load_pem_private_key((tmp_path / "key.pem").read_bytes(), None)
    report = only(verified(name, made(name, SigningKey(certificate, (issuer,), key, "sha256")), trusting(issuer)))
    assert (report.status, report.level) == ("valid", "b-b"), report.reason


@pytest.mark.parametrize("name", LEVEL_NAMES)
def test_a_time_stamp_that_names_its_signer_by_sha1(name, document_keys):
    """As RFC 2634 has it, which most authorities still follow: nobody makes another certificate to a given digest."""
    configuration = document_keys.services.directory / "tsa.conf"
    before = configuration.read_text()
    configuration.write_text(before.replace("ess_cert_id_alg = sha256", "ess_cert_id_alg = sha1"))
    try:
        data = made(name, document_keys.keys["p256"], "b-lt", document_keys.means)
    finally:
        configuration.write_text(before)
    report = only(verified(name, data, load_trust([document_keys.root_pem])))
    assert (report.status, report.level, report.reason) == ("valid", "b-lt", "")


@pytest.mark.parametrize("name", LEVEL_NAMES)
def test_a_time_stamp_of_somebody_unknown_proves_nothing(name, document_keys):
    data = made(name, pki().keys["p256"], "b-t", document_keys.means)
    report = only(verified(name, data))
    assert (report.status, report.level) == ("valid", "b-b")
    assert "a time stamp proves nothing" in report.reason
    assert "the time is the signer's word" in report.reason


@pytest.mark.parametrize(("revoked", "status"), [(HOUR, "valid"), (-HOUR, "invalid")])
@pytest.mark.parametrize("name", LEVEL_NAMES)
def test_revoked_after_a_time_stamp_and_before(name, revoked, status, document_keys):
    key, issuer = document_keys.keys["p256"], document_keys.token.ca
    data = made(name, key, "b-t", document_keys.means)
    now, at = datetime.datetime.now(datetime.UTC).replace(microsecond=0), NOW + 3 * HOUR
    lists = (crl(issuer, {key.certificate.serial_number: now + revoked}, at=at), crl(document_keys.root, {}, at=at))
    trust = load_trust([document_keys.root_pem])._replace(crls=lists)
    report = only(verified(name, data, trust, at=at))
    assert report.status == status, report.reason
    assert report.level == ("b-t" if status == "valid" else "")


def test_a_time_stamp_of_another_signature(document_keys):
    """Taken from one signature and put into another."""
    from lxml import etree

    token = "{http://uri.etsi.org/01903/v1.3.2#}EncapsulatedTimeStamp"
    first, second = (
        etree.fromstring(made("xades enveloped", document_keys.keys["p256"], "b-t", document_keys.means))
        for _ in range(2)
    )
    second.find(f".//{token}").text = first.find(f".//{token}").text
    trust = load_trust([document_keys.root_pem], online=True)
    report = only(verified("xades enveloped", etree.tostring(second.getroottree()), trust))
    assert report.status == "indeterminate"
    assert "over something else" in report.reason
    assert report.level == "b-b"


# --- JWS headers ---


def token(header: dict[str, object], payload: bytes = b"{}", sign=None) -> bytes:
    def encoded(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    text = encoded(json.dumps(header).encode()) + b"." + encoded(payload)
    return text + b"." + encoded(sign(text) if sign else b"")


def x5c(key: SigningKey) -> list[str]:
    return [base64.b64encode(der(one)).decode() for one in (key.certificate, *key.chain)]


def test_jws_without_a_signature():
    for algorithm in ("none", "None", "", None, 1, ["RS256"]):
        report = only(verify(token({"alg": algorithm, "x5c": x5c(pki().keys["rsa2048"])}), trust=pki().trust))
        assert report.status == "invalid"
        assert "not accepted" in report.reason


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_jws_with_the_public_key_as_a_secret(algorithm):
    key = pki().keys["rsa2048"]
    for secret in (der(key.certificate), key.certificate.public_bytes(Encoding.PEM)):
        import hmac

        def sign(text: bytes, secret=secret) -> bytes:
            return hmac.new(secret, text, getattr(hashlib, f"sha{algorithm[2:]}")).digest()

        report = only(verify(token({"alg": algorithm, "x5c": x5c(key)}, sign=sign), trust=pki().trust))
        assert report.status == "invalid"
        assert "not accepted" in report.reason


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"x5c": None}, "indeterminate", "does not hold its signer's certificate"),
        ({"x5c": []}, "invalid", "no list"),
        ({"x5c": "abc"}, "invalid", "no list"),
        ({"x5c": [1]}, "invalid", "no list"),
        ({"x5c": ["!"]}, "invalid", "no base64"),
        ({"x5c": ["AAAA"]}, "invalid", "can not be read"),
        ({"x5t#S256": "AAAA"}, "invalid", "another certificate's"),
        ({"x5t": 5}, "invalid", "another certificate's"),
        ({"crit": ["exp"]}, "indeterminate", "extensions"),
        ({"crit": "b64"}, "indeterminate", "extensions"),
        ({"b64": False}, "invalid", "forbidden way"),
        ({"crit": ["b64"], "b64": False}, "invalid", "not there"),
        ({"alg": "ES256"}, "invalid", "does not fit"),
        ({"alg": "EdDSA"}, "invalid", "does not fit"),
        ({"alg": "PS256"}, "invalid", "does not verify"),
    ],
)
def test_jws_headers(changes, status, words):
    key = pki().keys["rsa2048"]
    header = {"alg": "RS256", "x5c": x5c(key), **changes}
    header = {name: value for name, value in header.items() if value is not None}
    report = only(verify(token(header, sign=key.sign), trust=pki().trust))
    assert report.status == status
    assert words in report.reason


def test_jws_with_another_certificate():
    key, other = pki().keys["rsa2048"], certified(pki().issuer, "rsa2048")
    report = only(verify(token({"alg": "RS256", "x5c": x5c(other)}, sign=key.sign), trust=pki().trust))
    assert report.status == "invalid"


def test_jws_keys_in_the_header_are_not_used():
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(stranger.public_key()))
    for more in ({}, {"x5c": x5c(pki().keys["rsa2048"])}):
        forged = jwt.encode({}, stranger, algorithm="RS256", headers={"jwk": jwk, "kid": "x", **more})
        assert verify(forged.encode(), trust=pki().trust).status != "valid"


def test_jws_with_a_name_twice():
    head = base64.urlsafe_b64encode(b'{"alg":"RS256","alg":"none"}').rstrip(b"=")
    report = only(verify(head + b".AAAA.AAAA", trust=pki().trust))
    assert report.status == "invalid"
    assert "a name twice" in report.reason


def test_jws_written_in_another_way():
    data = made("jws", pki().keys["p256"])
    assert verify(data + b"\n", trust=pki().trust).status == "valid"
    for other in (data + b"=", data + b" ", data.replace(b".", b"..", 1), data + b"\n\n", data.rpartition(b".")[0]):
        assert verify(other, trust=pki().trust).status == "invalid"


# --- trusted lists ---

LIST = """<?xml version="1.0" encoding="UTF-8"?>
<TrustServiceStatusList xmlns="http://uri.etsi.org/02231/v2#" Id="list"><SchemeInformation>
<NextUpdate><dateTime>{until}</dateTime></NextUpdate></SchemeInformation>
<TrustServiceProviderList><TrustServiceProvider><TSPServices><TSPService><ServiceInformation>
<ServiceTypeIdentifier>http://uri.etsi.org/TrstSvc/Svctype/{kind}</ServiceTypeIdentifier>
<ServiceDigitalIdentity><DigitalId><X509Certificate>{certificate}</X509Certificate></DigitalId>
<DigitalId><X509Certificate>AAAA</X509Certificate></DigitalId></ServiceDigitalIdentity>
<ServiceStatus>http://uri.etsi.org/TrstSvc/TrustedList/Svcstatus/{state}</ServiceStatus>
<StatusStartingTime>{since}</StatusStartingTime></ServiceInformation>
<ServiceHistory><ServiceHistoryInstance>
<ServiceTypeIdentifier>http://uri.etsi.org/TrstSvc/Svctype/{kind}</ServiceTypeIdentifier>
<ServiceStatus>http://uri.etsi.org/TrstSvc/TrustedList/Svcstatus/granted</ServiceStatus>
<StatusStartingTime>2020-01-01T00:00:00Z</StatusStartingTime></ServiceHistoryInstance></ServiceHistory>
</TSPService></TSPServices></TrustServiceProvider></TrustServiceProviderList></TrustServiceStatusList>
"""


def trusted_list(kind="CA/QC", state="granted", since=NOW - 10 * DAY, until=NOW + DAY) -> bytes:
    encoded = base64.b64encode(der(pki().issuer.certificate)).decode()
    text = LIST.format(kind=kind, state=state, since=since.isoformat(), until=until.isoformat(), certificate=encoded)
    return text.encode()


def signed_list(key: SigningKey, data: bytes) -> bytes:
    from tokenauth.signing import xades

    written = io.BytesIO()
    xades.sign([Document("list.xml", data=data)], Job(key, format="xades"), written)
    return written.getvalue()


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ({}, "valid"),
        ({"kind": "CA/PKC"}, "valid"),
        ({"kind": "TSA/QTST"}, "indeterminate"),
        ({"kind": "Certstatus/OCSP/QC"}, "indeterminate"),
        ({"state": "withdrawn"}, "indeterminate"),
        ({"state": "withdrawn", "since": NOW + DAY}, "valid"),
    ],
)
def test_services_of_a_trusted_list(how, status, tmp_path):
    (tmp_path / "list.xml").write_bytes(trusted_list(**how))
    report = only(verified("jws", made("jws", pki().keys["p256"]), load_trust([tmp_path / "list.xml"])))
    assert report.status == status
    if status == "valid":
        assert "the trusted list list.xml was not itself checked" in report.reason


def test_a_trusted_list_s_own_signature(tmp_path):
    operator = certified(Authority("operator"))
    file, signer, stranger = (tmp_path / name for name in ("list.xml", "signer.pem", "stranger.pem"))
    file.write_bytes(signed_list(operator, trusted_list()))
    signer.write_bytes(operator.certificate.public_bytes(Encoding.PEM))
    stranger.write_bytes(pki().root.pem)
    trust = load_trust([file], list_signers=[signer])
    report = only(verified("jws", made("jws", pki().keys["p256"]), trust))
    assert report.status == "valid"
    assert "list" not in report.reason
    with pytest.raises(DocumentError, match="signed by somebody else"):
        load_trust([file], list_signers=[stranger])
    file.write_bytes(file.read_bytes().replace(b"granted", b"Granted"))
    with pytest.raises(DocumentError, match="not good"):
        load_trust([file], list_signers=[signer])
    file.write_bytes(trusted_list())
    with pytest.raises(DocumentError, match="0 signatures"):
        load_trust([file], list_signers=[signer])


def test_an_old_trusted_list_says_so(tmp_path):
    (tmp_path / "list.xml").write_bytes(trusted_list(until=NOW - DAY))
    report = only(verified("jws", made("jws", pki().keys["p256"]), load_trust([tmp_path / "list.xml"])))
    assert "out of date" in report.reason


@pytest.mark.parametrize("content", [b"<a/>", b"<!DOCTYPE a><a/>", b"<a", LIST.encode()])
def test_what_is_no_trusted_list(content, tmp_path):
    (tmp_path / "list.xml").write_bytes(content)
    with pytest.raises(DocumentError, match=r"list\.xml"):
        load_trust([tmp_path / "list.xml"])


def test_an_anchor_has_a_time():
    old = Anchor(der(pki().root.certificate), since=NOW + DAY)
    assert verified("jws", made("jws", pki().keys["p256"]), Trust((old,))).status == "indeterminate"


# --- from anywhere ---


def test_inside_an_event_loop_and_in_threads():
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    data = {name: made(name, pki().keys["p256"]) for name in NAMES}

    async def inside() -> list[str]:
        return [verified(name, content).status for name, content in data.items()]

    assert set(asyncio.run(inside())) == {"valid"}
    with ThreadPoolExecutor(4) as pool:
        reports = pool.map(lambda name: verified(name, data[name]).status, NAMES * 4)
        assert set(reports) == {"valid"}


def test_pyhanko_s_tracebacks_stay_off_the_terminal():
    import subprocess
    import sys

    script = (
        "from tests.support.signed_files import FORMATS, certified, made, pki, verified\n"
        "from tokenauth.signing.verification import Trust\n"
        "print(verified('pades', made('pades', pki().keys['p256']), Trust()).status)\n"
        "print(verified('cades', made('cades', pki().keys['p256']), Trust()).status)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("indeterminate\nindeterminate\n", "")
