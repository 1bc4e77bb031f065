"""What raises the level of a signature, whatever its format: time stamps, and evidence that certificates were good.

Evidence is the chain of a certificate up to its root, and for each certificate below the root an OCSP response
(RFC 6960) or a CRL (RFC 5280). One certificate of which nothing can be learned spoils it all.
"""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING, Any, TypeVar

from cryptography import x509

from tokenauth._records import Record
from tokenauth.errors import LevelNotReached, TokenAuthError
from tokenauth.inventory.certificates import encoded, issued_by, walk_chain
from tokenauth.notices import notice
from tokenauth.signing.timestamps import require_answering, signer_of, timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tokenauth.signing.model import Job, Means

__all__ = [
    "Evidence",
    "evidence_for",
    "evidence_for_authority",
    "evidence_for_token",
    "optional",
    "require_answering",
    "timestamp",
]

_T = TypeVar("_T")
#: Seconds for which evidence is used again: a batch asks once, and what was learned is still fresh.
_KEPT = 120.0
_MOST_KEPT = 64
_TIME_STAMPING = {"time_stamping"}


class Evidence(Record):
    """What proves that certificates were good; all DER, each once.

    Args:
        certificates: the certificate, its issuers up to the root, and those that signed the OCSP responses.
        ocsps: ``OCSPResponse`` (RFC 6960).
        crls: ``CertificateList`` (RFC 5280).
    """

    certificates: tuple[bytes, ...] = ()
    ocsps: tuple[bytes, ...] = ()
    crls: tuple[bytes, ...] = ()

    def merged(self, other: Evidence) -> Evidence:
        """The two together."""
        return Evidence(*(tuple(dict.fromkeys((*mine, *others))) for mine, others in zip(self, other, strict=True)))


def optional(job: Job, level: str, action: Callable[[], _T]) -> _T | None:
    """What a level needs, if the job asks for that level.

    Args:
        job: what is asked.
        level: the one that needs it.
        action: gets it.

    Returns:
        None if the job asks for less, or it can not be had and the job allows a lower level: then that is told.

    Raises:
        LevelNotReached: it can not be had.
    """
    if not job.reaches(level):
        return None
    try:
        return action()
    except LevelNotReached as error:
        if not job.options.allow_lower_level:
            raise
        notice(f"the signature stays below level {level.upper()}: {error.message}")
        return None


_kept: dict[tuple[Any, ...], tuple[float, Evidence]] = {}


def evidence_for(
    certificate: x509.Certificate, others: Iterable[x509.Certificate], means: Means, usage: Iterable[str] = ()
) -> Evidence:
    """Evidence that a certificate is good now.

    Args:
        certificate: the one that it is about.
        others: its issuers, as far as they are known, among others.
        means: what may be fetched, what else is known, and whom to trust.
        usage: extended key usages that it must have, by asn1crypto's names.

    Raises:
        LevelNotReached: the chain does not reach a root, or nothing can be learned of one of its certificates.
        TokenAuthError: a certificate was revoked, has expired or is not good otherwise.
    """

    def learn() -> Evidence:
        return _validated(_path_to_root(certificate, [*others, *means.extra], means), means, set(usage))

    return _remembered((certificate, means, frozenset(usage)), learn)


def _remembered(name: tuple[Any, ...], learn: Callable[[], Evidence]) -> Evidence:
    found = _kept.get(name)
    if found is not None and time.monotonic() - found[0] < _KEPT:
        return found[1]
    made = learn()
    if len(_kept) >= _MOST_KEPT:
        _kept.clear()
    _kept[name] = time.monotonic(), made
    return made


def evidence_for_token(token: bytes, means: Means) -> Evidence:
    """Evidence that a time-stamping authority's certificate is good now.

    Args:
        token: the ``TimeStampToken``, DER.
        means: as in :func:`evidence_for`.

    Raises:
        LevelNotReached, TokenAuthError: as in :func:`evidence_for`.
    """
    from asn1crypto import cms

    try:
        parsed = cms.ContentInfo.load(token)
        signer = x509.load_der_x509_certificate(signer_of(parsed).dump())
        carried = [x509.load_der_x509_certificate(one.chosen.dump()) for one in parsed["content"]["certificates"]]
    except (ValueError, TypeError, KeyError) as error:
        raise LevelNotReached(f"the time stamp's certificates can not be read: {error}") from error
    return evidence_for(signer, carried, means, _TIME_STAMPING)


