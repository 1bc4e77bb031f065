"""``tokenauth sign``: every format from the command line, judged by other programs; and every way to fail."""

from __future__ import annotations

import io
import json
import os
import sys
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import jwt
import pexpect
import pytest
from jwt.utils import base64url_decode
from PIL import Image
from pyhanko.pdf_utils.reader import PdfFileReader

from tests.support.command_line import COMMAND, TIMEOUT, environment, error_of, no_tokens, output_of, run, run_inside
from tests.support.documents import xmlsec1
from tests.support.faulty_module import FaultyModule
from tests.support.pdfs import one_page, pdfsig, trusting, with_fields
from tests.support.programs import openssl
from tokenauth.testing import SoftToken

if TYPE_CHECKING:
    import subprocess

XML = b"<order xmlns='urn:example'><item>ten apples</item></order>"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory with documents, in which commands run."""
    monkeypatch.chdir(tmp_path)
    for name, content in {
        "contract.pdf": one_page(),
        "report.docx": b"not really",
        "photo of Tõnu.jpg": b"a photo",
        "data.xml": XML,
        "big.iso": os.urandom(300_000),
        "claims.json": b'{"sub": "me"}',
    }.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


@pytest.fixture(scope="module")
def database(signers, tmp_path_factory):
    return trusting(signers.root_pem, tmp_path_factory.mktemp("nss"))


def sign(signers, *arguments, kind="p256", **variables) -> subprocess.CompletedProcess[str]:
    uri = f"{signers.token.uri};object=only%20{kind}"
    given = {"TOKENAUTH_PIN_SOURCE": "env:PIN", "PIN": signers.token.pin} | variables
    return run_inside("sign", "-i", uri, *map(str, arguments), **given)


def signed(signers, *arguments, **how) -> list[Path]:
    """The files that a command made, which it names on stdout."""
    return [Path(line) for line in output_of(sign(signers, *arguments, **how)).splitlines()]


def cms_is_good(signers, file: Path, *more: str | Path) -> None:
    """For ``openssl cms``; it writes what was signed."""
    trust: list[str | Path] = ["-CAfile", signers.root_pem, "-purpose", "any"]
    openssl("cms", "-verify", "-cades", "-binary", "-inform", "DER", "-in", file, *more, *trust, "-out", "/dev/null")


KINDS = ("rsa2048", "p256", "p384", "p521")


@pytest.mark.parametrize("kind", KINDS)
def test_pdf(signers, here, database, kind):
    assert signed(signers, "contract.pdf", kind=kind) == [Path("contract.signed.pdf")]
    [found] = pdfsig(here / "contract.signed.pdf", database)
    assert found.is_good
    assert found.is_total


@pytest.mark.parametrize("kind", KINDS)
def test_several_files_go_into_one_container(signers, here, kind):
    done = sign(signers, "report.docx", "photo of Tõnu.jpg", kind=kind)
    assert output_of(done) == "report.asice\n"
    assert "want level B-LT" in done.stderr
    with zipfile.ZipFile("report.asice") as container:
        assert container.namelist()[0] == "mimetype"
        container.extractall("out")
    assert (here / "out/photo of Tõnu.jpg").read_bytes() == b"a photo"
    assert xmlsec1(here / "out/META-INF/signatures0.xml", signers.root_pem, directory=here / "out") == ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("packaging", ["enveloped", "enveloping", "detached"])
def test_xml(signers, here, kind, packaging):
    [made] = signed(signers, "data.xml", "--format", "xades", "--packaging", packaging, kind=kind)
    assert made.name == ("data.xml.xades.xml" if packaging == "detached" else "data.signed.xml")
    assert xmlsec1(here / made, signers.root_pem) == ""


@pytest.mark.parametrize("kind", KINDS)
def test_cades(signers, here, kind):
    assert signed(signers, "big.iso", "--format", "cades", kind=kind) == [Path("big.iso.p7s")]
    cms_is_good(signers, here / "big.iso.p7s", "-content", here / "big.iso")
    assert signed(signers, "big.iso", "--format", "cades", "--attached", kind=kind) == [Path("big.iso.p7m")]
    cms_is_good(signers, here / "big.iso.p7m")


def test_rsa_pss(signers, here):
    signed(signers, "big.iso", "--format", "cades", "--pss", kind="rsa2048")
    cms_is_good(signers, here / "big.iso.p7s", "-content", here / "big.iso")
    assert b"rsassaPss" in openssl("cms", "-cmsout", "-print", "-inform", "DER", "-in", here / "big.iso.p7s")


@pytest.mark.parametrize("kind", [*KINDS, "ed25519"])
def test_jws(signers, here, kind):
    assert signed(signers, "claims.json", "--format", "jws", kind=kind) == [Path("claims.jws")]
    made = Path("claims.jws").read_text()
    key = signers.keys[kind].certificate.public_key()
    algorithms = ["RS256", "ES256", "ES384", "ES512", "EdDSA"]
    assert jwt.decode(made, key, algorithms=algorithms) == {"sub": "me"}
    assert jwt.get_unverified_header(made)["x5c"]


def test_jws_with_the_file_outside(signers, here):
    signed(signers, "claims.json", "--format", "jws", "--packaging", "detached")
    header, payload, _ = Path("claims.jws").read_text().split(".")
    assert payload == ""
    assert json.loads(base64url_decode(header))["b64"] is False


def test_asics(signers, here):
    done = sign(signers, "report.docx", "data.xml", "--format", "asics")
    assert output_of(done).splitlines() == ["report.asics", "data.asics"]
    assert done.stderr.count("most readers of .asics containers") == 1


LEVELS = ["b-t", "b-lt", "b-lta"]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("format", ["pades", "cades", "xades", "asice"])
def test_levels(signers, here, database, format, level):
    name = {"pades": "contract.pdf", "xades": "data.xml"}.get(format, "big.iso")
    how = ("--tsa", signers.services.tsa, "--trust", signers.root_pem)
    done = sign(signers, name, "--format", format, "--level", level, *how)
    [made] = map(Path, output_of(done).splitlines())
    assert ("want level B-LT" in done.stderr) == (format == "asice" and level == "b-t")
    report = json.loads(output_of(run_inside("verify", "--trust", str(signers.root_pem), "--json", str(made))))
    assert [(one["status"], one["level"], one["format"]) for one in report[0]["signatures"]] == [
        ("valid", level, format)
    ]
    if format == "pades":
        assert pdfsig(here / made, database)[0].is_good
    elif format == "cades":
        cms_is_good(signers, here / made, "-content", here / name)


def test_a_process_of_its_own(signers, here):
    uri, pin = f"{signers.token.uri};object=only%20p256", signers.token.pin
    done = run("sign", "contract.pdf", "-i", uri, TOKENAUTH_PIN_SOURCE="env:PIN", PIN=pin)
    assert (output_of(done), done.stderr) == ("contract.signed.pdf\n", "tokenauth: signed as CN=only p256\n")
    assert "contract.signed.pdf: VALID" in output_of(
        run("verify", "contract.signed.pdf", "--trust", str(signers.root_pem))
    )


def test_a_time_stamp_is_the_default_with_an_authority(signers, here):
    [made] = signed(signers, "contract.pdf", "--tsa", signers.services.tsa)
    assert "b-t" in output_of(run_inside("verify", "--trust", str(signers.root_pem), "--json", str(made)))


def test_an_authority_that_does_not_answer(signers, here):
    signers.services.is_down = True
    try:
        line = error_of(sign(signers, "contract.pdf", "--tsa", signers.services.tsa), 5)
        assert "answers with HTTP status 503" in line
        assert not Path("contract.signed.pdf").exists()
        done = sign(signers, "contract.pdf", "--tsa", signers.services.tsa, "--allow-lower-level")
        assert "stays below level B-T" in done.stderr
        assert output_of(done) == "contract.signed.pdf\n"
    finally:
        signers.services.is_down = False


def test_what_pdf_readers_show(signers, here, database):
    Image.new("RGB", (40, 20), "navy").save("logo.png")
    how = ("--visible", "1,50,60,200,80", "--visible-text", r"By {signer}\n{reason}", "--visible-image", "logo.png")
    why = ("--reason", "I agree", "--location", "Tartu", "--contact", "me@example", "--certify", "fill-forms")
    [made] = signed(signers, "contract.pdf", *how, *why, "--field", "Mine")
    [found] = pdfsig(here / made, database)
    assert found.is_good
    assert found.field == "Mine"
    reader = PdfFileReader(io.BytesIO(made.read_bytes()))
    [one] = reader.embedded_signatures
    assert [one.sig_object[name] for name in ("/Reason", "/Location", "/ContactInfo")] == [
        "I agree",
        "Tartu",
        "me@example",
    ]
    assert [int(number) for number in one.sig_field["/Rect"]] == [50, 60, 250, 140]
    assert one.docmdp_level is not None


def test_a_field_that_is_there(signers, here, database):
    Path("form.pdf").write_bytes(with_fields("A", "B"))
    assert "name one of: 'A', 'B'" in error_of(sign(signers, "form.pdf"), 1)
    [made] = signed(signers, "form.pdf", "--field", "B")
    assert [one.field for one in pdfsig(here / made, database)] == ["B"]


def test_an_encrypted_pdf(signers, here):
    Path("secret.pdf").write_bytes(one_page(password="geheim"))
    Path("word").touch(mode=0o600)
    Path("word").write_text("geheim\n")
    assert "the PDF is encrypted" in error_of(sign(signers, "secret.pdf"), 1)
    line = error_of(sign(signers, "secret.pdf", "--password-source", "env:NONE"), 1)
    assert line == "the PDF's password: environment variable 'NONE' is not set"
    assert "password is wrong" in error_of(sign(signers, "secret.pdf", "--password-source", "env:W", W="falsch"), 1)
    assert signed(signers, "secret.pdf", "--password-source", "file:word") == [Path("secret.signed.pdf")]
    report = run_inside(
        "verify", "secret.signed.pdf", "--trust", str(signers.root_pem), "--password-source", "env:W", W="geheim"
    )
    assert "secret.signed.pdf: VALID" in output_of(report)
    assert "geheim" not in report.stdout + report.stderr


def test_a_password_that_is_typed(signers, here):
    Path("secret.pdf").write_bytes(one_page(password="geheim"))
    arguments = [*COMMAND[1:], "sign", "secret.pdf", "-i", f"{signers.token.uri};object=only%20p256"]
    terminal = pexpect.spawn(
        COMMAND[0],
        [*arguments, "--password-source", "prompt"],
        env=environment(TOKENAUTH_PIN_SOURCE="env:PIN", PIN=signers.token.pin),
        timeout=TIMEOUT,
        encoding="utf-8",
    )
    terminal.expect("Password of the PDF: ")
    terminal.sendline("geheim")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
    assert "geheim" not in terminal.before
    assert "no terminal" in error_of(sign(signers, "secret.pdf", "--password-source", "prompt"), 1)


def test_where_it_goes(signers, here):
    (here / "out").mkdir()
    assert signed(signers, "contract.pdf", "-o", "out") == [Path("out/contract.signed.pdf")]
    assert signed(signers, "contract.pdf", "-o", "mine.pdf") == [Path("mine.pdf")]
    assert signed(signers, "contract.pdf", "-o", "mine.pdf") == [Path("mine.pdf")]  # it was named
    signed(signers, "contract.pdf", "-o", "contract.pdf")  # a PDF holds what it was
    line = error_of(sign(signers, "big.iso", "--format", "cades", "-o", "big.iso"), 1)
    assert line.startswith("big.iso would be replaced by its own signature")
    assert Path("big.iso").stat().st_size == 300_000


def test_to_stdout(signers, here):
    done = sign(signers, "claims.json", "--format", "jws", "-o", "-")
    assert jwt.decode(output_of(done), signers.keys["p256"].certificate.public_key(), algorithms=["ES256"])
    assert not Path("claims.jws").exists()
    assert not Path("-").exists()
    uri, pin = f"{signers.token.uri};object=only%20p256", signers.token.pin
    how = ("--format", "jws", "-o", "/dev/stdout", "-i", uri)
    done = run("sign", "claims.json", *how, TOKENAUTH_PIN_SOURCE="env:PIN", PIN=pin)
    assert output_of(done).endswith("/dev/stdout\n")
    assert done.stdout.count(".") == 2


def test_a_second_signature(signers, here):
    signed(signers, "report.docx")
    line = error_of(sign(signers, "report.asice"), 1)
    assert "add a signature to it with append=True (--append)" in line
    assert signed(signers, "report.asice", "--append", kind="p384") == [Path("report.asice")]
    report = json.loads(output_of(run_inside("verify", "report.asice", "--json", "--trust", str(signers.root_pem))))
    assert [one["signer"] for one in report[0]["signatures"]] == ["CN=only p256", "CN=only p384"]
    done = sign(signers, "report.docx", "--append")
    assert done.returncode == 1
    assert "error: report.docx is no ZIP file" in done.stderr


# --- what is checked before a PIN is asked for ---


@pytest.fixture
def card(signers, tmp_path_factory):
    """The same token, behind a module that counts."""
    return FaultyModule(signers.token, tmp_path_factory.mktemp("card"))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["none.pdf"], 1, "none.pdf: No such file or directory"),
        (["."], 1, ". is no ordinary file"),
        (["pipe"], 1, "pipe is no ordinary file"),
        (["contract.pdf", "-o", "none/x.pdf"], 1, "no such directory"),
        (["contract.pdf", "--tsa", "http://127.0.0.1:1/"], 5, "does not answer: Connection refused"),
        (["contract.pdf", "--tsa", "ftp://x/"], 5, "is no URL of a time-stamping authority"),
        (["contract.pdf", "--visible", "7,1,1,9,9"], 1, "no page 7"),
        (["contract.pdf", "--visible", "1,1,1,9,9", "--visible-image", "none.png"], 1, "none.png can not be read"),
        (["contract.pdf", "--visible", "1,1,1,9,9", "--visible-text", "\N{SNOWMAN}"], 1, "need a font"),
        (["contract.pdf", "--trust", "none.pem"], 1, "none.pem can not be read"),
        (["report.docx", "--format", "xades"], 1, "report.docx"),
        (["report.docx", "--format", "pades"], 1, "report.docx can not be signed"),
        (["data.xml", "--format", "jws", "--level", "b-t", "--tsa", "http://127.0.0.1:1/"], 5, ""),
    ],
)
def test_checked_before_the_pin(signers, here, card, arguments, code, said):
    line = error_of(sign(signers, *arguments, "--module", card.path), code)
    assert said in line
    assert card.calls("C_Login") == 0
    assert not list(here.glob("*.signed.*"))
    assert not list(here.glob(".*"))


def test_a_key_that_the_format_does_not_take(signers, here, card):
    line = error_of(sign(signers, "data.xml", "--format", "xades", "--module", card.path, kind="ed25519"), 1)
    assert "Ed25519" in line
    assert card.calls("C_Login") == 0


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["contract.pdf", "--format", "doc"],
        ["contract.pdf", "--level", "b-t"],
        ["contract.pdf", "--level", "high"],
        ["contract.pdf", "--attached"],
        ["contract.pdf", "--packaging", "detached"],
        ["contract.pdf", "--append", "--format", "pades"],
        ["big.iso", "--visible", "1,1,1,9,9"],
        ["big.iso", "--certify", "annotate"],
        ["contract.pdf", "--visible-text", "x"],
        ["contract.pdf", "--visible", "0,1,1,9,9"],
        ["contract.pdf", "--visible", "1,1,1,0,9"],
        ["contract.pdf", "--visible", "1,1,1,9"],
        ["contract.pdf", "--visible", "1,nan,1,9,9"],
        ["contract.pdf", "--jobs", "0"],
        ["contract.pdf", "-o", "none/"],
        ["contract.pdf", "-o", "-", "--json"],
        ["contract.pdf", "--certify", "all"],
        ["contract.pdf", "--password-source", "geheim"],
        ["contract.pdf", "--pin-source", "fd:0", "--password-source", "fd:0"],
        ["contract.pdf", "--pin", "1234"],
    ],
)
def test_wrong_usage(here, arguments):
    line = error_of(run_inside("sign", *arguments), 2)
    assert "geheim" not in line
    assert "tokenauth sign --help" in line


def test_no_token(signers, here, tmp_path):
    assert "no token matches" in error_of(run("sign", "contract.pdf", **no_tokens(tmp_path)), 3)


def test_the_certificate(here):
    with SoftToken("cli-sign", key_type=None, pin="123456") as token:
        give = {"TOKENAUTH_PIN_SOURCE": "env:PIN", "PIN": token.pin}
        old = datetime.now(UTC) - timedelta(days=1)
        token.add_identity("old", purposes=("document",), not_after=old)
        assert "'old' expired on" in error_of(run_inside("sign", "contract.pdf", "-i", token.uri, **give), 3)
        token.add_identity("login")
        done = run_inside("sign", "contract.pdf", "-i", token.uri, **give)
        assert output_of(done) == "contract.signed.pdf\n"
        assert "'login' on 'cli-sign', which is for authentication, signs" in done.stderr
        done = run_inside("sign", "contract.pdf", "--force", "-i", f"{token.uri};object=login", **give)
        assert done.stderr == "tokenauth: signed as CN=login\n"
        token.add_identity("one", purposes=("document",))
        done = run_inside("sign", "contract.pdf", "--force", "-i", token.uri, **give)
        assert done.stderr == "tokenauth: signed as CN=one\n"
        token.add_identity("two", purposes=("document",))
        line = error_of(run_inside("sign", "contract.pdf", "--force", "-i", token.uri, **give), 3)
        assert line.startswith("2 certificates can sign documents; name one of: pkcs11:token=cli-sign;")


def test_a_wrong_pin(signers, here, card):
    card.set(pin_tries=3)
    line = error_of(sign(signers, "contract.pdf", "--module", card.path, PIN="000000"), 4)
    assert "the PIN is wrong" in line
    assert "000000" not in line
    assert card.pin_left == 2
    assert card.calls("C_Login") == 1
    assert not Path("contract.signed.pdf").exists()
    assert not list(here.glob(".*"))
    card.set(pin_tries=(3, 1))
    assert "not spent unasked" in error_of(sign(signers, "contract.pdf", "--module", card.path), 4)
    output_of(sign(signers, "contract.pdf", "--module", card.path, "--allow-final-try"))


def test_a_missing_extra(here):
    """As where only ``tokenauth`` is installed."""
    script = (
        "import importlib.util as u; real = u.find_spec;"
        "u.find_spec = lambda name, *more: None if name in ('pyhanko', 'lxml') else real(name, *more);"
        "from tokenauth.cli import main; main()"
    )
    for command in ("sign", "verify", "extend", "container list"):
        done = pexpect.run(
            f'{sys.executable} -c "{script}" {command} contract.pdf',
            env=environment(),
            withexitstatus=True,
            encoding="utf-8",
        )
        assert done[1] == 1
        assert "documents need lxml, pyhanko, and that is not installed; pip install 'tokenauth[sign]'" in done[0]
