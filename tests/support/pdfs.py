"""PDFs of the kinds that are signed, and what poppler's ``pdfsig`` says of their signatures."""

from __future__ import annotations

import io
import re
import subprocess
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from pyhanko.pdf_utils import generic
from pyhanko.pdf_utils.generic import pdf_name
from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter
from pyhanko.pdf_utils.writer import PageObject, PdfFileWriter
from pyhanko.sign.fields import SigFieldSpec, SigSeedValueSpec, append_signature_field

from tests.support.programs import require

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["PdfSignature", "hybrid", "one_page", "pdfsig", "trusting", "with_fields"]

_TIMEOUT = 60  # seconds


def one_page(*, password: str | None = None, filler: int = 0) -> bytes:
    """A PDF of one page, A4.

    Args:
        password: encrypts it.
        filler: bytes of an object that nothing refers to.
    """
    writer = PdfFileWriter(stream_xrefs=False)
    size = generic.ArrayObject(generic.NumberObject(number) for number in (0, 0, 595, 842))
    contents = generic.StreamObject(stream_data=b"0 0 1 rg 72 700 200 40 re f")
    writer.insert_page(PageObject(contents=writer.add_object(contents), media_box=size))
    if filler:
        writer.root[pdf_name("/Filler")] = writer.add_object(generic.StreamObject(stream_data=bytes(filler)))
    if password is not None:
        writer.encrypt(owner_pass="owner-" + password, user_pass=password)
    output = io.BytesIO()
    writer.write(output)
    return output.getvalue()


def with_fields(*names: str, seed: SigSeedValueSpec | None = None) -> bytes:
    """A PDF with empty signature fields.

    Args:
        names: of the fields.
        seed: what they ask of signatures.
    """
    writer = IncrementalPdfFileWriter(io.BytesIO(one_page()))
    for number, name in enumerate(names):
        box = (50, 50 + 100 * number, 250, 120 + 100 * number)
        append_signature_field(writer, SigFieldSpec(name, box=box, seed_value_dict=seed))
    output = io.BytesIO()
    writer.write(output)
    return output.getvalue()


def hybrid() -> bytes:
    """A hybrid-reference PDF (ISO 32000-2 section 7.5.8.4): a table, and a stream for what old readers do not see."""
    plain = [
        b"1 0 obj\n<</Type/Catalog/Pages 2 0 R/Hidden 5 0 R>>\nendobj\n",
        b"2 0 obj\n<</Type/Pages/Kids[3 0 R]/Count 1>>\nendobj\n",
        b"3 0 obj\n<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Resources<<>>>>\nendobj\n",
    ]
    inside = b"5 0 <</Secret(for new readers)>>"
    packed = zlib.compress(inside)
    size = len(packed)
    plain.append(
        b"4 0 obj\n<</Type/ObjStm/N 1/First 4/Length %d/Filter/FlateDecode>>\nstream\n%s\nendstream\nendobj\n"
        % (size, packed)
    )
    made, offsets = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", []
    for one in plain:
        offsets.append(len(made))
        made += one
    stream_at = len(made)
    entries = b"\x02" + (4).to_bytes(4, "big") + b"\x00"  # object 5 is the first one in object stream 4
    made += b"6 0 obj\n<</Type/XRef/Size 7/W[1 4 1]/Index[5 1]/Root 1 0 R/Length 6>>\nstream\n" + entries
    made += b"\nendstream\nendobj\n"
    offsets += [0, stream_at]
    table_at = len(made)
    made += b"xref\n0 7\n0000000000 65535 f \n"
    for number, offset in enumerate(offsets, 1):
        made += b"0000000000 00000 f \n" if number == 5 else b"%010d 00000 n \n" % offset
    made += b"trailer\n<</Size 7/Root 1 0 R/XRefStm %d>>\nstartxref\n%d\n%%%%EOF\n" % (stream_at, table_at)
    return made


class PdfSignature(NamedTuple):
    """What ``pdfsig`` says of one signature."""

    field: str
    kind: str
    validation: str
    certificate: str
    is_total: bool

    @property
    def is_good(self) -> bool:
        return self.validation == "Signature is Valid." and self.certificate == "Certificate is Trusted."


def trusting(root: Path, directory: Path) -> str:
    """A new NSS database that trusts a root, as the value of ``pdfsig -nssdir``.

    Args:
        root: PEM.
        directory: an empty one.
    """
    database = f"sql:{directory}"
    for command in (["-N", "--empty-password"], ["-A", "-n", "root", "-t", "CT,C,C", "-a", "-i", str(root)]):
        subprocess.run([require("certutil"), "-d", database, *command], check=True, timeout=_TIMEOUT)
    return database


def pdfsig(pdf: Path, database: str, *options: str) -> list[PdfSignature]:
    """What ``pdfsig`` says of a file; it asks the OCSP responders. Its exit code is 0 even for forged ones, so its
    words count.
    """
    command = [require("pdfsig"), "-nssdir", database, *options, str(pdf)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    parts = re.split(r"^Signature #\d+:$", done.stdout, flags=re.MULTILINE)[1:]
    return [_parsed(part) for part in parts if "Signature Validation" in part]  # the others are empty fields


def _parsed(text: str) -> PdfSignature:
    def said(what: str) -> Any:
        found = re.search(rf"^  - {what}: (.*)$", text, flags=re.MULTILINE)
        return found[1] if found else ""

    names: Sequence[str] = ("Signature Field Name", "Signature Type", "Signature Validation", "Certificate Validation")
    field, kind, validation, certificate = map(said, names)
    return PdfSignature(field, kind, validation, certificate, "  - Total document signed" in text)
