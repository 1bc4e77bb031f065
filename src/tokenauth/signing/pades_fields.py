"""Where a PDF's signature goes, and how it looks."""

from __future__ import annotations

import datetime
import io
import re
from typing import TYPE_CHECKING, Any

from pyhanko.sign.fields import SigFieldSpec, SigSeedValueSpec, enumerate_sig_fields
from pyhanko.stamp import TextStampStyle

from tokenauth.errors import TokenAuthError
from tokenauth.inventory.certificates import name_of
from tokenauth.signing.model import Visible

if TYPE_CHECKING:
    from pathlib import Path

    from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter

    from tokenauth.signing.model import Job

__all__ = ["field_for", "style_for"]

_FONT_SIZE = 10  # points, until the text is scaled to its box


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


def style_for(job: Job) -> TextStampStyle:
    """How the signature looks, also where a field that is there gives it room.

    Args:
        job: the signature.

    Raises:
        TokenAuthError: the picture or the font can not be read, or the text needs a font.
    """
    from pyhanko.pdf_utils.text import TextBoxStyle

    visible = job.options.visible or Visible(1, 0, 0, 0, 0)
    text = _filled_in(visible.text, job)
    background = _image(visible.image) if visible.image is not None else None
    box = TextBoxStyle()
    if visible.font is not None:
        box = TextBoxStyle(font=_font(visible.font))
    elif job.options.visible is None:
        text = text.encode("latin-1", "replace").decode("latin-1")
    elif missing := _not_in_latin_1(text):
        raise TokenAuthError(
            f"the visible text has characters that need a font: {missing}", hint="name a TrueType or OpenType font file"
        )
    return TextStampStyle(
        stamp_text=text.replace("%", "%%"),  # pyHanko would fill in what it finds there
        text_box_style=box,
        background=background,
        border_width=0 if background else 1,
    )


def _filled_in(text: str, job: Job) -> str:
    moment = job.options.moment or datetime.datetime.now(datetime.UTC)
    values = {
        "signer": name_of(job.key.certificate),
        "time": f"{moment:%Y-%m-%d %H:%M:%S} UTC",
        "reason": job.options.reason,
        "location": job.options.location,
    }
    return re.sub(r"\{(signer|time|reason|location)\}", lambda found: values[found[1]], text)


def _not_in_latin_1(text: str) -> str:
    """The characters for which the PDF's built-in font has nothing."""
    return "".join(
        dict.fromkeys(char for char in text if not (char.isprintable() and ord(char) < 256) and char != "\n")
    )


def _font(path: Path) -> Any:
    """A font of the user's, of which the PDF gets the glyphs that the text needs."""
    from fontTools.ttLib import TTFont, TTLibError
    from pyhanko.pdf_utils.font.api import FontEngineFactory
    from pyhanko.pdf_utils.font.opentype import GlyphAccumulator

    try:
        content = path.read_bytes()
        TTFont(io.BytesIO(content), lazy=True)
    except (OSError, TTLibError) as error:
        raise TokenAuthError(
            f"the font {path} can not be read: {error}", hint="take a TrueType or OpenType file"
        ) from error

    class Factory(FontEngineFactory):
        """pyHanko's own leaves the file open."""

        def create_font_engine(self, writer: Any, obj_stream: Any = None) -> GlyphAccumulator:
            stream = writer.prepare_object_stream() if obj_stream is None and writer.stream_xrefs else obj_stream
            return GlyphAccumulator(writer, io.BytesIO(content), _FONT_SIZE, obj_stream=stream)

    return Factory()


def _image(path: Path) -> Any:
    """A picture as the background of a signature."""
    from PIL import UnidentifiedImageError
    from pyhanko.pdf_utils.images import PdfImage

    try:
        return PdfImage(str(path))
    except (OSError, UnidentifiedImageError) as error:
        raise TokenAuthError(f"the picture {path} can not be read: {error}", hint="take a PNG or JPEG file") from error
