"""A ``ds:Signature`` with its XAdES properties (ETSI EN 319 132-1), from digests to the signature's value."""

from __future__ import annotations

import base64
import datetime
import hashlib
import itertools
import secrets
from typing import TYPE_CHECKING, Any

from tokenauth._records import Record
from tokenauth.signing import xades_algorithms as algorithms
from tokenauth.signing.xades_references import transform
from tokenauth.signing.xades_xml import C14N_11, DS, XADES, add, canonical, ds, xades

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography import x509

    from tokenauth.signing.model import Job, SigningKey

__all__ = ["Item", "element", "encoded", "identifier_for", "sign_element"]

SIGNED_PROPERTIES = "http://uri.etsi.org/01903#SignedProperties"


class Item(Record):
    """What a signature is for.

    Args:
        uri: of the reference.
        media_type: of the data, such as ``application/pdf``.
        digest: with the key's digest, after the transforms.
        transforms: the URIs of the transforms.
        type: ``Type`` of the reference; empty for none.
    """

    uri: str
    media_type: str
    digest: bytes
    transforms: tuple[str, ...] = ()
    type: str = ""


def identifier_for(job: Job, parent: Any = None) -> str:
    """The Id of a signature that is to be made; those of its parts begin with it.

    Args:
        job: may name one.
        parent: the element to which the signature will be added; nothing in its document has the Id already.
    """
    wanted = job.options.identifier or f"S-{secrets.token_hex(8)}"
    if parent is None:
        return wanted
    taken = {one.get("Id") for one in parent.getroottree().getroot().iter("*")}
    candidates = (f"{wanted}-{number}" if number else wanted for number in itertools.count())
    return next(one for one in candidates if one not in taken)


def encoded(data: bytes) -> str:
    """Base64."""
    return base64.b64encode(data).decode("ascii")


def element(parent: Any, identifier: str, items: Sequence[Item], job: Job) -> Any:
    """Add a signature that has everything but its digest of the signed properties, and its value.

    Args:
        parent: the element to add it to; None makes it a document of its own.
        identifier: its Id.
        items: what is signed.
        job: who signs, and at which moment.

    Raises:
        MechanismUnsupported: XML signatures are not made with such keys.
    """
    from lxml import etree

    key, now = job.key, job.options.moment or datetime.datetime.now(datetime.UTC)
    namespaces = {"ds": DS, "xades": XADES}
    if parent is None:
        signature = etree.Element(ds("Signature"), nsmap=namespaces)
    else:
        signature = etree.SubElement(parent, ds("Signature"), nsmap=namespaces)
    signature.set("Id", identifier)
    _signed_info(signature, identifier, items, key)
    add(signature, ds("SignatureValue"))
    data = add(add(signature, ds("KeyInfo")), ds("X509Data"))
    for certificate in (key.certificate, *key.chain):
        add(data, ds("X509Certificate"), encoded(_der(certificate)))
    _properties(add(signature, ds("Object")), identifier, items, key, now)
    return signature


def sign_element(signature: Any, key: SigningKey) -> None:
    """Fill in what :func:`element` left open; the signature must be where it will stay.

    Raises:
        TokenAuthError: the token does not sign.
    """
    info = signature.find(ds("SignedInfo"))
    properties = signature.find(f".//{xades('SignedProperties')}")
    value = hashlib.new(key.digest, canonical(properties, C14N_11)).digest()
    info[-1].find(ds("DigestValue")).text = encoded(value)
    signed = algorithms.sign(key, canonical(info, C14N_11))
    signature.find(ds("SignatureValue")).text = encoded(signed)


def _signed_info(signature: Any, identifier: str, items: Sequence[Item], key: SigningKey) -> None:
    info = add(signature, ds("SignedInfo"))
    add(info, ds("CanonicalizationMethod"), Algorithm=C14N_11)
    algorithm = algorithms.algorithm_for(key.certificate.public_key(), key.digest, pss=key.pss)
    add(info, ds("SignatureMethod"), Algorithm=algorithm)
    for number, item in enumerate(items):
        _reference(info, f"{identifier}-RefId{number}", item, key.digest)
    _reference(
        info,
        f"{identifier}-RefId{len(items)}",
        Item(f"#{identifier}-SignedProperties", "", b"", (C14N_11,), SIGNED_PROPERTIES),
        key.digest,
    )


def _reference(info: Any, identifier: str, item: Item, digest: str) -> None:
    reference = add(info, ds("Reference"), Id=identifier, URI=item.uri)
    if item.type:
        reference.set("Type", item.type)
    for algorithm in item.transforms:
        transform(reference, algorithm)
    add(reference, ds("DigestMethod"), Algorithm=algorithms.digest_uri(digest))
    add(reference, ds("DigestValue"), encoded(item.digest))


def _properties(holder: Any, identifier: str, items: Sequence[Item], key: SigningKey, now: datetime.datetime) -> None:
    qualifying = add(holder, xades("QualifyingProperties"), Target=f"#{identifier}")
    signed = add(qualifying, xades("SignedProperties"), Id=f"{identifier}-SignedProperties")
    of_signature = add(signed, xades("SignedSignatureProperties"))
    add(of_signature, xades("SigningTime"), now.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    certificate = add(add(of_signature, xades("SigningCertificateV2")), xades("Cert"))
    digest = add(certificate, xades("CertDigest"))
    add(digest, ds("DigestMethod"), Algorithm=algorithms.digest_uri(key.digest))
    add(digest, ds("DigestValue"), encoded(hashlib.new(key.digest, _der(key.certificate)).digest()))
    add(certificate, xades("IssuerSerialV2"), encoded(_issuer_serial(key.certificate)))
    of_objects = add(signed, xades("SignedDataObjectProperties"))
    for number, item in enumerate(items):
        form = add(of_objects, xades("DataObjectFormat"), ObjectReference=f"#{identifier}-RefId{number}")
        add(form, xades("MimeType"), item.media_type)


def _issuer_serial(certificate: x509.Certificate) -> bytes:
    """DER of ``IssuerSerial`` (RFC 5035 section 3)."""
    from asn1crypto import cms
    from asn1crypto import x509 as asn1

    issuer = asn1.Name.load(certificate.issuer.public_bytes())
    names = [asn1.GeneralName("directory_name", issuer)]
    written: bytes = cms.IssuerSerial({"issuer": names, "serial": certificate.serial_number}).dump()
    return written


def _der(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)
