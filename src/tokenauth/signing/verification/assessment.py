"""From what a format found to a report: time stamps from the outermost in, then the signer (ETSI EN 319 102-1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenauth._records import Record
from tokenauth.signing.model import INVALID, VALID, SignatureReport
from tokenauth.signing.verification.chains import Revoked, judge_chain
from tokenauth.signing.verification.evidence import Evidence, check_undamaged, load_certificate
from tokenauth.signing.verification.stamps import prove
from tokenauth.signing.verification.verdicts import Broken, Damaged, Doubtful, Finding, sentence, when, worst

if TYPE_CHECKING:
    import datetime
    from collections.abc import Sequence

    from tokenauth.signing.verification.chains import Chain
    from tokenauth.signing.verification.stamps import Proof, Stamp
    from tokenauth.signing.verification.trust import Trust

__all__ = ["Signature", "assess", "failed", "signer_name"]

#: Key usages of which a signer's certificate must have one, if it restricts the use (RFC 5280 section 4.2.1.3).
_SIGNING_USAGES = {"digital_signature", "non_repudiation"}


class Signature(Record):
    """A signature as its format says; digests and the signature itself have been checked.

    Args:
        format: one of the formats' names.
        certificate: the signer's, DER.
        evidence: what the file brings along for it.
        covers: what is signed, in words or names.
        claimed: the time that the signer gives, or None.
        baseline: the signature has all that the level b-b wants.
        stamps: time stamps over the signature.
        archive: time stamps over signature and evidence, innermost first.
        problems: what the format found wrong; the worst counts.
        notes: what should be said, though it is not wrong.
    """

    format: str
    certificate: bytes
    evidence: Evidence
    covers: tuple[str, ...]
    claimed: datetime.datetime | None = None
    baseline: bool = True
    stamps: tuple[Stamp, ...] = ()
    archive: tuple[Stamp, ...] = ()
    problems: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()


class _Proofs(Record):
    """What the time stamps of a signature came to.

    Args:
        signature: the sound ones over the signature.
        archive: the sound ones over signature and evidence.
        problems: damaged ones.
        notes: what to say about those that prove nothing.
    """

    signature: tuple[Proof, ...] = ()
    archive: tuple[Proof, ...] = ()
    problems: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def earliest(self) -> datetime.datetime | None:
        """The earliest time at which the signature is proven to have existed."""
        return min((proof.time for proof in self.signature + self.archive), default=None)


def assess(signature: Signature, trust: Trust, at: datetime.datetime) -> SignatureReport:
    """The report on one signature.

    Args:
        signature: what its format found.
        trust: whom to trust.
        at: the time at which is verified, with a zone.
    """
    proofs = _prove_all(signature, trust, at)
    problems = [*signature.problems, *proofs.problems]
    proven = proofs.earliest
    chain: Chain | None = None
    try:
        # Archive stamps bring evidence along that covers the inner ones.
        # All together: a certificate may be there twice, and one of the two damaged.
        everything = sum((proof.evidence for proof in (*proofs.signature, *proofs.archive)), signature.evidence)
        check_undamaged(everything, signature.certificate, trust)
        _check_usage(signature.certificate)
        evidence = sum((proof.evidence for proof in proofs.archive), signature.evidence)
        chain = judge_chain(signature.certificate, evidence, trust, proven or at)
    except Revoked as error:
        problems.append(_about_revocation(error, signature.claimed))
    except Finding as error:
        problems.append(error)
    notes = [*signature.notes, *proofs.notes, *_notes(chain, signature, proven)]
    status = worst([VALID, *(problem.status for problem in problems)])
    level = "" if status == INVALID else _level(signature, proofs, chain)
    return SignatureReport(
        status=status,
        reason=sentence([*(problem.reason for problem in sorted(problems, key=_gravest_first)), *notes]),
        signer=signer_name(signature.certificate),
        time=proven or signature.claimed,
        level=level,
        format=signature.format,
        covers=signature.covers,
    )


def failed(format: str, problem: Finding, **known: Any) -> SignatureReport:
    """The report on a signature of which little is known.

    Args:
        format: one of the formats' names.
        problem: why.
        known: other fields of the report.
    """
    return SignatureReport(status=problem.status, reason=problem.reason, format=format, **known)


def signer_name(certificate: bytes) -> str:
    """The subject of a certificate (RFC 4514); empty if it can not be read."""
    try:
        return load_certificate(certificate).subject.rfc4514_string()
    except (Finding, ValueError):
        return ""


def _gravest_first(problem: Finding) -> bool:
    return problem.status != INVALID


def _prove_all(signature: Signature, trust: Trust, at: datetime.datetime) -> _Proofs:
    """Each archive stamp proves that those within it existed, even if their authorities' certificates ended later."""
    archive: list[Proof] = []
    inner: list[Proof] = []
    problems: list[Finding] = []
    notes: list[str] = []
    moment = at
    stamps: Sequence[tuple[Stamp, bool]] = [(stamp, True) for stamp in reversed(signature.archive)]
    for stamp, is_archive in [*stamps, *((stamp, False) for stamp in signature.stamps)]:
        try:
            evidence = sum((proof.evidence for proof in archive), signature.evidence)
            proof = prove(stamp, evidence, trust, moment)
        except (Broken, Damaged) as error:
            # The signature may be good without it; but the file is not as it was made.
            problems.append(Doubtful(error.reason))
        except Finding as error:
            notes.append(f"a time stamp proves nothing: {error.reason}")
        else:
            (archive if is_archive else inner).append(proof)
            moment = min(moment, proof.time) if is_archive else moment
    return _Proofs(tuple(inner), tuple(archive), tuple(problems), tuple(notes))


def _check_usage(certificate: bytes) -> None:
    from tokenauth.signing.verification.trust import parsed

    read = parsed(certificate)
    usage = read.key_usage_value
    if usage is not None and not _SIGNING_USAGES & set(usage.native):
        raise Doubtful("the certificate's key usage does not allow signatures of documents")
    if read.ca:
        raise Doubtful("the certificate is a CA's, whose key is for certificates and not for documents")


def _about_revocation(error: Revoked, claimed: datetime.datetime | None) -> Finding:
    """Certain only if the signature was made after the revocation by the signer's own words."""
    if error.of_signer and claimed is not None and claimed >= error.since:
        return Broken(f"{error.reason}, before the signature was made ({when(claimed)})")
    return Doubtful(f"{error.reason}, and no trusted time stamp proves that the signature was made before")


def _notes(chain: Chain | None, signature: Signature, proven: datetime.datetime | None) -> list[str]:
    notes = []
    if chain is not None and chain.anchor.caveat:
        notes.append(chain.anchor.caveat)
    if chain is not None and not chain.proven:
        notes.append("the issuer does not say where to learn of revocations, so none were looked up")
    if proven is None and signature.claimed is not None:
        notes.append("the time is the signer's word")
    if not signature.baseline:
        notes.append("the signature does not cover the signer's certificate, as advanced signatures do")
    return notes


def _level(signature: Signature, proofs: _Proofs, chain: Chain | None) -> str:
    """The highest level of which everything is there and sound."""
    if not signature.baseline:
        return ""
    if not proofs.signature and not proofs.archive:
        return "b-b"
    chains = [chain, *(proof.chain for proof in proofs.signature)]
    known = all(one is not None and one.proven for one in chains)
    if not known or not signature.evidence.tells_of_revocation:
        return "b-t"
    return "b-lta" if proofs.archive else "b-lt"
