"""A CA whose certificates say where to ask about them, and on loopback what answers: OCSP, CRLs and time stamps.

The answers are made by ``openssl ocsp`` and ``openssl ts``.
"""

from __future__ import annotations

import base64
import datetime
import threading
import urllib.parse
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from tests.support import common_name
from tests.support.programs import openssl
from tokenauth.testing import Authority

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["AskableAuthority", "Services", "services"]

_TS_CONFIGURATION = """
[tsa]
serial = {directory}/serial
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha384, sha512
ess_cert_id_alg = sha256
"""


class AskableAuthority(Authority):
    """A CA whose certificates name an OCSP responder and a CRL of a :class:`Services`."""

    def __init__(self, services: Services, name: str, parent: Authority | None = None) -> None:
        self.services = services
        self.name = name
        super().__init__(name, parent=parent)
        services.authorities[name] = self

    @property
    def key_pem(self) -> bytes:
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def _certify(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        base = f"{self.services.url}/{self.name}"
        point = x509.DistributionPoint([x509.UniformResourceIdentifier(f"{base}/crl")], None, None, None)
        ocsp = x509.AccessDescription(
            AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(f"{base}/ocsp")
        )
        builder = builder.add_extension(x509.CRLDistributionPoints([point]), critical=False)
        if self.services.has_ocsp:
            builder = builder.add_extension(x509.AuthorityInformationAccess([ocsp]), critical=False)
        certificate = super()._certify(builder)
        with (self.services.directory / f"{self.name}.index").open("a") as index:
            until = certificate.not_valid_after_utc.strftime("%y%m%d%H%M%SZ")
            index.write(f"V\t{until}\t\t{_hex(certificate.serial_number)}\tunknown\t/CN={certificate.serial_number}\n")
        return certificate

    def crl(self) -> bytes:
        """Nothing was revoked."""
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateRevocationListBuilder(self.certificate.subject, now, now + datetime.timedelta(days=1))
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.DER)


class Services:
    """What answers on loopback.

    Attributes:
        url: of the server, without a slash at its end.
        tsa: URL of the time-stamping authority.
        requests: the paths that were asked for.
        is_down: answer every question with HTTP status 503.
        has_ocsp: certificates that are issued from now on name an OCSP responder; else only a CRL.
    """

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.url = f"http://127.0.0.1:{port}"
        self.tsa = f"{self.url}/tsa"
        self.authorities: dict[str, AskableAuthority] = {}
        self.requests: list[str] = []
        self.is_down = False
        self.has_ocsp = True
        self._lock = threading.Lock()

    def set_up_tsa(self, issuer: AskableAuthority) -> None:
        """Make the time-stamping authority's key and certificate."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        builder = (
            x509.CertificateBuilder()
            .subject_name(common_name("tests time stamps"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
        )
        certificate = issuer._certify(builder)
        for name, content in {
            "tsa.pem": certificate.public_bytes(Encoding.PEM),
            "tsa.key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            "tsa.chain": issuer.pem,
            "tsa.conf": _TS_CONFIGURATION.format(directory=self.directory).encode(),
            "serial": b"01\n",
        }.items():
            (self.directory / name).write_bytes(content)

    def answer(self, path: str, body: bytes) -> tuple[str, bytes]:
        """Media type and body."""
        if path == "/tsa":
            return "application/timestamp-reply", self._time_stamp(body)
        _, name, kind, *asked = path.split("/", 3)
        if kind == "crl":
            return "application/pkix-crl", self.authorities[name].crl()
        if asked:  # RFC 6960 appendix A.1: the request in the URL
            body = base64.b64decode(urllib.parse.unquote(asked[0]))
        return "application/ocsp-response", self._ocsp(self.authorities[name], body)

    def _time_stamp(self, query: bytes) -> bytes:
        with self._lock:  # for the serial numbers
            asked, answered = self.directory / "query", self.directory / "reply"
            asked.write_bytes(query)
            signer: list[str | Path] = ["-signer", self.directory / "tsa.pem", "-inkey", self.directory / "tsa.key"]
            chain: list[str | Path] = ["-chain", self.directory / "tsa.chain"]
            where: list[str | Path] = ["-config", self.directory / "tsa.conf", "-section", "tsa"]
            openssl("ts", "-reply", "-queryfile", asked, *signer, *chain, *where, "-out", answered)
            return answered.read_bytes()

    def _ocsp(self, authority: AskableAuthority, request: bytes) -> bytes:
        with self._lock:
            names = {name: self.directory / f"ocsp.{name}" for name in ("req", "resp", "pem", "key")}
            names["req"].write_bytes(request)
            names["pem"].write_bytes(authority.pem)
            names["key"].write_bytes(authority.key_pem)
            index = self.directory / f"{authority.name}.index"
            signer: list[str | Path] = [
                "-rsigner",
                names["pem"],
                "-rkey",
                names["key"],
                "-CA",
                names["pem"],
                "-index",
                index,
            ]
            openssl("ocsp", *signer, "-reqin", names["req"], "-respout", names["resp"], "-ndays", "1")
            return names["resp"].read_bytes()


@contextmanager
def services(directory: Path) -> Iterator[Services]:
    """Services on loopback, with nothing set up."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            running.requests.append(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if running.is_down:
                self.send_error(503)
                return
            kind, answer = running.answer(self.path, body)
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = answer

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        running = Services(directory, server.server_port)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield running
        finally:
            server.shutdown()
            thread.join()


def _hex(number: int) -> str:
    digits = f"{number:X}"
    return digits if len(digits) % 2 == 0 else f"0{digits}"
