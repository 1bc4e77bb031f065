"""Keys for documents, with everything on loopback that their signatures' levels need; and other programs' verdicts."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support.programs import openssl, require
from tests.support.revocation import AskableAuthority, Services, services
from tokenauth.signing.model import Means, SigningKey
from tokenauth.signing.schemes import digest_for
from tokenauth.testing import SoftToken

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DocumentKeys", "document_keys", "schema_errors", "time_stamp_is_of", "xmlsec1"]

#: The kinds that XML signatures are made with.
XML_KINDS = ("rsa2048", "rsa3072", "p256", "p384", "p521")
DS = "http://www.w3.org/2000/09/xmldsig#"
XADES = "http://uri.etsi.org/01903/v1.3.2#"
_TIMEOUT = 60  # seconds


class DocumentKeys(NamedTuple):
    """A token with one key of each kind for signing documents.

    Args:
        token: the token.
        keys: kind of key: the key, as formats take it.
        services: the time-stamping authority, OCSP responders and CRLs.
        root: the CA at the top.
    """

    token: SoftToken
    keys: dict[str, SigningKey]
    services: Services
    root: AskableAuthority

    @property
    def means(self) -> Means:
        return Means(tsa=self.services.tsa, trust=(self.root.certificate,))

    @property
    def root_pem(self) -> Path:
        return self.services.directory / "root.pem"


@pytest.fixture(scope="session")
def document_keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DocumentKeys]:
    with services(tmp_path_factory.mktemp("services")) as running:
        root = AskableAuthority(running, "root")
        issuer = AskableAuthority(running, "issuer", root)
        running.set_up_tsa(issuer)
        (running.directory / "root.pem").write_bytes(root.pem)
        with SoftToken("documents", key_type=None, authority=issuer) as token:
            keys = {kind: _key(token, kind) for kind in (*XML_KINDS, "ed25519")}
            yield DocumentKeys(token, keys, running, root)


def _key(token: SoftToken, kind: str) -> SigningKey:
    # signxml, one of the other programs, wants digitalSignature as well.
    me = token.add_identity(f"signer {kind}", key_type=kind, purposes=("document", "tls-client"))
    return SigningKey(me.certificate, tuple(me.chain), me.private_key, digest_for(me.certificate))


def xmlsec1(file: Path, root: Path, *, number: int = 1, directory: Path | None = None) -> str:
    """What ``xmlsec1`` has against a signature; empty if it is good.

    Args:
        file: the XML.
        root: the trusted certificate, PEM.
        number: which signature, from 1 on.
        directory: where the files are that it refers to.
    """
    command = [
        *(require("xmlsec1"), "--verify", "--enabled-key-data", "x509", "--trusted-pem", str(root)),
        *("--node-xpath", f"(//*[local-name()='Signature'])[{number}]"),
        *("--id-attr:Id", f"{XADES}:SignedProperties", "--id-attr:Id", f"{DS}:Object", str(file)),
    ]
    done = subprocess.run(
        command, cwd=directory or file.parent, capture_output=True, text=True, timeout=_TIMEOUT, check=False
    )
    return "" if done.returncode == 0 else done.stderr or f"exit code {done.returncode}"


def schema_errors(signature: Any) -> list[str]:
    """What ETSI's schemas of XAdES and W3C's of XML Signature, which signxml brings, have against a signature."""
    import signxml
    from lxml import etree

    folder = Path(signxml.__file__).parent
    checks = {
        "schemas/xmldsig1-schema.xsd": signature,
        "xades/schemas/XAdES01903v141-201601.xsd": signature.find(f".//{{{XADES}}}QualifyingProperties"),
    }
    errors = []
    for name, element in checks.items():
        schema = etree.XMLSchema(etree.parse(folder / name))
        if not schema.validate(etree.fromstring(etree.tostring(element, with_tail=False))):
            errors += [str(error) for error in schema.error_log]
    return errors


def time_stamp_is_of(token: Any, data: bytes, keys: DocumentKeys, directory: Path) -> None:
    """That ``openssl ts`` takes a token, from an element ``EncapsulatedTimeStamp``, for a time stamp of data."""
    (directory / "token").write_bytes(base64.b64decode(token.text))
    (directory / "stamped").write_bytes(data)
    trust: list[str | Path] = ["-CAfile", keys.root_pem, "-untrusted", keys.services.directory / "tsa.chain"]
    openssl("ts", "-verify", "-token_in", "-in", directory / "token", "-data", directory / "stamped", *trust)
