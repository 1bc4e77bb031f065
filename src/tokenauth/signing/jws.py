"""JSON Web Signatures (RFC 7515) in the compact form, with the signer's certificates in the header."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, BinaryIO

from jwt.algorithms import Algorithm
from jwt.api_jws import PyJWS
from jwt.exceptions import PyJWTError
from jwt.utils import der_to_raw_signature

from tokenauth.errors import MechanismUnsupported
from tokenauth.signing.refusals import DocumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography import x509

    from tokenauth.signing.model import Document, Job, SigningKey

__all__ = ["algorithm_for", "sign"]

#: ``alg`` (RFC 7518 section 3.1) of EC keys by cryptography's name of the curve, and the digest that it stands for.
_CURVES = {"secp256r1": ("ES256", "sha256"), "secp384r1": ("ES384", "sha384"), "secp521r1": ("ES512", "sha512")}
_RSA = {"sha256": "256", "sha384": "384", "sha512": "512"}
#: Parameters that say what is signed and by whom: they are ours to set.
_OURS = frozenset({"alg", "x5c", "x5t#S256", "b64", "crit"})


def algorithm_for(key: SigningKey) -> str:
    """``alg`` of what a key signs (RFC 7518 section 3.1, RFC 8037 section 3.1).

    Raises:
        MechanismUnsupported: JWS has no algorithm for the key's curve.
    """
    if key.type == "ed25519":
        return "EdDSA"
    if key.type == "rsa":
        return ("PS" if key.pss else "RS") + _RSA[key.digest]
    curve: Any = key.certificate.public_key()
    name = curve.curve.name
    if name not in _CURVES:
        raise MechanismUnsupported(f"JWS has no algorithm for keys on the curve {name}", hint="choose another key")
    return _CURVES[name][0]


def sign(documents: Sequence[Document], job: Job, target: BinaryIO) -> None:
    """Sign one file; its bytes are the payload as they are, nothing is read into them.

    With the packaging ``detached`` the payload stays outside and is not encoded for the signature (RFC 7797); else it
    is inside. The option ``headers`` adds parameters to the header.

    Args:
        documents: the one file.
        job: who signs, and how; the level is ``b-b``.
        target: takes the JWS, in ASCII without a line end.

    Raises:
        DocumentError: there are several files, a header's parameter is not free, or a level is asked for.
        MechanismUnsupported: JWS has no algorithm for the key.
        TokenAuthError: the token does not sign.
        OSError: the file can not be read.
    """
    if len(documents) != 1:
        raise DocumentError(f"a JWS is made of one file, not of {len(documents)}", hint="sign them one by one")
    if job.level != "b-b":
        raise DocumentError(
            f"a JWS has no level {job.level.upper()}: it takes no time stamps", hint="leave the level out"
        )
    algorithm = algorithm_for(job.key)
    header = _header(job.key, dict(job.options.headers))
    if job.options.packaging == "detached":
        header |= {"b64": False, "crit": ["b64"]}
    target.write(_encoded(documents[0].read(), job.key, algorithm, header))


def _header(key: SigningKey, more: dict[str, Any]) -> dict[str, Any]:
    """RFC 7515 sections 4.1.6 and 4.1.8. No ``typ``: what the payload is, is not ours to say."""
    from cryptography.hazmat.primitives import hashes

    taken = _OURS & more.keys()
    if taken:
        raise DocumentError(f"the JWS header's {', '.join(sorted(taken))} can not be chosen")
    fingerprint = base64.urlsafe_b64encode(key.certificate.fingerprint(hashes.SHA256())).rstrip(b"=")
    certificates = [base64.b64encode(_der(one)).decode() for one in (key.certificate, *key.chain)]
    return {"typ": None, **more, "x5t#S256": fingerprint.decode(), "x5c": certificates}


class _ThroughKey(Algorithm):
    """Signs as JWS wants it (RFC 7518 section 3.4: r and s of ECDSA as they are), with a :class:`SigningKey`."""

    def prepare_key(self, key: Any) -> Any:
        return key

    def sign(self, msg: bytes, key: SigningKey) -> bytes:
        if key.type != "ec":
            return key.sign(msg)
        public_key: Any = key.certificate.public_key()
        _, digest = _CURVES[public_key.curve.name]
        return der_to_raw_signature(key._replace(digest=digest).sign(msg), public_key.curve)

    def verify(self, msg: bytes, key: Any, sig: bytes) -> bool:
        raise NotImplementedError

    @staticmethod
    def to_jwk(key_obj: Any, as_dict: bool = False) -> Any:
        raise NotImplementedError

    @staticmethod
    def from_jwk(jwk: Any) -> Any:
        raise NotImplementedError


def _encoded(payload: bytes, key: SigningKey, algorithm: str, header: dict[str, Any]) -> bytes:
    composer = PyJWS()
    composer.unregister_algorithm(algorithm)
    composer.register_algorithm(algorithm, _ThroughKey())
    is_detached = "b64" in header
    try:
        made = composer.encode(payload, key, algorithm, header, is_payload_detached=is_detached)  # type: ignore[arg-type]
    except (PyJWTError, TypeError, ValueError) as error:  # a header's parameter that JSON or PyJWT does not take
        raise DocumentError(f"the JWS can not be made: {error}") from None
    return made.encode("ascii")


def _der(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)
