from __future__ import annotations

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.support import client_context, client_pair, common_name, signing_request
from tests.support.programs import openssl
from tokenauth.errors import TokenAuthError
from tokenauth.testing.authority import Authority

if TYPE_CHECKING:
    from pathlib import Path

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
def csr(key) -> x509.CertificateSigningRequest:
    return signing_request(common_name("Ada, née Byron"), key)


def verify(directory: Path, authority: Authority, leaf: bytes, purpose: str) -> bytes:
    """`openssl verify` as strict as it can be, trusting the root alone."""
    files = {
        "root.pem": authority.root.pem,
        "chain.pem": b"".join(link.public_bytes(Encoding.PEM) for link in authority.chain),
        "leaf.pem": leaf,
    }
    for name, content in files.items():
        (directory / name).write_bytes(content)
    options = ["-x509_strict", "-check_ss_sig", "-purpose", purpose, "-CAfile", str(directory / "root.pem")]
    if authority.chain:
        options += ["-untrusted", str(directory / "chain.pem")]
    return openssl("verify", *options, directory / "leaf.pem")


@pytest.mark.parametrize("key_type", ["ec", "rsa"])
@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize(
    ("purpose", "openssl_purpose"),
    [("tls-client", "sslclient"), ("tls-server", "sslserver"), ("document", "smimesign")],
)
def test_openssl_accepts_the_chain_strictly(tmp_path, csr, key_type, depth, purpose, openssl_purpose):
    authority = Authority(key_type=key_type)
    for level in range(depth):
        authority = authority.intermediate(f"level {level}", key_type)
    leaf = authority.issue(csr, purposes=(purpose,), subject_alternative_names=["localhost"])
    assert len(authority.chain) == depth
    assert verify(tmp_path, authority, leaf.public_bytes(Encoding.PEM), openssl_purpose).endswith(b": OK\n")


@pytest.mark.parametrize(("purpose", "wrong"), [("tls-client", "sslserver"), ("document", "sslclient")])
def test_openssl_refuses_a_certificate_for_another_purpose(tmp_path, authority, csr, purpose, wrong):
    leaf = authority.issue(csr, purposes=(purpose,)).public_bytes(Encoding.PEM)
    with pytest.raises(AssertionError, match="unsuitable certificate purpose"):
        verify(tmp_path, authority, leaf, wrong)


def test_openssl_refuses_a_certificate_of_another_authority(tmp_path, authority, csr):
    leaf = Authority("another CA").issue(csr).public_bytes(Encoding.PEM)
    with pytest.raises(AssertionError, match="unable to get local issuer certificate"):
        verify(tmp_path, authority, leaf, "sslclient")


def test_authorities_sign_certificates_and_revocation_lists_only(authority):
    for certificate in (authority.certificate, authority.intermediate().certificate):
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
        assert (constraints.critical, constraints.value.ca) == (True, True)
        assert (usage.critical, usage.value.key_cert_sign, usage.value.crl_sign) == (True, True, True)
        assert not usage.value.digital_signature


def test_takes_subject_and_key_from_the_request(authority, key, csr):
    certificate = authority.issue(csr)
    assert certificate.subject == csr.subject
    assert certificate.public_key() == key.public_key()
    assert certificate.issuer == authority.certificate.subject
    certificate.verify_directly_issued_by(authority.certificate)


def test_serial_numbers_differ(authority, csr):
    assert len({authority.issue(csr).serial_number for _ in range(10)}) == 10


def test_purposes_add_up(authority, csr):
    extensions = authority.issue(csr, purposes=("tls-client", "tls-server", "document")).extensions
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert (usage.value.digital_signature, usage.value.content_commitment) == (True, True)
    assert not usage.value.key_cert_sign
    extended = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(extended) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}


def test_a_document_certificate_commits_and_nothing_else(authority, csr):
    extensions = authority.issue(csr, purposes=("document",)).extensions
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.content_commitment) == (False, True)
    with pytest.raises(x509.ExtensionNotFound):
        extensions.get_extension_for_class(x509.ExtendedKeyUsage)


@pytest.mark.parametrize("purposes", [(), ("tls-klient",), ("tls-client", "email")])
def test_refuses_purposes_it_does_not_know(authority, csr, purposes):
    with pytest.raises(ValueError, match="one or more of tls-client, tls-server, document"):
        authority.issue(csr, purposes=purposes)


def test_refuses_a_request_that_its_key_did_not_sign(authority, csr):
    der = bytearray(csr.public_bytes(Encoding.DER))
    der[der.index("née".encode())] ^= 1  # the subject is another than the signed one
    forged = x509.load_der_x509_csr(bytes(der))
    with pytest.raises(TokenAuthError, match="does not verify"):
        authority.issue(forged)