def evidence_for_authority(digest: str, means: Means) -> Evidence:
    """Evidence that the time-stamping authority's certificate is good now, before there is a time stamp.

    Which certificate that is, it says with a time stamp of nothing in particular.

    Args:
        digest: hashlib's name of the hash that will be time-stamped.
        means: as in :func:`evidence_for`.

    Raises:
        LevelNotReached, TokenAuthError: as in :func:`evidence_for`, and as :func:`timestamp`.
    """

    def learn() -> Evidence:
        return evidence_for_token(timestamp(hashlib.new(digest, os.urandom(32)).digest(), digest, means), means)

    return _remembered((digest, means), learn)


def _path_to_root(certificate: x509.Certificate, known: list[x509.Certificate], means: Means) -> list[x509.Certificate]:
    """The certificate and its issuers up to a trusted or self-signed one.

    What is given comes first, then what the certificates' authority information access names, then the system's roots.
    """
    trusted = set(means.trust)
    path = [certificate]
    while not (path[-1] in trusted or issued_by(path[-1], path[-1])):
        found = next(walk_chain(path[-1], [*means.trust, *known], issued_by), None)
        if found is None and means.fetch:
            found = next(walk_chain(path[-1], _fetched_issuers(path[-1], means), issued_by), None)
        if found is None:
            found = next(walk_chain(path[-1], _system_roots(path[-1]), issued_by), None)
        if found is None or found in path:
            raise LevelNotReached(
                f"the issuer of the certificate of {path[-1].subject.rfc4514_string()!r} is not known: "
                f"{path[-1].issuer.rfc4514_string()!r}",
                hint="give the missing certificates up to the root, as trust=... or --trust",
            )
        path.append(found)
    return path


def _fetched_issuers(certificate: x509.Certificate, means: Means) -> list[x509.Certificate]:
    from pyhanko_certvalidator.errors import PathBuildingError
    from pyhanko_certvalidator.fetchers.requests_fetchers import RequestsFetcherBackend

    from tokenauth.signing.waiting import run

    async def fetch() -> list[Any]:
        fetcher = RequestsFetcherBackend(per_request_timeout=means.timeout).get_fetchers().cert_fetcher
        return [one async for one in fetcher.fetch_cert_issuers(_asn1(certificate))]

    try:
        return [x509.load_der_x509_certificate(one.dump()) for one in run(fetch())]
    except (PathBuildingError, ValueError):
        return []  # that it is missing is told by the caller


def _system_roots(certificate: x509.Certificate) -> list[x509.Certificate]:
    """Those of the system's roots that have the issuer's name."""
    import ssl

    roots = ssl.create_default_context().get_ca_certs(binary_form=True)
    issuer = certificate.issuer.public_bytes()
    return [x509.load_der_x509_certificate(one) for one in roots if issuer in one]


def _validated(path: list[x509.Certificate], means: Means, usage: set[str]) -> Evidence:
    """Validate the path, each certificate's revocation included, and keep what that took."""
    from pyhanko_certvalidator import CertificateValidator, ValidationContext, errors
    from pyhanko_certvalidator.fetchers.requests_fetchers import RequestsFetcherBackend

    from tokenauth.signing.waiting import run

    leaf, *above = map(_asn1, path)
    context = ValidationContext(
        trust_roots=[_asn1(path[-1])],
        other_certs=above,
        allow_fetching=means.fetch,
        crls=[],
        ocsps=[],
        revocation_mode="require",
        fetcher_backend=RequestsFetcherBackend(per_request_timeout=means.timeout),
    )
    validator = CertificateValidator(leaf, intermediate_certs=above, validation_context=context)
    try:
        run(validator.async_validate_usage(set(), usage or None, extended_optional=not usage))
    except errors.InsufficientRevinfoError as error:
        raise LevelNotReached(
            f"whether a certificate was revoked can not be learned: {_sentence(error)}",
            hint="the OCSP responders and CRLs that the certificates name must answer; try again later",
        ) from error
    except (errors.PathError, errors.ValidationError) as error:
        raise TokenAuthError(f"a certificate is not good: {_sentence(error)}") from error
    ocsps = tuple(dict.fromkeys(one.dump() for one in context.ocsps))
    certificates = [encoded(one) for one in path] + [one for response in context.ocsps for one in _responders(response)]
    crls = tuple(dict.fromkeys(one.dump() for one in context.crls))
    return Evidence(tuple(dict.fromkeys(certificates)), ocsps, crls)


def _responders(response: Any) -> list[bytes]:
    carried = response["response_bytes"]["response"].parsed["certs"]
    return [one.dump() for one in carried or ()]


def _asn1(certificate: x509.Certificate) -> Any:
    from asn1crypto import x509 as asn1_x509

    return asn1_x509.Certificate.load(encoded(certificate))


def _sentence(error: Exception) -> str:
    return str(error).rstrip(".")
