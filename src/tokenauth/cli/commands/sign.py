"""``tokenauth sign``: sign documents with the key in a token."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import click

from tokenauth.cli.documents import (
    FILE,
    LEVEL,
    SEVERAL_FILES,
    VISIBLE,
    means_of,
    need_tsa,
    output_option,
    password_from,
    password_option,
    tsa_options,
)
from tokenauth.cli.options import (
    URI,
    forget_after_option,
    json_option,
    module_option,
    pin_for,
    pin_source_option,
    verbose_option,
)
from tokenauth.cli.signed import Results
from tokenauth.signing.model import CERTIFICATIONS, FORMATS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tokenauth.inventory.identity import Identity
    from tokenauth.signing.batch_planning import Entry
    from tokenauth.uri import TokenURI

__all__ = ["command"]

#: The formats that an option concerns; the others do not know what to do with it.
_CONCERNS = {
    "attached": ("cades",),
    "packaging": ("xades", "jws"),
    "append": ("asice", "asics"),
    "visible": ("pades",),
    "certify": ("pades",),
    "field": ("pades",),
    "reason": ("pades",),
    "location": ("pades",),
    "contact": ("pades",),
}


@click.command("sign", short_help="Sign documents.")
@SEVERAL_FILES
@click.option(
    "-i", "--identity", "uri", metavar="URI", type=URI, default="pkcs11:", help="[default: the one for documents]"
)
@output_option("beside each file")
@click.option("--format", type=click.Choice(FORMATS), help="[default: pades for PDFs, else asice]")
@click.option("--level", type=LEVEL, help="[default: b-b, or b-t with --tsa]")
@tsa_options
@click.option("--attached", is_flag=True, help="CAdES: the file is inside the signature (.p7m).")
@click.option(
    "--packaging",
    type=click.Choice(["enveloped", "enveloping", "detached"]),
    help="XAdES: where the signature is. [default: enveloped]; JWS: detached leaves the file outside.",
)
@click.option("--append", is_flag=True, help="Add a signature to an ASiC container that is there.")
@click.option("--visible", metavar="PAGE,X,Y,W,H", type=VISIBLE, help="Show the signature on a PDF's page, in points.")
@click.option("--visible-text", metavar="TEXT", help="With {signer}, {time}, {reason}, {location}; \\n begins a line.")
@click.option("--visible-image", metavar="FILE", type=FILE, help="A PNG or JPEG behind the text.")
@click.option("--visible-font", metavar="FILE", type=FILE, help="A TrueType or OpenType font.")
@click.option("--certify", type=click.Choice(CERTIFICATIONS), help="What a PDF still allows.")
@click.option("--field", metavar="NAME", help="The PDF's signature field. [default: the empty one, or a new one]")
@click.option("--reason", metavar="TEXT", help="Why it is signed (PDF).")
@click.option("--location", metavar="TEXT", help="Where it is signed (PDF).")
@click.option("--contact", metavar="TEXT", help="How to reach the signer (PDF).")
@password_option
@click.option("--pss", is_flag=True, help="RSA: RSASSA-PSS rather than PKCS #1 v1.5.")
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Files signed at a time.")
@click.option("--resume", is_flag=True, help="Leave what was signed before, and sign the rest.")
@click.option("--force", is_flag=True, help="Replace what is there.")
@click.option("--allow-final-try", is_flag=True, help="Spend the token's last PIN try, if it comes to that.")
@click.option("--wait", is_flag=True, help="Wait until the token is inserted.")
@json_option
@pin_source_option
@forget_after_option
@module_option
@verbose_option
@click.pass_context
def command(  # noqa: PLR0917 - click passes each option by itself
    context: click.Context,
    /,
    files: tuple[Path, ...],
    uri: TokenURI,
    target: Path | None,
    jobs: int,
    resume: bool,
    force: bool,
    as_json: bool,
    pss: bool,
    wait: bool,
    pin_source: str | None,
    module: str | None,
    allow_final_try: bool,
    forget_after: float | None,
    **given: Any,
) -> None:
    """Sign each FILE, or several that are not all PDFs in one container.

    \b
    contract.pdf                -> contract.signed.pdf  PAdES
    report.docx photo.jpg       -> report.asice         ASiC-E
    data.xml --format xades     -> data.signed.xml      XAdES
    big.iso --format cades      -> big.iso.p7s          CAdES
    claims.json --format jws    -> claims.jws           JWS

    The names of the signed files go to stdout; -o - writes one signed file itself there. All that can be checked is
    checked before the PIN is asked for.
    """
    if pin_source == given["password_source"] == "fd:0":
        raise click.UsageError("--pin-source fd:0 and --password-source fd:0 both read stdin")
    if as_json and str(target) == "-":
        raise click.UsageError("--json and -o - both write to stdout")
    entries = _planned(files, target, given, force=force, resume=resume)
    results = Results(len(entries), as_json=as_json)
    if not any(entry.task for entry in entries):
        context.exit(_tell_only(entries, results))
    from tokenauth.inventory.waiting import await_token
    from tokenauth.signing.choice import find_signer

    pin = pin_for(pin_source, uri)
    await_token(uri, wait=wait, module=module)
    signer = find_signer(uri, pin=pin, module=module, allow_final_try=allow_final_try, forget_after=forget_after)
    context.exit(_sign(entries, signer, results, jobs=jobs, pss=pss or None))


def _planned(files: tuple[Path, ...], target: Path | None, given: dict[str, Any], **how: Any) -> list[Entry]:
    """What is to be signed, and how.

    Raises:
        click.UsageError: options that do not go together.
        TokenAuthError: a file that options name can not be read, or the extra is not installed.
    """
    from tokenauth.signing.batch_planning import format_for, plan_files

    format, level, tsa = (given.pop(name) for name in ("format", "level", "tsa"))
    format = format or ("asice" if given["append"] else None)
    need_tsa(level, tsa)
    named = {name: value for name, value in given.items() if name in _CONCERNS and value not in (None, False)}
    _check_concerns(named, format_for(files, format))
    how |= {name: value for name, value in named.items() if name != "visible"}
    visible = _visible(given)
    to_bytes = target is not None and str(target) == "-"
    return plan_files(
        files,
        format=format,
        level=level,
        output=None if to_bytes else target,
        to_bytes=to_bytes,
        means=means_of(tsa, given["trust"], given["timeout"]),
        password=password_from(given["password_source"]),
        visible=visible,
        allow_lower_level=given["allow_lower_level"],
        **how,
    )


def _check_concerns(named: dict[str, Any], format: str) -> None:
    """See that the options that were given concern the format.

    Raises:
        click.UsageError: one does not.
    """
    for name in named:
        if format not in _CONCERNS[name]:
            wanted = " or ".join(_CONCERNS[name])
            raise click.UsageError(f"--{name} is for --format {wanted}, and the format is {format}")


def _visible(given: dict[str, Any]) -> Any:
    """Where and how the signature shows; takes its options away."""
    place = given.pop("visible")
    how = {name: given.pop(f"visible_{name}") for name in ("text", "image", "font")}
    named = {name: value for name, value in how.items() if value is not None}
    if place is None and named:
        raise click.UsageError(f"--visible-{next(iter(named))} needs --visible PAGE,X,Y,W,H")
    if "text" in named:
        named["text"] = named["text"].replace("\\n", "\n")
    return place and place._replace(**named)


def _tell_only(entries: list[Entry], results: Results) -> int:
    """For when there is nothing to sign: no card is needed."""
    from tokenauth.signing.batch import Outcome

    outcomes = [Outcome.of(entry) for entry in entries]
    for outcome in outcomes:
        results.tell(outcome)
    return results.finish(outcomes, "")


def _sign(entries: list[Entry], signer: Identity, results: Results, *, jobs: int, pss: bool | None) -> int:
    """Sign what is to be signed.

    Returns:
        The exit code.
    """
    from tokenauth.signing.batch import Batch

    batch = Batch(
        entries, signer, jobs=jobs, pss=pss, told=lambda outcome: results.tell(outcome, bar=not batch.asks_each_time)
    )
    who = f"as {signer.text_of('subject')}"
    try:
        with _ended_as_by_ctrl_c():
            outcomes = batch.run()
    except KeyboardInterrupt:
        return results.finish(batch.outcomes, who, interrupted=True)
    return results.finish(outcomes, who)


@contextmanager
def _ended_as_by_ctrl_c() -> Iterator[None]:
    """Let SIGTERM, and a terminal that is closed, leave nothing half-written either."""

    def end(_number: int, _frame: object) -> NoReturn:
        raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    caught = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in caught:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)