def test_names_of_every_kind(authority, csr):
    uri = x509.UniformResourceIdentifier("spiffe://test/client")
    certificate = authority.issue(csr, subject_alternative_names=["host.test", "127.0.0.1", "::1", uri])
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert not names.critical
    assert names.value.get_values_for_type(x509.DNSName) == ["host.test"]
    assert [str(address) for address in names.value.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    assert names.value.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://test/client"]


def test_names_alone_identify_when_there_is_no_subject(tmp_path, authority, key):
    nobody = signing_request(x509.Name([]), key)
    certificate = authority.issue(nobody, subject_alternative_names=["host.test"])
    assert certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical
    assert verify(tmp_path, authority, certificate.public_bytes(Encoding.PEM), "sslclient").endswith(b": OK\n")


def test_validity_by_default(authority, csr):
    now = datetime.now(UTC)
    certificate = authority.issue(csr)
    assert timedelta(minutes=59) < now - certificate.not_valid_before_utc < timedelta(minutes=61)
    assert timedelta(days=29.9) < certificate.not_valid_after_utc - now < timedelta(days=30.1)
    assert timedelta(days=364.9) < authority.certificate.not_valid_after_utc - now < timedelta(days=365.1)


@pytest.mark.parametrize(
    ("dates", "error"),
    [
        ({"not_after": -DAY}, "certificate has expired"),
        ({"not_before": DAY}, "certificate is not yet valid"),
        ({"not_before": 60 * DAY}, "certificate is not yet valid"),
    ],
)
def test_one_date_given_moves_the_other(tmp_path, authority, csr, dates, error):
    now = datetime.now(UTC).replace(microsecond=0)
    certificate = authority.issue(csr, **{name: now + offset for name, offset in dates.items()})
    assert certificate.not_valid_before_utc < certificate.not_valid_after_utc
    with pytest.raises(AssertionError, match=error):
        verify(tmp_path, authority, certificate.public_bytes(Encoding.PEM), "sslclient")


def test_both_dates_are_taken_as_they_are(authority, csr):
    start, end = datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC), datetime(2002, 1, 1, tzinfo=UTC)
    certificate = authority.issue(csr, not_before=start, not_after=end)
    assert (certificate.not_valid_before_utc, certificate.not_valid_after_utc) == (start, end)


@pytest.mark.parametrize(("key_type", "kind"), [("ec", ec.EllipticCurvePrivateKey), ("rsa", rsa.RSAPrivateKey)])
def test_server_pair_has_its_key_and_the_chain_without_the_root(authority, key_type, kind):
    intermediate = authority.intermediate()
    certificate_pem, key_pem = intermediate.issue_server(["localhost"], key_type)
    leaf, *chain = x509.load_pem_x509_certificates(certificate_pem)
    key = load_pem_private_key(key_pem, None)
    assert isinstance(key, kind)
    assert key.public_key() == leaf.public_key()
    assert tuple(chain) == intermediate.chain == (intermediate.certificate,)


def test_refuses_unknown_key_types_and_a_server_without_names(authority):
    with pytest.raises(ValueError, match="one of ec, rsa"):
        Authority(key_type="dsa")
    with pytest.raises(ValueError, match="at least one name"):
        authority.issue_server([])


def test_shows_its_name_and_no_key(authority):
    assert repr(authority) == "<Authority CN=tokenauth test CA>"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("key_type", ["ec", "rsa"])
@pytest.mark.parametrize("depth", [0, 1])
def test_both_ends_of_a_strict_handshake_accept_its_certificates(tmp_path, key_type, version, depth):
    root = issuer = Authority(key_type=key_type)
    for _ in range(depth):
        issuer = issuer.intermediate(key_type=key_type)
    cafile = tmp_path / "root.pem"
    cafile.write_bytes(root.pem)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(cafile))
    server.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    server.verify_mode = ssl.CERT_REQUIRED
    server.maximum_version = version
    pair = tmp_path / "server.pem"
    certificate_pem, key_pem = issuer.issue_server(["localhost", "127.0.0.1"], key_type)
    pair.write_bytes(key_pem + certificate_pem)
    server.load_cert_chain(pair)
    client = client_context(str(cafile), client_pair(issuer, tmp_path, "Ada"))
    for name in ("localhost", "127.0.0.1"):
        peer = handshake(server, client, name)
        assert peer["subject"] == ((("commonName", "Ada"),),)


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str):
    """The client certificate that the server sees, after a handshake over a socket pair."""
    ours, theirs = socket.socketpair()
    seen = []

    def serve() -> None:
        with server.wrap_socket(theirs, server_side=True) as connection:
            seen.append(connection.getpeercert())
            connection.sendall(b"done")

    thread = threading.Thread(target=serve)
    thread.start()
    with client.wrap_socket(ours, server_hostname=name) as connection:
        assert connection.recv(4) == b"done"
    thread.join()
    return seen[0]
