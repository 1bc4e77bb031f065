"""What raises the level of an XML signature (ETSI EN 319 132-1): its unsigned properties."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenauth.signing.verification.evidence import Evidence
from tokenauth.signing.verification.stamps import Stamp
from tokenauth.signing.verification.verdicts import Doubtful, reading
from tokenauth.signing.verification.xml_structure import strictly_decoded, the_one, unsigned_properties
from tokenauth.signing.xades_check import archive_imprint, value_imprint
from tokenauth.signing.xades_xml import ds, local_name, xades

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenauth.signing.xades_references import Resolver

__all__ = ["evidence_of", "stamps_of"]


def evidence_of(signature: Any, certificates: tuple[bytes, ...]) -> Evidence:
    """The certificates and revocation data in ``KeyInfo`` and the unsigned properties.

    Args:
        signature: the ``ds:Signature``.
        certificates: those in ``KeyInfo``, DER.

    Raises:
        Broken: a value is no base64.
    """
    with reading("the certificates and revocation data in the XML signature"):
        crls = [
            strictly_decoded(one.text)
            for one in signature.iterfind(f"{ds('KeyInfo')}/{ds('X509Data')}/{ds('X509CRL')}")
        ]
        parts = {
            name: [
                strictly_decoded(one.text)
                for holder in unsigned_properties(signature)
                for one in holder.iter(xades(name))
            ]
            for name in ("EncapsulatedX509Certificate", "EncapsulatedCRLValue", "EncapsulatedOCSPValue")
        }
    return Evidence(certificates) + Evidence(
        tuple(parts["EncapsulatedX509Certificate"]),
        (*crls, *parts["EncapsulatedCRLValue"]),
        tuple(parts["EncapsulatedOCSPValue"]),
    )


def stamps_of(signature: Any, resolve: Resolver) -> tuple[tuple[Stamp, ...], tuple[Stamp, ...]]:
    """The time stamps over the signature, and those over signature and evidence; each in order.

    Args:
        signature: the ``ds:Signature``.
        resolve: gives the files that it is for.

    Raises:
        Broken: one can not be read.
    """
    stamps, archive = [], []
    identifiers = {one.get("Id") for one in unsigned_properties(signature)}
    for one in unsigned_properties(signature):
        kind = local_name(one)
        if kind == "TimeStampValidationData" and not _has_its_stamp(one, identifiers):
            raise Doubtful("there are validation data for a time stamp that is not there")
        if kind == "SignatureTimeStamp":
            stamps.append(Stamp(_token(one), _over_value(signature, one)))
        elif kind == "ArchiveTimeStamp":
            archive.append(Stamp(_token(one), _over_all(signature, one, resolve)))
    return tuple(stamps), tuple(archive)


def _has_its_stamp(data: Any, identifiers: set[str | None]) -> bool:
    """The time stamp that validation data name, or without a name one in front of them (EN 319 132-1, 5.5.1)."""
    uri = data.get("URI")
    if uri is None:
        return any(local_name(one).endswith("TimeStamp") for one in data.itersiblings(preceding=True))
    return uri[1:] in identifiers


def _token(stamp: Any) -> bytes:
    return strictly_decoded(the_one(stamp, xades("EncapsulatedTimeStamp")).text)


def _over_value(signature: Any, stamp: Any) -> Callable[[str], bytes]:
    def digest(name: str) -> bytes:
        with reading("what a time stamp is over"):
            return value_imprint(stamp, signature, name)

    return digest


def _over_all(signature: Any, stamp: Any, resolve: Resolver) -> Callable[[str], bytes]:
    def digest(name: str) -> bytes:
        with reading("what an archive time stamp is over"):
            return archive_imprint(stamp, signature, name, resolve)

    return digest
