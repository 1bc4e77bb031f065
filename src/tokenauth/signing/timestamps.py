"""Time stamps over HTTP (RFC 3161), checked as far as that needs no trust: of this digest, for this request."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from asn1crypto import algos, tsp

from tokenauth.errors import LevelNotReached

if TYPE_CHECKING:
    from tokenauth.signing.model import Means

__all__ = ["require_answering", "signer_of", "timestamp"]

_QUERY, _REPLY = "application/timestamp-query", "application/timestamp-reply"
#: A token with its certificates has some 5 kB.
_LONGEST_REPLY = 1 << 20
_PORTS = {"http": 80, "https": 443}


def timestamp(digest: bytes, algorithm: str, means: Means) -> bytes:
    """A time stamp of a digest.

    Args:
        digest: of what is to be time-stamped.
        algorithm: hashlib's name of the hash that made it.
        means: names the time-stamping authority.

    Returns:
        The ``TimeStampToken``, a CMS ``ContentInfo`` in DER, with the authority's certificates.

    Raises:
        LevelNotReached: there is no authority, it does not answer, refuses, or answers something else.
    """
    nonce = int.from_bytes(b"\x01" + os.urandom(7), "big")
    imprint = tsp.MessageImprint(
        {"hash_algorithm": algos.DigestAlgorithm({"algorithm": algorithm}), "hashed_message": digest}
    )
    request = tsp.TimeStampReq({"version": "v1", "message_imprint": imprint, "nonce": nonce, "cert_req": True})
    reply = _post(_url(means), request.dump(), means.timeout)
    shown = _shown(_url(means))
    try:
        token = _granted(tsp.TimeStampResp.load(reply, strict=True), shown)
        info = token["content"]["encap_content_info"]["content"].parsed
        fits = info["message_imprint"]["hashed_message"].native == digest and info["nonce"].native == nonce
        intact = fits and _is_intact(token)
    except (ValueError, TypeError, KeyError) as error:
        raise LevelNotReached(f"what {shown} answered is no time stamp: {error}") from error
    if not intact:
        raise LevelNotReached(
            f"the time stamp of {shown} is not of what was sent, or its signature does not verify",
            hint="do not trust this time-stamping authority; name another one",
        )
    made: bytes = token.dump()
    return made


def require_answering(means: Means) -> None:
    """Find out whether the time-stamping authority can be reached, before a PIN is asked for.

    Raises:
        LevelNotReached: there is none, or nothing listens there.
    """
    import socket

    from requests.utils import get_environ_proxies, select_proxy

    url = _url(means)
    parts = urlsplit(select_proxy(url, get_environ_proxies(url)) or url)
    try:
        port = parts.port or _PORTS.get(parts.scheme, 0)
        socket.create_connection((parts.hostname or "", port), means.timeout).close()
    except (OSError, ValueError) as error:
        raise _silent(url, error) from error


def signer_of(token: Any) -> Any:
    """The certificate (asn1crypto's) whose key signed a time-stamp token, and that the token carries.

    Args:
        token: asn1crypto's ``ContentInfo``.

    Raises:
        ValueError: it does not carry it.
    """
    signed_data = token["content"]
    sid = signed_data["signer_infos"][0]["sid"]
    for choice in signed_data["certificates"]:
        certificate = choice.chosen
        if sid.name == "subject_key_identifier":
            found = certificate.key_identifier == sid.chosen.native
        else:
            named = sid.chosen
            found = (named["issuer"], named["serial_number"].native) == (certificate.issuer, certificate.serial_number)
        if found:
            return certificate
    raise ValueError("it does not carry its signer's certificate")


def _is_intact(token: Any) -> bool:
    """Whether the token's signature verifies with the certificate that it carries."""
    import hashlib

    from pyhanko.sign.validation.generic_cms import validate_sig_integrity

    signed_data = token["content"]
    signer_info = signed_data["signer_infos"][0]
    content = signed_data["encap_content_info"]["content"]
    digest = hashlib.new(signer_info["digest_algorithm"]["algorithm"].native, content.contents).digest()
    intact, valid = validate_sig_integrity(signer_info, signer_of(token), "tst_info", digest)
    return bool(intact and valid)


def _granted(response: Any, shown: str) -> Any:
    status = response["status"]
    if status["status"].native not in {"granted", "granted_with_mods"}:
        said = [*(status["status_string"].native or []), *sorted(status["fail_info"].native or [])]
        raise LevelNotReached(f"{shown} refuses a time stamp: {'; '.join(said) or status['status'].native}")
    return response["time_stamp_token"]


def _url(means: Means) -> str:
    if not means.tsa:
        raise LevelNotReached(
            "a time stamp is needed and no time-stamping authority is named", hint="give its URL with tsa=... or --tsa"
        )
    if urlsplit(means.tsa).scheme not in _PORTS:
        raise LevelNotReached(
            f"{_shown(means.tsa)} is no URL of a time-stamping authority", hint="it begins with http:// or https://"
        )
    return means.tsa


def _shown(url: str) -> str:
    """The URL without the password that it may carry."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))


def _silent(url: str, error: Exception) -> LevelNotReached:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return LevelNotReached(f"the time-stamping authority {_shown(url)} does not answer: {reason}")


def _post(url: str, body: bytes, timeout: float) -> bytes:
    import requests

    headers = {"Content-Type": _QUERY, "Accept": _REPLY}
    try:
        with requests.post(url, body, headers=headers, timeout=timeout, stream=True) as response:
            if response.status_code != requests.codes.ok:
                raise LevelNotReached(
                    f"the time-stamping authority {_shown(url)} answers with HTTP status {response.status_code}"
                )
            reply: bytes = response.raw.read(_LONGEST_REPLY, decode_content=True)
    except requests.RequestException as error:
        raise _silent(url, _root_cause(error)) from error
    return reply


def _root_cause(error: BaseException) -> Exception:
    """What the network said, without the layers of requests and urllib3 around it."""
    inner: Any = error
    while args := [found for found in (getattr(inner, "reason", None), *inner.args) if isinstance(found, Exception)]:
        inner = args[0]
    made: Exception = inner
    return made
