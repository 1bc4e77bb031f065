"""Where a PDF's signature goes, and how it looks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhanko.sign.fields import SigFieldSpec, SigSeedValueSpec, enumerate_sig_fields
from pyhanko.stamp import TextStampStyle

from tokenauth.errors import TokenAuthError

if TYPE_CHECKING:
    from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter

    from tokenauth.signing.model import Job, Visible

__all__ = ["field_for", "style_for"]


def field_for(writer: IncrementalPdfFileWriter, job: Job) -> tuple[str, SigFieldSpec | None]:
    """Which field to sign, and how to make it if it is not there.

    Args:
        writer: the PDF.
        job: names the field, or where the signature shows.

    Raises:
        TokenAuthError: several fields would do, the field is taken or asks for more, or there is no such page.
    """
    name, visible = job.options.field, job.options.visible
    fields = {field: value is not None for field, value, _ in enumerate_sig_fields(writer)}
    pages = int(writer.root["/Pages"]["/Count"])
    if visible is not None and not 1 <= abs(visible.page) <= pages:
        raise TokenAuthError(f"the PDF has {pages} page(s), and no page {visible.page}", hint="name another page")
    empty = [field for field, is_signed in fields.items() if not is_signed]
    if name is None and visible is None and len(empty) > 1:
        raise TokenAuthError(
            f"the PDF has {len(empty)} empty signature fields", hint=f"name one of: {', '.join(map(repr, empty))}"
        )
    if name is None and visible is None and empty:
        name = empty[0]
    chosen = name or next(free for n in range(1, len(fields) + 2) if (free := f"Signature{n}") not in fields)
    if fields.get(chosen):
        raise TokenAuthError(f"the signature field {chosen!r} is signed already", hint="name another field, or none")
    if chosen in fields:
        _check_seed(writer, chosen, job)
        return chosen, None
    if visible is None:
        return chosen, SigFieldSpec(chosen)
    page = visible.page - 1 if visible.page > 0 else visible.page
    left, bottom = round(visible.x), round(visible.y)
    box = (left, bottom, round(visible.x + visible.width), round(visible.y + visible.height))
    return chosen, SigFieldSpec(chosen, on_page=page, box=box)


def _check_seed(writer: IncrementalPdfFileWriter, name: str, job: Job) -> None:
    """What pyHanko leaves to a time stamper of its own: a field may ask for a time stamp (ISO 32000-2 table 237)."""
    [reference] = [found for field, _, found in enumerate_sig_fields(writer) if field == name]
    seed = reference.get_object().get("/SV")
    if seed is None or job.reaches("b-t"):
        return
    asked = SigSeedValueSpec.from_pdf_object(seed)
    if asked.timestamp_required:
        raise TokenAuthError(
            f"the signature field {name!r} asks for a time stamp",
            hint=f"ask for level b-t, with the authority {asked.timestamp_server_url or 'of your choice'}",
        )


def style_for(visible: Visible | None) -> TextStampStyle:
    """How the signature looks, also where a field that is there gives it room.

    Raises:
        TokenAuthError: the picture can not be read.
    """
    text = "Signed by {signer}\n{time}" if visible is None else visible.text
    for ours, theirs in (("%", "%%"), ("{signer}", "%(signer)s"), ("{time}", "%(ts)s")):
        text = text.replace(ours, theirs)
    for name in ("reason", "location"):
        text = text.replace(f"{{{name}}}", f"%({name})s")
    background = None
    if visible is not None and visible.image is not None:
        background = _image(visible.image)
    return TextStampStyle(stamp_text=text, background=background, border_width=0 if background else 1)


def _image(path: Any) -> Any:
    """A picture as the background of a signature."""
    try:
        from PIL import UnidentifiedImageError
        from pyhanko.pdf_utils.images import PdfImage
    except ImportError:
        raise TokenAuthError(
            "pictures in PDF signatures need the package Pillow", hint="pip install 'tokenauth[sign]' Pillow"
        ) from None
    try:
        return PdfImage(str(path))
    except (OSError, UnidentifiedImageError) as error:
        raise TokenAuthError(f"the picture {path} can not be read: {error}", hint="take a PNG or JPEG file") from error
