"""Time stamps (RFC 3161): what existed when, according to whom."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any

from tokenauth._records import Record
from tokenauth.signing.verification import cms
from tokenauth.signing.verification.algorithms import check_digest_name, digest_name, digester
from tokenauth.signing.verification.chains import judge_chain
from tokenauth.signing.verification.evidence import Evidence, check_undamaged
from tokenauth.signing.verification.verdicts import Broken, Damaged, Doubtful, Untrusted, Weak, reading

if TYPE_CHECKING:
    import datetime
    from collections.abc import Callable

    from tokenauth.signing.verification.chains import Chain
    from tokenauth.signing.verification.trust import Trust

__all__ = ["Proof", "Stamp", "prove"]


class Stamp(Record):
    """A time stamp as a format found it.

    Args:
        token: the CMS message, DER.
        digest_of: the digest of what it should be over, by hashlib's name of the hash; raises Broken if that is not
            there.
    """

    token: bytes
    digest_of: Callable[[str], bytes]


class Proof(Record):
    """A time stamp that proves something.

    Args:
        time: when what it is over existed.
        chain: of the authority's certificate.
        evidence: what the stamp brought along.
    """

    time: datetime.datetime
    chain: Chain
    evidence: Evidence


def prove(stamp: Stamp, evidence: Evidence, trust: Trust, moment: datetime.datetime) -> Proof:
    """Check a time stamp.

    Args:
        stamp: it.
        evidence: what the file has for the authority's chain.
        trust: whom to trust.
        moment: the time at which the stamp itself is known to have existed.

    Raises:
        Broken: it is damaged, or over something else.
        Damaged: there is something in it that time stamps do not have.
        Doubtful: its authority is not trusted, or it may have been revoked.
    """
    known = (*evidence.certificates, *trust.others, *(one.certificate for one in trust.anchors))
    try:
        with reading("a time stamp"):
            signer, time, own = _read(stamp, known)
    except (Untrusted, Weak):
        raise
    except Doubtful as error:  # of a signature that would be a matter of its signer's; a time stamp has one form
        raise Damaged(error.reason) from None
    together = own + evidence
    check_undamaged(own, signer.certificate, trust._replace(others=(*trust.others, *evidence.certificates)))
    if time > moment:
        raise Doubtful("a time stamp is from the future")
    return Proof(time, judge_chain(signer.certificate, together, trust, moment, "timestamp"), own)


def _read(stamp: Stamp, known: tuple[bytes, ...]) -> tuple[cms.SignerInfo, datetime.datetime, Evidence]:
    """A time stamp's signer, time and evidence, once all that needs no trust is checked."""
    signed = cms.read_signed_data(stamp.token, "a time stamp")
    content = signed["encap_content_info"]
    if content["content_type"].native != "tst_info" or len(signed["signer_infos"]) != 1:
        raise Broken("a time stamp is of another kind than RFC 3161 has it")
    covered = content["content"].parsed
    encoded = content["content"].contents
    own = cms.evidence_of(signed)
    info = signed["signer_infos"][0]
    signer = cms.check_signer(info, (*own.certificates, *known), "tst_info", lambda name: _hash(name, encoded))
    if not signer.names_certificate:
        raise Broken("a time stamp does not name its signer's certificate, as RFC 3161 section 2.4.2 wants")
    _check_imprint(covered, stamp)
    _check_purpose(signer.certificate)
    return signer, covered["gen_time"].native, own


def _hash(name: str, data: bytes) -> bytes:
    digest = digester(name)
    digest.update(data)
    return bytes(digest.digest())


def _check_imprint(info: Any, stamp: Stamp) -> None:
    name = digest_name(info["message_imprint"]["hash_algorithm"])
    if not hmac.compare_digest(info["message_imprint"]["hashed_message"].native, stamp.digest_of(name)):
        raise Broken("a time stamp is over something else than this signature")
    check_digest_name(name, "a time stamp")


def _check_purpose(certificate: bytes) -> None:
    """The authority's key may do nothing else (RFC 3161 section 2.3)."""
    from tokenauth.signing.verification.trust import parsed

    usage = parsed(certificate).extended_key_usage_value
    if usage is None or list(usage.native) != ["time_stamping"]:
        raise Untrusted("a time stamp is signed with a certificate that is not for time stamps")
