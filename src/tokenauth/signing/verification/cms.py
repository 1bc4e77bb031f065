"""CMS signatures (RFC 5652) taken apart and checked, apart from the question who the signer is.

What a signature does not cover is either checked in another way or refused: versions, the list of digest algorithms,
embedded certificates and revocation lists, unsigned attributes.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any

from tokenauth._records import Record
from tokenauth.signing.verification.algorithms import (
    check_digest_name,
    check_signature,
    digest_name,
    digester,
    from_asn1,
)
from tokenauth.signing.verification.evidence import Evidence, as_ocsp_response, load_certificate
from tokenauth.signing.verification.verdicts import Broken, Damaged, Doubtful, reading

if TYPE_CHECKING:
    import datetime
    from collections.abc import Callable

__all__ = [
    "SignerInfo",
    "attributes",
    "check_signer",
    "evidence_of",
    "read_signed_data",
    "signer_certificate",
    "single_value",
]

#: Attributes beyond those that asn1crypto knows by name (ETSI EN 319 122-1, RFC 5126).
ARCHIVE_STAMP_V2 = "1.2.840.113549.1.9.16.2.48"
ARCHIVE_STAMP_V3 = "0.4.0.1733.2.4"
CERTIFICATE_VALUES = "1.2.840.113549.1.9.16.2.23"
REVOCATION_VALUES = "1.2.840.113549.1.9.16.2.24"
SIGNATURE_STAMP = "1.2.840.113549.1.9.16.2.14"
_SIGNED_ONLY_ONCE = ("content_type", "message_digest", "signing_time", "signing_certificate", "signing_certificate_v2")
#: Unsigned attributes that are understood, or known to change nothing: references to certificates and revocation data,
#: time stamps over them, countersignatures.
_UNSIGNED = {
    SIGNATURE_STAMP,
    ARCHIVE_STAMP_V2,
    ARCHIVE_STAMP_V3,
    CERTIFICATE_VALUES,
    REVOCATION_VALUES,
    "1.2.840.113549.1.9.6",  # counterSignature
    "1.2.840.113549.1.9.16.2.21",  # certificate references
    "1.2.840.113549.1.9.16.2.22",  # revocation references
    "1.2.840.113549.1.9.16.2.25",  # CAdES-C time stamp
    "1.2.840.113549.1.9.16.2.26",  # time stamp over the references
    "0.4.0.19122.1.5",  # ATSHashIndex-v3
    "1.0.32004.1.2",  # the MAC of an encrypted PDF (ISO/TS 32004), which pyHanko checks as it decrypts
}
_MOST_SIGNERS = 50


class SignerInfo(Record):
    """One signature of a CMS message, its mathematics checked.

    Args:
        certificate: the signer's, DER.
        info: asn1crypto's ``SignerInfo``.
        claimed: the time that the signer gives, or None.
        names_certificate: the signature covers which certificate is the signer's, as AdES wants.
    """

    certificate: bytes
    info: Any
    claimed: datetime.datetime | None
    names_certificate: bool


def read_signed_data(data: bytes, what: str) -> Any:
    """The ``SignedData`` of a CMS message.

    Raises:
        Broken: it is none.
    """
    # What a time stamp holds, and the attribute that names the signer's certificate, is registered by that import.
    from asn1crypto import cms, tsp  # noqa: F401

    with reading(what):
        message = cms.ContentInfo.load(data, strict=True)
        if message["content_type"].native != "signed_data":
            raise Broken(f"{what} is a CMS message, but no signature")
        signed = message["content"]
        _check_fields([message], what)
        if not signed["signer_infos"]:
            raise Broken(f"{what} holds no signature")
        if len(signed["signer_infos"]) > _MOST_SIGNERS:
            raise Broken(f"{what} holds more than {_MOST_SIGNERS} signatures")
        _check_outside(signed, what)
        return signed


def _check_outside(signed: Any, what: str) -> None:
    """What no signature covers (RFC 5652 section 5.1)."""
    _check_fields([signed, signed["encap_content_info"], *signed["digest_algorithms"]], what)
    for info in signed["signer_infos"]:
        _check_fields([info, info["digest_algorithm"], info["signature_algorithm"]], what)
    if signed["version"].native not in _expected_versions(signed):
        raise Doubtful(f"{what} has a version that does not fit what it holds")
    used = {digest_name(info["digest_algorithm"]) for info in signed["signer_infos"]}
    listed = {digest_name(algorithm) for algorithm in signed["digest_algorithms"]}
    if used - listed:
        raise Broken(f"{what} does not list the digest algorithms that it uses")
    for choice in signed["certificates"] or ():
        if choice.name not in ("certificate", "v2_attr_cert"):
            raise Doubtful(f"{what} holds a certificate of a kind that is not known ({choice.name})")
        if choice.name == "v2_attr_cert":
            _ = choice.chosen.native  # an attribute certificate (RFC 5755), and nothing else with its tag
    for info in signed["signer_infos"]:
        kind = info["sid"].name
        if info["version"].native != {"issuer_and_serial_number": "v1", "subject_key_identifier": "v3"}.get(kind):
            raise Broken(f"{what} has a signature with an impossible version")


def _expected_versions(signed: Any) -> tuple[str, ...]:
    """RFC 5652 section 5.1; authorities whose time stamps hold attribute certificates often pass over those."""
    if any(choice.name != "crl" for choice in signed["crls"] or ()):
        return ("v5",)
    signers = {info["version"].native for info in signed["signer_infos"]}
    is_plain = "v3" not in signers and signed["encap_content_info"]["content_type"].native == "data"
    has_attributes = any(choice.name == "v2_attr_cert" for choice in signed["certificates"] or ())
    return ("v1" if is_plain else "v3", *(("v4",) if has_attributes else ()))


def _check_fields(sequences: list[Any], what: str) -> None:
    """asn1crypto passes over what stands behind a sequence's last field, or has not that field's tag."""
    if any(len(sequence) > len(list(sequence)) for sequence in sequences):
        raise Broken(f"{what} holds something that CMS does not know")


def evidence_of(signed: Any) -> Evidence:
    """The certificates and revocation data of a ``SignedData``.

    Raises:
        Broken: they can not be read.
        Doubtful: some are of a kind that is not known.
    """
    with reading("the certificates and revocation lists of the signature"):
        crls, ocsps = [], []
        for choice in signed["crls"] or ():
            if choice.name == "crl":
                crls.append(choice.chosen.dump())
                continue
            other = choice.chosen
            kind = other["other_rev_info_format"].dotted if hasattr(other["other_rev_info_format"], "dotted") else ""
            native = other["other_rev_info_format"].native
            if native == "ocsp_response" or kind == "1.3.6.1.5.5.7.16.2":
                ocsps.append(other["other_rev_info"].dump())
            elif native == "ocsp_basic_response" or kind == "1.3.6.1.5.5.7.48.1.1":
                ocsps.append(as_ocsp_response(other["other_rev_info"]))
            else:
                raise Doubtful(f"the signature holds revocation data of a kind that is not known ({native})")
        held = [choice for choice in signed["certificates"] or () if choice.name == "certificate"]
        certificates = tuple(choice.chosen.dump() for choice in held)
        return Evidence(certificates, tuple(crls), tuple(ocsps))


def attributes(info: Any, part: str) -> dict[str, list[Any]]:
    """The attributes of a signature by their object identifiers; values that asn1crypto knows are read.

    Args:
        info: asn1crypto's ``SignerInfo``.
        part: ``signed_attrs`` or ``unsigned_attrs``.
    """
    found: dict[str, list[Any]] = {}
    for attribute in info[part] or ():
        found.setdefault(attribute["type"].dotted, []).extend(attribute["values"])
    return found


def single_value(info: Any, name: str) -> Any:
    """A signed attribute's only value; None if it is not there.

    Raises:
        Broken: it is there twice or has several values.
    """
    found = [attribute for attribute in info["signed_attrs"] if attribute["type"].native == name]
    if not found:
        return None
    if len(found) > 1 or len(found[0]["values"]) != 1:
        raise Broken(f"the signed attribute {name} is there several times")
    return found[0]["values"][0]


def check_signer(
    info: Any, certificates: tuple[bytes, ...], content_type: str, digest_of: Callable[[str], bytes]
) -> SignerInfo:
    """Check one signature of a CMS message.

    Args:
        info: asn1crypto's ``SignerInfo``.
        certificates: among which the signer's is, DER.
        content_type: asn1crypto's name of the type that is signed.
        digest_of: the content's digest by hashlib's name of the hash.

    Raises:
        Broken: digest or signature are wrong, or its parts contradict each other.
        Doubtful: its algorithms are weak, its signer's certificate is not there, or it covers its content alone.
    """
    with reading("the CMS signature"):
        _check_unsigned(info)
        if not info["signed_attrs"]:
            raise Doubtful("the signature has no signed attributes, so it does not cover what it is over")
        certificate = signer_certificate(info, certificates)
        method = from_asn1(info["signature_algorithm"], info["digest_algorithm"])
        for name in _SIGNED_ONLY_ONCE:
            single_value(info, name)
        name = digest_name(info["digest_algorithm"])
        _check_content(info, content_type, name, digest_of)
        _check_protection(info)
        covered = b"\x31" + info["signed_attrs"].dump()[1:]  # SET OF instead of [0] (RFC 5652 section 5.4)
        key = load_certificate(certificate).public_key()
        check_signature(key, method, info["signature"].native, covered)
        check_digest_name(name, "the signature")
        names = _names_certificate(info, certificate)
        stated = single_value(info, "signing_time")
        return SignerInfo(certificate, info, stated.native if stated is not None else None, names)


def _check_unsigned(info: Any) -> None:
    for attribute in info["unsigned_attrs"] or ():
        kind = attribute["type"].dotted
        if kind not in _UNSIGNED or not len(attribute["values"]):
            raise Doubtful(f"the signature has an unsigned attribute that is not known ({kind})")


def signer_certificate(info: Any, certificates: tuple[bytes, ...]) -> bytes:
    """The certificate that a ``SignerInfo`` names (RFC 5652 section 5.3), DER.

    Raises:
        Damaged: it is not among them.
    """
    from tokenauth.signing.verification.trust import parsed

    sid = info["sid"]
    for der in dict.fromkeys(certificates):
        certificate = parsed(der)
        if sid.name == "issuer_and_serial_number":
            # Byte by byte: names that are equal in another case or encoding would be a change that nobody sees.
            same = sid.chosen["issuer"].dump() == certificate.issuer.dump()
            if same and sid.chosen["serial_number"].native == certificate.serial_number:
                return der
        elif sid.chosen.native == certificate.key_identifier:
            return der
    raise Damaged("the signer's certificate is not in the signature")


def _check_content(info: Any, content_type: str, name: str, digest_of: Callable[[str], bytes]) -> None:
    stated = single_value(info, "content_type")
    if stated is None or stated.native != content_type:
        raise Broken("the signature is over content of another type")
    digest = single_value(info, "message_digest")
    if digest is None:
        raise Broken("the signature names no digest of its content")
    if not hmac.compare_digest(digest.native, digest_of(name)):
        raise Broken("the content was changed after it was signed: its digest is another")


def _check_protection(info: Any) -> None:
    """CMSAlgorithmProtection (RFC 6211)."""
    protection = single_value(info, "cms_algorithm_protection")
    if protection is None:
        return
    same = protection["digest_algorithm"].native == info["digest_algorithm"].native
    if not same or protection["signature_algorithm"].native != info["signature_algorithm"].native:
        raise Broken("the signature's algorithms are not those that it protects")


def _names_certificate(info: Any, certificate: bytes) -> bool:
    """Whether the signature covers which certificate is the signer's (RFC 5035); a false name is an error."""
    for name in ("signing_certificate_v2", "signing_certificate"):
        value = single_value(info, name)
        if value is None:
            continue
        first = value["certs"][0]
        used = "sha1" if name == "signing_certificate" else digest_name(first["hash_algorithm"])
        digest = digester(used)
        digest.update(certificate)
        if not hmac.compare_digest(first["cert_hash"].native, digest.digest()):
            raise Broken("the signer's certificate is not the one that the signature names")
        if (
            used != "sha1"
        ):  # which most time stamps have (RFC 2634): nobody can make another certificate to a given digest
            check_digest_name(used, "the reference to the signer's certificate")
        return True
    return False
