"""A program that tries a module: ``python trial_script.py MODULE TOKEN WHAT [ARGUMENT...]``.

The PIN is in the variable TOKEN_PIN. What it finds out it writes to its standard output, as JSON:

``make KIND...``: generates keys of these kinds, with the kind for a label, in the token.
``request KIND...``: requests for certificates (PEM) for such keys, by kind.
``store DIRECTORY``: stores the certificates in ``KIND.pem`` beside the keys.
``show``: the token and its identities; nothing is logged in to.
``sign DIRECTORY``: signs in every way that the keys have; what was signed and the signature by ``KEY-SCHEME``.
``tls PORT CAFILE VERSION``: a request with each key; what the server saw.
``wrong PORT CAFILE``: the errors of two requests with the PIN, which is to be wrong.
``fork PORT CAFILE``: requests before a fork, in the child, and in the parent after it.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import tokenauth
from tests.support import common_name
from tests.support.connect import fetch
from tokenauth.inventory.search import as_uri
from tokenauth.inventory.survey import find_tokens
from tokenauth.pin import as_source
from tokenauth.pkcs11.keys import KeyReference, TokenKey
from tokenauth.pkcs11.mechanisms import CKF_SIGN
from tokenauth.pkcs11.modules import load_module
from tokenauth.pkcs11.private_keys import private_key, shape_of
from tokenauth.pkcs11.public_keys import read_public_key
from tokenauth.pkcs11.tokens import Credentials
from tokenauth.provisioning.keys import generate_key, store_certificate

MESSAGE = b"what is signed"
_HASHES = (hashes.SHA256(), hashes.SHA384(), hashes.SHA512())


class Trial:
    """The methods are what can be tried."""

    def __init__(self, module: str, token: str) -> None:
        self._module = module
        self._uri = as_uri(token)
        self._pin = os.environ.get("TOKEN_PIN", "")
        self._credentials = Credentials(as_source(self._pin or None))
        self._asked = 0

    def _ask(self, _: object) -> str:
        self._asked += 1
        return self._pin

    def _identities(self) -> list[tokenauth.Identity]:
        return [self._with_pin(found) for found in tokenauth.identities(self._uri, module=self._module)]

    def _with_pin(self, found: tokenauth.Identity) -> tokenauth.Identity:
        return tokenauth.identity(found.uri, module=self._module, pin=self._ask)

    def _context(self, found: tokenauth.Identity, cafile: str) -> ssl.SSLContext:
        return tokenauth.create_context(found.uri, module=self._module, pin=self._ask, cafile=cafile)

    # --- filling a token ---

    def make(self, *kinds: str) -> None:
        (token,) = find_tokens(self._uri, module=self._module)
        for number, kind in enumerate(kinds, 1):
            generate_key(token, self._credentials, kind, KeyReference(bytes([number]), kind))

    def request(self, *kinds: str) -> dict[str, str]:
        (token,) = find_tokens(self._uri, module=self._module)
        requests = {}
        for kind in kinds:
            public = read_public_key(token, KeyReference(label=kind))
            key = private_key(TokenKey(token, KeyReference(label=kind), shape_of(public), self._credentials), public)
            builder = x509.CertificateSigningRequestBuilder().subject_name(common_name(kind))
            requests[kind] = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
        return requests

    def store(self, directory: str, *kinds: str) -> None:
        (token,) = find_tokens(self._uri, module=self._module)
        for number, kind in enumerate(kinds, 1):
            certificate = x509.load_pem_x509_certificate(Path(directory, f"{kind}.pem").read_bytes())
            reference = KeyReference(bytes([number]), kind)
            store_certificate(token, self._credentials, certificate, reference)

    # --- using it ---

    def show(self) -> dict[str, Any]:
        library = load_module(self._module).info
        (token,) = find_tokens(self._uri, module=self._module)
        return {
            "library": library.description,
            "version": ".".join(map(str, library.version)),
            "mechanisms": sorted(number for number, info in token.mechanisms().items() if info.flags & CKF_SIGN),
            "login_required": token.login_required,
            "identities": [
                {
                    "uri": found.uri,
                    "name": _name(found),
                    "purposes": found.purposes,
                    "problems": found.problems,
                    "key": type(found.certificate.public_key()).__name__.strip("_"),
                }
                for found in self._identities()
            ],
            "asked": self._asked,
        }

    def sign(self, directory: str) -> dict[str, Any]:
        made: dict[str, str] = {}
        for found in self._identities():
            public: Any = found.certificate.public_key()
            pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            Path(directory, f"{_name(found)}.pub").write_bytes(pem)
            for scheme, arguments in _schemes(public).items():
                name = f"{_name(found)} {scheme}"
                try:
                    signature = found.private_key.sign(MESSAGE, *arguments)
                    public.verify(signature, MESSAGE, *arguments)
                except (tokenauth.TokenAuthError, InvalidSignature) as error:
                    made[name] = f"{type(error).__name__}: {error}"
                else:
                    made[name] = "ok"
                    Path(directory, f"{name}.sig").write_bytes(signature)
        return {"made": made, "asked": self._asked}

    def tls(self, port: str, cafile: str, version: str) -> dict[str, str]:
        seen = {}
        for found in self._identities():
            if "tls-client" in found.purposes:
                context = self._context(found, cafile)
                context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
                seen[_name(found)] = fetch(context, int(port)).decode()
        return seen

    def wrong(self, port: str, cafile: str) -> list[str]:
        found = next(found for found in self._identities() if "tls-client" in found.purposes)
        context = self._context(found, cafile)
        errors = []
        for _ in range(2):
            try:
                fetch(context, int(port))
            except tokenauth.HandshakeFailed as error:
                errors.append(type(error.__cause__).__name__)
            else:
                errors.append("ok")
        return errors

    def fork(self, port: str, cafile: str) -> list[str]:
        found = next(found for found in self._identities() if "tls-client" in found.purposes)
        context = self._context(found, cafile)
        outcomes = [_outcome(context, port)]
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.write(writing, _outcome(context, port).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as answer:
            outcomes.append(answer.read())
        os.waitpid(child, 0)
        return [*outcomes, _outcome(context, port)]


def _name(found: tokenauth.Identity) -> str:
    return found.certificate.subject.rfc4514_string().removeprefix("CN=")


def _schemes(public: Any) -> dict[str, tuple[Any, ...]]:
    """The arguments of ``sign`` and ``verify`` by what is signed."""
    if isinstance(public, ec.EllipticCurvePublicKey):
        return {f"ECDSA {digest.name}": (ec.ECDSA(digest),) for digest in _HASHES}
    pss = {
        f"PSS {digest.name}": (padding.PSS(padding.MGF1(digest), padding.PSS.DIGEST_LENGTH), digest)
        for digest in _HASHES
    }
    return {f"PKCS1 {digest.name}": (padding.PKCS1v15(), digest) for digest in _HASHES} | pss


def _outcome(context: ssl.SSLContext, port: str) -> str:
    try:
        return "ok" if b"ssl_client_verify=SUCCESS" in fetch(context, int(port)) else "refused"
    except OSError as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    module, token, what, *arguments = sys.argv[1:]
    print(json.dumps(getattr(Trial(module, token), what)(*arguments)))
