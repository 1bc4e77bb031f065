"""What raises the level of a CMS signature (ETSI EN 319 122-1): time stamps and evidence beside the signature."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any

from tokenauth.signing.verification import cms
from tokenauth.signing.verification.algorithms import check_digest_name, digest_name, digester
from tokenauth.signing.verification.evidence import Evidence, as_ocsp_response
from tokenauth.signing.verification.stamps import Stamp
from tokenauth.signing.verification.verdicts import Broken, Doubtful, reading

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["archive_stamps", "evidence_beside", "hashed", "signature_stamps"]

_HASH_INDEX_V3 = "0.4.0.19122.1.5"
_ADOBE_REVOCATION = "1.2.840.113583.1.1.8"


def hashed(name: str, data: bytes) -> bytes:
    """A digest by hashlib's name."""
    digest = digester(name)
    digest.update(data)
    return bytes(digest.digest())


def signature_stamps(info: Any) -> tuple[Stamp, ...]:
    """The time stamps over a signature's value (EN 319 122-1 section 5.3)."""
    signature = info["signature"].native
    values = cms.attributes(info, "unsigned_attrs").get(cms.SIGNATURE_STAMP, [])
    return tuple(Stamp(value.dump(), lambda name: hashed(name, signature)) for value in values)


def evidence_beside(info: Any) -> Evidence:
    """Certificates and revocation data among the attributes of a signature.

    Raises:
        Broken: they can not be read.
    """
    from asn1crypto import x509

    unsigned = cms.attributes(info, "unsigned_attrs")
    signed = cms.attributes(info, "signed_attrs")
    certificates: list[bytes] = []
    found = Evidence()
    with reading("the certificates and revocation data beside the signature"):
        for value in unsigned.get(cms.CERTIFICATE_VALUES, []):
            certificates += [one.dump() for one in _certificates()(x509).load(value.dump(), strict=True)]
        for value in [*unsigned.get(cms.REVOCATION_VALUES, []), *signed.get(_ADOBE_REVOCATION, [])]:
            found += _revocation_values(value.dump(), value in signed.get(_ADOBE_REVOCATION, []))
    return Evidence(tuple(certificates)) + found


def _certificates() -> Callable[[Any], Any]:
    from asn1crypto import core

    return lambda x509: type("Certificates", (core.SequenceOf,), {"_child_spec": x509.Certificate})


def _revocation_values(encoded: bytes, adobe: bool) -> Evidence:
    """RFC 5126 section 6.3.4 ``RevocationValues``, or ISO 32000-2 section 12.8.3.3.2 ``RevocationInfoArchival``."""
    from asn1crypto import core, crl, ocsp

    lists = type("Lists", (core.SequenceOf,), {"_child_spec": crl.CertificateList})
    kind = ocsp.OCSPResponse if adobe else ocsp.BasicOCSPResponse
    answers = type("Answers", (core.SequenceOf,), {"_child_spec": kind})
    fields = [
        ("crls", lists, {"explicit": 0, "optional": True}),
        ("ocsps", answers, {"explicit": 1, "optional": True}),
        ("others", core.Any, {"explicit": 2, "optional": True}),
    ]
    kind_of_values: Any = type("Values", (core.Sequence,), {"_fields": fields})
    values = kind_of_values.load(encoded, strict=True)
    crls = tuple(one.dump() for one in values["crls"] or ())
    return Evidence((), crls, tuple(one.dump() if adobe else as_ocsp_response(one) for one in values["ocsps"] or ()))


def archive_stamps(signed: Any, info: Any, content_digest: Callable[[str], bytes]) -> tuple[Stamp, ...]:
    """The archive time stamps over a signature (EN 319 122-1 section 5.5.3), in the order of their attributes.

    Args:
        signed: the ``SignedData``.
        info: the ``SignerInfo``.
        content_digest: the signed content's digest by name.

    Raises:
        Broken: one can not be read.
        Doubtful: one is of the old version 2, which is not computed.
    """
    if cms.attributes(info, "unsigned_attrs").get(cms.ARCHIVE_STAMP_V2):
        raise Doubtful("the signature has an archive time stamp of the old version 2, which is not checked")
    values = cms.attributes(info, "unsigned_attrs").get(cms.ARCHIVE_STAMP_V3, [])
    return tuple(_archive_stamp(signed, info, value.dump(), content_digest) for value in values)


def _archive_stamp(signed: Any, info: Any, token: bytes, content_digest: Callable[[str], bytes]) -> Stamp:
    with reading("an archive time stamp"):
        inner = cms.read_signed_data(token, "an archive time stamp")["signer_infos"][0]
        values = cms.attributes(inner, "unsigned_attrs").get(_HASH_INDEX_V3, [])
        if len(values) != 1:
            raise Doubtful(
                "an archive time stamp has no index of what it covers, or one of an old kind that is not checked"
            )
        index = values[0].dump()
        _check_index(index, signed, info)
        fields = ("version", "sid", "digest_algorithm", "signed_attrs", "signature_algorithm", "signature")
        head = signed["encap_content_info"]["content_type"].dump()
        tail = b"".join(info[field].dump() for field in fields) + index
    return Stamp(token, lambda name: hashed(name, head + content_digest(name) + tail))


def _index(encoded: bytes) -> Any:
    from asn1crypto import algos, core

    hashes = type("Hashes", (core.SequenceOf,), {"_child_spec": core.OctetString})
    fields = [
        ("algorithm", algos.DigestAlgorithm),
        ("certificates", hashes),
        ("crls", hashes),
        ("attributes", hashes),
    ]
    kind: Any = type("HashIndex", (core.Sequence,), {"_fields": fields})
    return kind.load(encoded, strict=True)


def _check_index(encoded: bytes, signed: Any, info: Any) -> None:
    """All that the index lists must be there (EN 319 122-1 section 5.5.2); what it does not list is not covered."""
    index = _index(encoded)
    name = digest_name(index["algorithm"])
    check_digest_name(name, "an archive time stamp's index")
    there = {
        "certificates": [choice.dump() for choice in signed["certificates"] or ()],
        "crls": [choice.dump() for choice in signed["crls"] or ()],
        "attributes": [
            attribute["type"].dump() + value.dump()
            for attribute in info["unsigned_attrs"] or ()
            for value in attribute["values"]
        ],
    }
    for part, encodings in there.items():
        digests = [hashed(name, one) for one in encodings]
        for listed in index[part]:
            if not any(hmac.compare_digest(listed.native, digest) for digest in digests):
                raise Broken(f"something among the {part} that an archive time stamp covers was changed or removed")
