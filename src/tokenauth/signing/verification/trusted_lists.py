"""EU trusted lists (ETSI TS 119 612) given as files: which issuers and time-stamping authorities were trusted when."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from tokenauth.signing.refusals import DocumentError
from tokenauth.signing.verification.trust import Anchor
from tokenauth.signing.verification.verdicts import Finding
from tokenauth.signing.xades_references import decoded
from tokenauth.signing.xades_xml import parse

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["read_trusted_list"]

_TSL = "http://uri.etsi.org/02231/v2#"
_SERVICES = "http://uri.etsi.org/TrstSvc/Svctype/"
#: Service type (section 5.5.1): what its certificates are trusted for.
_PURPOSES = {
    f"{_SERVICES}CA/QC": frozenset({"signer", "timestamp"}),
    f"{_SERVICES}CA/PKC": frozenset({"signer", "timestamp"}),
    f"{_SERVICES}TSA": frozenset({"timestamp"}),
    f"{_SERVICES}TSA/QTST": frozenset({"timestamp"}),
    f"{_SERVICES}TSA/TSS-QC": frozenset({"timestamp"}),
    f"{_SERVICES}TSA/TSS-AdESQCandQES": frozenset({"timestamp"}),
}
_STATES = "http://uri.etsi.org/TrstSvc/TrustedList/Svcstatus/"
_OLD_STATES = "http://uri.etsi.org/TrstSvc/Svcstatus/eSigDir-1999-93-EC-TrustedList/Svcstatus/"
#: Service states (section 5.5.4) in which it is trusted, also those of before July 2016.
_GRANTED = {
    *(f"{_STATES}{state}" for state in ("granted", "recognisedatnationallevel", "undersupervision", "accredited")),
    *(f"{_STATES}{state}" for state in ("supervisionincessation", "setbynationallaw")),
    *(f"{_OLD_STATES}{state}" for state in ("undersupervision", "accredited", "supervisionincessation")),
}
_MOST_ANCHORS = 20_000


def _tsl(name: str) -> str:
    return f"{{{_TSL}}}{name}"


def read_trusted_list(data: bytes, name: str, signers: list[bytes]) -> tuple[Anchor, ...]:
    """The anchors of a trusted list.

    Args:
        data: the list.
        name: what errors call it.
        signers: certificates that may have signed it, DER; without any its signature is not checked, and what rests
            on it says so.

    Raises:
        DocumentError: it is no trusted list, or its signature is not by one of the signers.
    """
    root = parse(data, name).getroot()
    if root.tag != _tsl("TrustServiceStatusList"):
        raise DocumentError(f"{name} is no trusted list: its root element is {root.tag!r}")
    caveat = f"the trusted list {name} was not itself checked: nobody said who may sign it"
    if signers:
        _check_signature(data, name, signers)
        caveat = ""
    end = root.findtext(f"{_tsl('SchemeInformation')}/{_tsl('NextUpdate')}/{_tsl('dateTime')}")
    if end and _time(end, name) < datetime.datetime.now(datetime.UTC):
        caveat = "; ".join(filter(None, (caveat, f"the trusted list {name} is out of date since {end}")))
    found = [anchor for service in root.iter(_tsl("TSPService")) for anchor in _anchors(service, name, caveat)]
    if len(found) > _MOST_ANCHORS:
        raise DocumentError(f"{name} has more than {_MOST_ANCHORS} services")
    return tuple(found)


def _check_signature(data: bytes, name: str, signers: list[bytes]) -> None:
    """The list's own XML signature must be by one of the signers, over the whole list."""
    from tokenauth.signing.verification import xades
    from tokenauth.signing.verification.assessment import Signature

    def nothing(uri: str) -> Any:
        raise DocumentError(f"the trusted list's signature refers to {uri!r}")

    try:
        found = xades.signatures(data, nothing, name)
    except Finding as problem:
        raise DocumentError(f"the signature of the trusted list {name} is not good: {problem.reason}") from None
    (one,) = found if len(found) == 1 else (None,)
    if one is None:
        raise DocumentError(f"the trusted list {name} has {len(found)} signatures instead of one")
    if not isinstance(one, Signature) or one.problems:
        reason = one.problems[0].reason if isinstance(one, Signature) else one.reason
        raise DocumentError(f"the signature of the trusted list {name} is not good: {reason}")
    if one.certificate not in signers:
        raise DocumentError(f"the trusted list {name} is signed by somebody else than who may sign it")


def _anchors(service: Any, name: str, caveat: str) -> Iterator[Anchor]:
    """One for each certificate and time in which the service was trusted."""
    information = service.find(_tsl("ServiceInformation"))
    if information is None:
        return
    certificates = _certificates(information)
    states = [information, *service.iterfind(f"{_tsl('ServiceHistory')}/{_tsl('ServiceHistoryInstance')}")]
    until: datetime.datetime | None = None
    for state in states:  # the newest first (section 5.6)
        since = _time(state.findtext(_tsl("StatusStartingTime")) or "", name)
        purposes = _PURPOSES.get((state.findtext(_tsl("ServiceTypeIdentifier")) or "").strip(), frozenset())
        if (state.findtext(_tsl("ServiceStatus")) or "").strip() in _GRANTED and purposes:
            yield from (Anchor(one, purposes, since, until, caveat) for one in certificates)
        until = since


def _certificates(information: Any) -> list[bytes]:
    from cryptography import x509

    found = []
    path = f"{_tsl('ServiceDigitalIdentity')}/{_tsl('DigitalId')}/{_tsl('X509Certificate')}"
    for element in information.iterfind(path):
        try:
            der = decoded(element.text)
            x509.load_der_x509_certificate(der)
        except (ValueError, DocumentError):
            continue  # one service's bad certificate does not hide the others
        found.append(der)
    return found


def _time(text: str, name: str) -> datetime.datetime:
    try:
        read = datetime.datetime.fromisoformat(text.strip())
    except ValueError:
        raise DocumentError(f"{name} has a time that is none: {text[:60]!r}") from None
    return read if read.tzinfo else read.replace(tzinfo=datetime.UTC)
