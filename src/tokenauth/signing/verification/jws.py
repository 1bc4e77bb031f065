"""JWS (RFC 7515) in its compact form, with the signer's certificate in ``x5c``.

Whatever the header says, the key is that of the certificate, the algorithm is one for it, and the certificate counts
only if its issuer is trusted: neither ``jwk`` nor ``jku``, ``x5u`` or ``kid`` are followed.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import hashlib
import hmac
import json
import re
from typing import TYPE_CHECKING, Any

from tokenauth.signing.verification.algorithms import check_signature, from_jws
from tokenauth.signing.verification.assessment import Signature, failed, signer_name
from tokenauth.signing.verification.evidence import Evidence, load_certificate
from tokenauth.signing.verification.verdicts import Broken, Doubtful, Finding

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenauth.signing.model import SignatureReport

__all__ = ["is_jws", "signatures"]

_COMPACT = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*(\r?\n)?")
_HEAD = re.compile(rb"eyJ[A-Za-z0-9_-]{2,}")
_MOST_CERTIFICATES = 20
#: Header parameters that a reader must understand if ``crit`` names them (RFC 7515 section 4.1.11): the time of
#: JAdES, and that a payload is not base64url (RFC 7797).
_UNDERSTOOD = {"sigT", "b64"}


def is_jws(head: bytes) -> bool:
    """Whether a file is a compact JWS, by its beginning: the base64url of ``{"``."""
    return bool(_HEAD.match(head))


def signatures(data: bytes, beside: Callable[[], bytes | None] = lambda: None) -> list[Signature | SignatureReport]:
    """The one signature of a compact JWS.

    Args:
        data: the file.
        beside: gives the payload of a detached JWS (RFC 7515 appendix F), or None.

    Raises:
        Broken: it is no JWS.
    """
    if not _COMPACT.fullmatch(data):
        raise Broken("the JWS can not be read: it is not three parts of base64url")
    head, payload, value = data.rstrip(b"\r\n").split(b".")
    signer = ""
    covers: tuple[str, ...] = ("header and payload",)
    try:
        header = _header(head)
        signed, covers = _payload(header, payload, beside)
        chain = _chain(header)
        signer = signer_name(chain[0])
        _check_thumbprints(header, chain[0])
        key = load_certificate(chain[0]).public_key()
        value = _decoded(value, "the JWS's signature")
        check_signature(key, from_jws(header.get("alg"), key), value, head + b"." + signed)
    except Finding as problem:
        return [failed("jws", problem, covers=covers, signer=signer)]
    return [Signature("jws", chain[0], Evidence(tuple(chain[1:])), covers, claimed=_claimed(header))]


def _payload(
    header: dict[str, Any], inside: bytes, beside: Callable[[], bytes | None]
) -> tuple[bytes, tuple[str, ...]]:
    """What the signature is over, and what that is in words."""
    if inside:
        if "b64" in header and not header["b64"]:
            raise Broken("the JWS holds a payload that its header says is not there")
        _decoded(inside, "the JWS's payload")
        return inside, ("header and payload",)
    given = beside()
    if given is None:
        raise Doubtful("the JWS is detached, and the file that it is for is not beside it")
    raw = header.get("b64", True) is False
    return given if raw else base64.urlsafe_b64encode(given).rstrip(b"="), ("header and the file beside it",)


def _decoded(part: bytes, what: str) -> bytes:
    """Base64url without padding, in the one way to write it (RFC 7515 section 2)."""
    try:
        decoded = base64.b64decode(part + b"=" * (-len(part) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise Broken(f"{what} is no base64url") from None
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != part:
        raise Broken(f"{what} is not written as base64url has it")
    return decoded


def _header(part: bytes) -> dict[str, Any]:
    try:
        header = json.loads(_decoded(part, "the JWS's header"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise Broken(f"the JWS's header can not be read: {str(error)[:200]}") from None
    if not isinstance(header, dict):
        raise Broken("the JWS's header is no object")
    critical = header.get("crit", [])
    if not isinstance(critical, list) or any(one not in _UNDERSTOOD or one not in header for one in critical):
        raise Doubtful(f"the JWS asks for extensions that are not known: {str(critical)[:200]}")
    if header.get("b64", True) is not True and (header["b64"] is not False or "b64" not in critical):
        raise Broken("the JWS's header says in a forbidden way that the payload is no base64url (RFC 7797)")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Names must be unique (RFC 7515 section 4): readers differ in which of two they take."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Broken("the JWS's header has a name twice")
    return made


def _chain(header: dict[str, Any]) -> list[bytes]:
    """The certificates of ``x5c`` (RFC 7515 section 4.1.6): ordinary base64, not base64url."""
    written = header.get("x5c")
    if written is None:
        raise Doubtful("the JWS does not hold its signer's certificate (x5c)")
    if not isinstance(written, list) or not 0 < len(written) <= _MOST_CERTIFICATES:
        raise Broken("the JWS's x5c is no list of certificates")
    try:
        return [base64.b64decode(one, validate=True) for one in written if isinstance(one, str) or _refuse()]
    except (binascii.Error, ValueError):
        raise Broken("a certificate in the JWS is no base64") from None


def _refuse() -> bool:
    raise Broken("the JWS's x5c is no list of certificates")


def _check_thumbprints(header: dict[str, Any], certificate: bytes) -> None:
    """``x5t`` and ``x5t#S256`` must be the certificate's, if they are there (RFC 7515 sections 4.1.7 and 4.1.8)."""
    for name, digest in (("x5t#S256", hashlib.sha256), ("x5t", hashlib.sha1)):
        stated = header.get(name)
        if stated is None:
            continue
        made = base64.urlsafe_b64encode(digest(certificate, usedforsecurity=False).digest()).rstrip(b"=")
        if not isinstance(stated, str) or not hmac.compare_digest(stated.encode(), made):
            raise Broken(f"the JWS's {name} is another certificate's")


def _claimed(header: dict[str, Any]) -> datetime.datetime | None:
    """``sigT`` of JAdES (ETSI TS 119 182-1 section 5.2.1) or ``iat`` in the header."""
    stated = header.get("sigT")
    try:
        if isinstance(stated, str):
            read = datetime.datetime.fromisoformat(stated)
            return read if read.tzinfo else read.replace(tzinfo=datetime.UTC)
        if isinstance(header.get("iat"), int) and not isinstance(header["iat"], bool):
            return datetime.datetime.fromtimestamp(header["iat"], datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return None
