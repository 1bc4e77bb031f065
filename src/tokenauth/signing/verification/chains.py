"""Who stands behind a certificate at a time: path building and revocation, by pyhanko-certvalidator."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from tokenauth._records import Record
from tokenauth.signing.verification.trust import parsed
from tokenauth.signing.verification.verdicts import Doubtful, Untrusted, reading, when
from tokenauth.signing.waiting import run

if TYPE_CHECKING:
    import datetime

    from tokenauth.signing.verification.evidence import Evidence
    from tokenauth.signing.verification.trust import Anchor, Trust

__all__ = ["Chain", "Revoked", "hush", "judge_chain"]

#: For a certificate and for its issuers: whether revocation data must be there (True) or only if the certificate says
#: where it could be had. From the strictest on, so that data are looked at wherever they are.
_STRICTNESS = ((True, True), (True, False), (False, True), (False, False))


class Revoked(Doubtful):
    """A certificate of the chain was revoked.

    Args:
        reason: in words.
        since: when.
        of_signer: it is the signer's own.
    """

    def __init__(self, reason: str, since: datetime.datetime, of_signer: bool) -> None:
        super().__init__(reason)
        self.since = since
        self.of_signer = of_signer


class Chain(Record):
    """A certificate's chain that ends at a trust anchor.

    Args:
        certificates: DER, from the certificate itself to the anchor.
        anchor: where it ends.
        proven: there were data that say that nothing in it was revoked; else no issuer says where to get some.
    """

    certificates: tuple[bytes, ...]
    anchor: Anchor
    proven: bool


def judge_chain(
    certificate: bytes, evidence: Evidence, trust: Trust, moment: datetime.datetime, purpose: str = "signer"
) -> Chain:
    """Find a chain from a certificate to somebody who is trusted, good at a time.

    Args:
        certificate: DER.
        evidence: more certificates, and revocation data.
        trust: the anchors and more of both.
        moment: the time, with a zone.
        purpose: ``signer`` or ``timestamp``.

    Raises:
        Revoked: one of the chain was revoked before that time.
        Untrusted: there is no such chain.
        Doubtful: there is one, but revocation data are missing.
    """
    anchors = trust.trusted(purpose, moment)
    if not anchors:
        raise Untrusted("no certificate is trusted for it: give the issuer's with --trust")
    subject = parsed(certificate)
    _check_own_dates(subject, moment)
    try:
        return _judged(subject, evidence, trust, anchors, moment)
    except Untrusted:
        raise
    except Doubtful:
        if trust.online or not trust.asks:
            raise
    # The chain reaches an anchor, so who is asked now is named by somebody who is trusted, and by nobody else.
    return _judged(subject, evidence, trust._replace(online=True), anchors, moment)


def _judged(subject: Any, evidence: Evidence, trust: Trust, anchors: list[Anchor], moment: datetime.datetime) -> Chain:
    """What :func:`judge_chain` does, with or without asking others."""
    missing: Doubtful | None = None
    for end, issuers in _STRICTNESS:
        context = _context(evidence, trust, anchors, moment, rules=(_rule(end), _rule(issuers)))
        try:
            path = _validated(subject, context, moment)
        except Revoked:
            raise
        except Untrusted:
            raise
        except Doubtful as error:
            missing = error
            continue
        chain = tuple(one.dump() for one in path)[::-1]
        anchor = next((one for one in anchors if one.certificate == chain[-1]), anchors[0])
        has_data = bool(evidence.tells_of_revocation or trust.crls or trust.ocsps or trust.online)
        return Chain(chain, anchor, (end and issuers) or has_data)
    raise missing or Untrusted("no chain of certificates was found")


def _check_own_dates(certificate: Any, moment: datetime.datetime) -> None:
    """pyhanko-certvalidator does not look at the dates of a certificate that is trusted itself."""
    with reading("the dates of the certificate"):
        begin, end = certificate.not_valid_before, certificate.not_valid_after
    if moment > end:
        raise Untrusted(f"the certificate expired at {when(end)} and no trusted time stamp proves an earlier time")
    if moment < begin:
        raise Untrusted(f"the certificate is valid from {when(begin)} on only")


def _rule(required: bool) -> Any:
    from pyhanko_certvalidator.policy_decl import RevocationCheckingRule

    return RevocationCheckingRule.CRL_OR_OCSP_REQUIRED if required else RevocationCheckingRule.CHECK_IF_DECLARED


def _context(
    evidence: Evidence, trust: Trust, anchors: list[Anchor], moment: datetime.datetime, *, rules: tuple[Any, Any]
) -> Any:
    from asn1crypto import crl, ocsp
    from pyhanko_certvalidator import ValidationContext
    from pyhanko_certvalidator.policy_decl import CertRevTrustPolicy, RevocationCheckingPolicy

    backend: Any = None
    if trust.online:
        from pyhanko_certvalidator.fetchers.requests_fetchers import RequestsFetcherBackend

        backend = RequestsFetcherBackend()
    with reading("revocation data or a certificate in the file"):
        return ValidationContext(
            trust_roots=[parsed(anchor.certificate) for anchor in anchors],
            other_certs=[parsed(der) for der in (*evidence.certificates, *trust.others)],
            moment=moment,
            crls=[crl.CertificateList.load(der) for der in (*evidence.crls, *trust.crls)],
            ocsps=[ocsp.OCSPResponse.load(der) for der in (*evidence.ocsps, *trust.ocsps)],
            # Data that were made after that time say what was the case then: an entry has its date.
            revinfo_policy=CertRevTrustPolicy(RevocationCheckingPolicy(*rules), retroactive_revinfo=True),
            allow_fetching=trust.online,
            fetcher_backend=backend,
        )


def _validated(certificate: Any, context: Any, moment: datetime.datetime) -> Any:
    from pyhanko_certvalidator import CertificateValidator, errors

    validator = CertificateValidator(certificate, validation_context=context)
    try:
        hush()
        return run(validator.async_validate_path())
    except errors.RevokedError as error:
        raise _revoked(error) from None
    except errors.InsufficientRevinfoError as error:
        raise Doubtful(f"whether its certificates were revoked is not known: {_plain(error)}") from None
    except errors.ExpiredError:
        raise Untrusted(f"a certificate of the chain had expired at {when(moment)}") from None
    except errors.DisallowedAlgorithmError as error:
        raise Untrusted(f"the chain of certificates uses an algorithm that is too weak: {_plain(error)}") from None
    except (errors.PathBuildingError, errors.InvalidCertificateError):
        raise Untrusted("the certificate's issuer is not trusted: give its certificate with --trust") from None
    except errors.ValidationError as error:
        raise Untrusted(f"the chain of certificates is not valid: {_plain(error)}") from None
    except Exception as error:  # noqa: BLE001 - certificates are outside input, and its parser raises what it likes
        raise Untrusted(f"the chain of certificates can not be followed: {_plain(error)}") from None


def _revoked(error: Any) -> Revoked:
    if error.is_side_validation:
        return Revoked("a certificate that vouches for the revocation data was revoked", error.revocation_dt, False)
    whose = "the certificate" if error.is_ee_cert else "a certificate of its issuers"
    return Revoked(f"{whose} was revoked at {when(error.revocation_dt)}", error.revocation_dt, error.is_ee_cert)


def _plain(error: Exception) -> str:
    text = str(getattr(error, "failure_msg", "") or error or type(error).__name__)
    return text.removeprefix("The path could not be validated because ").rstrip(".").splitlines()[0][:300]


def hush() -> None:
    """Keep pyHanko's tracebacks off stderr, where Python sends warnings that nobody asked for.

    It logs every failure, and reports have it in words. Whoever has set up logging still gets them.
    """
    for name in ("pyhanko", "pyhanko_certvalidator"):
        logger = logging.getLogger(name)
        if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
            logger.addHandler(logging.NullHandler())
