"""The integrity protection of encrypted PDFs (ISO/TS 32004): each signature carries a MAC made with their key."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from pyhanko.pdf_utils import generic
from pyhanko.pdf_utils.crypt.pdfmac import PdfMacTokenHandler
from pyhanko.pdf_utils.generic import pdf_name

from tokenauth._records import Record
from tokenauth.signing import cms

if TYPE_CHECKING:
    from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter

__all__ = ["ATTRIBUTE_SIZE", "Protection", "announce", "protection_of"]

_MAC_DATA = "1.0.32004.1.2"
#: The most bytes that the attribute has.
ATTRIBUTE_SIZE = 2048


class Protection(Record):
    """What makes a PDF's MACs. It is as secret as the PDF's password.

    Args:
        key: the file's encryption key.
        salt: the one for deriving keys from it.
    """

    key: bytes
    salt: bytes

    def __repr__(self) -> str:
        return "<Protection>"

    def attribute(self, document: bytes, signature: bytes, digest: str) -> bytes:
        """The unsigned attribute, DER.

        Args:
            document: the digest of the PDF without the room for the signature.
            signature: the raw signature.
            digest: hashlib's name of the hash of both.
        """
        handler = PdfMacTokenHandler.from_key_mat(self.key, self.salt, digest)
        hashed = hashlib.new(digest, signature).digest()
        token = handler.build_pdfmac_token(document_digest=document, signature_digest=hashed)
        return cms.attribute(_MAC_DATA, token.dump())


def protection_of(writer: IncrementalPdfFileWriter) -> Protection | None:
    """What protects a PDF, if anything does."""
    handler = writer.security_handler
    if handler is None or not handler.pdf_mac_enabled:
        return None
    salt = handler.get_kdf_salt()
    return None if salt is None else Protection(handler.get_file_encryption_key(), salt)


def announce(writer: IncrementalPdfFileWriter, signature: Any) -> None:
    """Say in the trailer which signature carries the MAC; PDF signers of pyHanko do that themselves.

    Args:
        writer: writes the PDF.
        signature: reference to the signature's dictionary.
    """
    code = {pdf_name("/MACLocation"): pdf_name("/AttachedToSig"), pdf_name("/SigObjRef"): signature}
    writer.set_custom_trailer_entry(pdf_name("/AuthCode"), generic.DictionaryObject(code))
