"""Our keys as pyHanko's signers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asn1crypto import algos, x509
from pyhanko.sign.signers.pdf_cms import Signer
from pyhanko_certvalidator.registry import SimpleCertificateStore

from tokenauth.inventory.certificates import encoded, name_of

if TYPE_CHECKING:
    from cryptography import x509 as cryptography_x509

    from tokenauth.signing.model import SigningKey

__all__ = ["DescribedSigner"]


class DescribedSigner(Signer):
    """A key as pyHanko sees it. It signs through the token; for its description the public half is enough.

    Args:
        key: the key.
    """

    def __init__(self, key: SigningKey) -> None:
        self._key = key
        super().__init__(
            prefer_pss=key.pss,
            signing_cert=_asn1(key.certificate),
            cert_registry=SimpleCertificateStore.from_certs(map(_asn1, key.chain)),
        )

    @property
    def subject_name(self) -> str:
        """For people; pyHanko's own takes a name without a common name and an organisation for an error."""
        return name_of(self._key.certificate)

    def get_signature_mechanism_for_digest(self, digest_algorithm: str | None) -> algos.SignedDigestAlgorithm:
        """As pyHanko's own; for an RSASSA-PSS certificate its parameters are ours to choose."""
        return super().get_signature_mechanism_for_digest(digest_algorithm or self._key.digest)

    async def async_sign_raw(self, data: bytes, digest_algorithm: str, dry_run: bool = False) -> bytes:  # noqa: ARG002
        """The raw signature of a message.

        Args:
            data: the message.
            digest_algorithm: the key's own.
            dry_run: a placeholder of the same size will do.
        """
        if dry_run:
            from tokenauth.signing.schemes import signature_size

            return bytes(signature_size(self._key.certificate))
        return self._key.sign(data)


def _asn1(certificate: cryptography_x509.Certificate) -> x509.Certificate:
    return x509.Certificate.load(encoded(certificate))
