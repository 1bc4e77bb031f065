"""``tokenauth verify``, ``extend`` and ``container``."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.command_line import error_of, output_of, run_here, run_inside
from tests.support.documents import xmlsec1
from tests.support.pdfs import one_page, pdfsig, trusting
from tests.support.programs import openssl
from tests.support.signed_files import FORMATS, certified, made, pki
from tests.test_verification_chains import signed_list, trusted_list
from tokenauth import signing
from tokenauth.cli.documents import VISIBLE
from tokenauth.signing.model import Means
from tokenauth.testing import Authority

if TYPE_CHECKING:
    import subprocess

NAMES = {
    "pades": "contract.signed.pdf",
    "cades": "order.txt.p7s",
    "cades attached": "order.txt.p7m",
    "xades enveloped": "order.signed.xml",
    "xades enveloping": "order.enveloping.xml",
    "xades detached": "order.detached.xml",
    "asice": "order.asice",
    "asics": "order.asics",
    "jws": "order.jws",
    "jws detached": "order.txt.jws",
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Signed files, what detached ones are of, and whom to trust."""
    monkeypatch.chdir(tmp_path)
    for name, file in NAMES.items():
        Path(file).write_bytes(made(name, pki().keys["p256"]))
        document = FORMATS[name].document
        Path(document.name).write_bytes(document.read())
    Path("root.pem").write_bytes(pki().root.pem)
    return tmp_path


def verify(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return run_inside("verify", *map(str, arguments), **variables)


def reports(*arguments: str | Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(verify(*arguments, "--json").stdout)
    return found


def test_all_formats_are_valid(here):
    done = verify(*NAMES.values(), "--trust", "root.pem")
    assert done.stderr == ""
    for file in NAMES.values():
        assert f"{file}: VALID\n  VALID\n    signer    CN=signer p256\n" in output_of(done)
    assert "covers    order.txt\n" in done.stdout


def test_json(here):
    found = reports(*NAMES.values(), "--trust", "root.pem")
    assert [one["file"] for one in found] == list(NAMES.values())
    for name, one in zip(NAMES, found, strict=True):
        assert set(one) == {"file", "status", "signatures"}
        [signature] = one["signatures"]
        assert set(signature) == {"status", "reason", "signer", "time", "level", "format", "covers"}
        assert (one["status"], signature["status"]) == ("valid", "valid")
        assert (signature["signer"], signature["format"]) == ("CN=signer p256", FORMATS[name].format)


def test_exit_codes(here):
    tampered = bytearray(Path("order.txt.p7m").read_bytes())
    tampered[tampered.index(b"ten apples")] ^= 1
    Path("tampered.p7m").write_bytes(tampered)
    Path("plain.pdf").write_bytes(one_page())
    cases = {
        ("order.jws",): 0,
        ("plain.pdf",): 11,
        ("order.jws", "plain.pdf"): 11,
        ("tampered.p7m",): 10,
        ("order.jws", "tampered.p7m", "plain.pdf"): 10,
        ("none.pdf",): 11,
        ("root.pem",): 11,
    }
    for files, code in cases.items():
        done = verify(*files, "--trust", "root.pem")
        assert done.returncode == code, (files, done.stdout)
        assert done.stdout.count("VALID\n") + done.stdout.count("INDETERMINATE, ") >= len(files)
    assert "tampered.p7m: INVALID\n" in verify("tampered.p7m", "--trust", "root.pem").stdout
    assert "plain.pdf: INDETERMINATE, the file holds no signature" in verify("plain.pdf").stdout
    assert "none.pdf: INDETERMINATE, can not be read: No such file" in verify("none.pdf").stdout


def test_json_of_what_holds_no_signature(here):
    done = verify("none.pdf", "order.jws", "--json", "--trust", "root.pem")
    assert done.returncode == 11
    found = json.loads(done.stdout)
    assert found[0] == {"file": "none.pdf", "status": "indeterminate", "signatures": []}
    assert done.stderr == "tokenauth: none.pdf: can not be read: No such file or directory\n"


def test_whom_to_trust(here):
    stranger = Authority("stranger")
    Path("stranger.pem").write_bytes(stranger.pem)
    assert verify("order.jws").returncode == 11  # the system's certificates
    assert "is not trusted: give its certificate with --trust" in verify("order.jws").stdout
    assert verify("order.jws", "--trust", "stranger.pem").returncode == 11
    assert verify("order.jws", "--trust", "stranger.pem", "--trust", "root.pem").returncode == 0
    assert verify("order.jws", SSL_CERT_FILE=str(here / "root.pem")).returncode == 0
    both = {"SSL_CERT_FILE": str(here / "root.pem")}
    assert verify("order.jws", "--trust", "stranger.pem", **both).returncode == 11
    assert verify("order.jws", "--trust", "stranger.pem", "--system-trust", **both).returncode == 0
    assert "none.pem can not be read" in error_of(verify("order.jws", "--trust", "none.pem"), 1)


def test_an_eu_trusted_list(here):
    operator = certified(Authority("operator"))
    Path("list.xml").write_bytes(signed_list(operator, trusted_list()))
    Path("operator.pem").write_bytes(operator.certificate.public_bytes(Encoding.PEM))
    done = verify("order.jws", "--trust", "list.xml")
    assert "the trusted list list.xml was not itself checked" in output_of(done)
    done = verify("order.jws", "--trust", "list.xml", "--list-signer", "operator.pem")
    assert "list.xml" not in output_of(done)
    assert "signed by somebody else" in error_of(
        verify("order.jws", "--trust", "list.xml", "--list-signer", "root.pem"), 1
    )


def test_what_a_detached_signature_is_of(here):
    Path("order.txt").rename("elsewhere.txt")
    assert verify("order.txt.p7s", "--trust", "root.pem").returncode != 0
    assert verify("order.txt.p7s", "--trust", "root.pem", "--content", "elsewhere.txt").returncode == 0
    assert verify("order.txt.p7s", "--trust", "root.pem", "--content", "root.pem").returncode == 10
    assert "its signature is verified with the file order.jws.p7s" not in verify("order.jws").stdout


def test_at_another_time(here):
    done = verify("order.jws", "--trust", "root.pem", "--at", "2001-01-01")
    assert done.returncode == 11
    assert "2001" not in error_of(verify("order.jws", "--at", "soon"), 2)


@pytest.mark.parametrize("arguments", [[], ["x.pdf", "--at", "soon"], ["x.pdf", "--online", "--offline"]])
def test_wrong_usage(arguments):
    error_of(verify(*arguments), 2)


def test_revocations_are_asked_for_unless_offline(signers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("order.jws").write_bytes(made("jws", signers.keys["p256"]))
    before = len(signers.services.requests)
    done = verify("order.jws", "--trust", signers.root_pem, "--offline")
    assert done.returncode == 11
    assert "whether its certificates were revoked is not known" in done.stdout
    # Nobody is asked whom only the document names.
    assert verify("order.jws").returncode == 11
    assert len(signers.services.requests) == before
    output_of(verify("order.jws", "--trust", signers.root_pem))
    assert len(signers.services.requests) > before


# --- extend ---


@pytest.mark.parametrize("name", ["pades", "cades", "xades enveloped", "asice"])
def test_a_level_is_raised_with_no_card(signers, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    file, document = Path(NAMES[name]), FORMATS[name].document
    file.write_bytes(made(name, signers.keys["p256"]))
    Path(document.name).write_bytes(document.read())
    trust = ("--trust", str(signers.root_pem))
    how = ("--tsa", signers.services.tsa, *trust)
    for level, asked in (("b-t", ("--level", "b-t")), ("b-lt", ("--level", "b-lt")), ("b-lta", ())):
        done = run_inside("extend", str(file), *asked, *how, TOKENAUTH_MODULE="/nonexistent")
        assert output_of(done) == f"{file}\n"
        [report] = reports(file, *trust)
        assert [one["level"] for one in report["signatures"]] == [level]
        assert report["status"] == "valid"
    if name == "pades":
        database = trusting(signers.root_pem, tmp_path / "nss") if (tmp_path / "nss").mkdir() is None else ""
        assert pdfsig(file, database)[0].is_good
    elif name == "cades":
        files: list[str | Path] = ["-in", file, "-content", document.name, "-out", "/dev/null"]
        openssl("cms", "-verify", "-cades", "-binary", "-inform", "DER", *files, "-CAfile", signers.root_pem)
    elif name == "asice":
        with zipfile.ZipFile(file) as container:
            container.extractall("out")
        assert xmlsec1(tmp_path / "out/META-INF/signatures0.xml", signers.root_pem, directory=tmp_path / "out") == ""


def test_extend_fails_as_it_should(signers, here):
    before = Path("order.asice").read_bytes()
    line = error_of(run_inside("extend", "order.asice", "--tsa", "http://127.0.0.1:1/", "--trust", "root.pem"), 5)
    assert "does not answer" in line
    assert Path("order.asice").read_bytes() == before
    assert "needs a time stamp" in error_of(run_inside("extend", "order.asice", "--level", "b-t"), 2)
    assert "is no signed file whose level can be raised" in error_of(run_inside("extend", "root.pem"), 1)
    assert "No such file" in error_of(run_inside("extend", "none.pdf"), 1)
    done = run_inside("extend", "none.pdf", "order.jws", "--tsa", signers.services.tsa)
    assert done.returncode == 1
    assert "error: none.pdf: No such file or directory" in done.stderr
    assert "2 failed" in done.stderr
    assert "is no directory" in error_of(run_inside("extend", "order.jws", "order.asice", "-o", "x"), 2)


def test_extend_to_another_file(signers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    original = made("pades", signers.keys["p256"])
    Path("a.pdf").write_bytes(original)
    (tmp_path / "out").mkdir()
    how = ("--tsa", signers.services.tsa, "--trust", str(signers.root_pem), "--level", "b-t")
    assert output_of(run_inside("extend", "a.pdf", "-o", "b.pdf", *how)) == "b.pdf\n"
    assert output_of(run_inside("extend", "a.pdf", "-o", "out", *how)) == "out/a.pdf\n"
    assert Path("a.pdf").read_bytes() == original


# --- containers ---


def container(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_inside("container", *arguments)


def test_containers_are_listed(here):
    size = FORMATS["asice"].document.size
    assert output_of(container("list", "order.asice")) == (
        f"{size:>12}  order.txt\n   signature  META-INF/signatures0.xml\n"
    )
    assert json.loads(output_of(container("list", "order.asics", "--json"))) == {
        "type": "application/vnd.etsi.asic-s+zip",
        "files": [{"name": "order.txt", "size": size}],
        "signatures": ["META-INF/signatures.xml"],
    }


def test_containers_are_extracted(here):
    assert output_of(container("extract", "order.asice", "-o", "out")) == "out/order.txt\n"
    assert Path("out/order.txt").read_bytes() == FORMATS["asice"].document.read()
    Path("out/order.txt").write_text("mine")
    line = error_of(container("extract", "order.asice", "-o", "out"), 1)
    assert line.startswith("out/order.txt is there already")
    assert Path("out/order.txt").read_text() == "mine"


def hostile(entries: dict[str, bytes], compress: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile("hostile.asice", "w") as made_of:
        made_of.writestr("mimetype", "application/vnd.etsi.asic-e+zip")
        for name, content in entries.items():
            made_of.writestr(name, content, compress)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"../evil": b"x"}, "a file whose name is not accepted: '../evil'"),
        ({"/etc/evil": b"x"}, "a file whose name is not accepted"),
        ({"a\\..\\evil": b"x"}, "a file whose name is not accepted"),
        ({"a": b"x", "A": b"y"}, "two files whose names are the same on some systems"),
        ({"a": b"x", "a/b": b"y"}, "a file that is a directory as well"),
        ({"bomb": bytes(80_000_000)}, "as only a ZIP bomb does"),
    ],
)
@pytest.mark.parametrize("command", ["list", "extract"])
def test_hostile_containers_are_refused(tmp_path, monkeypatch, capsys, entries, said, command):
    monkeypatch.chdir(tmp_path)
    hostile(entries, zipfile.ZIP_DEFLATED)
    code, output, errors = run_here(capsys, "container", command, "hostile.asice")
    assert (code, output) == (1, "")
    assert said in errors
    assert [path.name for path in tmp_path.iterdir()] == ["hostile.asice"]
    assert not (tmp_path.parent / "evil").exists()


def test_what_is_no_container(here, capsys):
    for file in ("root.pem", "contract.signed.pdf", "none.asice"):
        code, _, errors = run_here(capsys, "container", "list", file)
        assert code == 1
        assert errors.startswith(f"tokenauth: error: {file}")


# --- input of all kinds ---

_QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
_NUMBERS = st.one_of(st.integers().map(str), st.floats().map(str), st.text(max_size=6))


@_QUICK
@given(st.one_of(st.text(max_size=40), st.lists(_NUMBERS, min_size=4, max_size=6).map(",".join)))
def test_any_place_is_taken_or_refused(text):
    try:
        place = VISIBLE.convert(text, None, None)
    except click.BadParameter:
        return
    assert place.page != 0
    assert all(abs(number) <= 14400 for number in place[1:5])
    assert place.width >= 1
    assert place.height >= 1


@_QUICK
@given(st.text(max_size=30))
def test_any_time_and_password_source_is_taken_or_refused(capsys, text):
    for option in ("--at", "--password-source"):
        code, output, _ = run_here(capsys, "verify", "/nonexistent.pdf", f"{option}={text}")
        assert code in (1, 2, 11)
        assert output == "" or code == 11


@_QUICK
@given(content=st.binary(max_size=200))
def test_any_file_gets_a_verdict(tmp_path, capsys, content):
    (tmp_path / "any").write_bytes(content)
    code, output, _ = run_here(capsys, "verify", "--json", "--trust", str(_root(tmp_path)), str(tmp_path / "any"))
    assert code in (10, 11)
    assert json.loads(output)[0]["status"] in ("invalid", "indeterminate")
    assert run_here(capsys, "container", "list", str(tmp_path / "any"))[0] == 1
    assert run_here(capsys, "extend", str(tmp_path / "any"))[0] == 1


def _root(directory: Path) -> Path:
    path = directory / "root.pem"
    if not path.exists():
        path.write_bytes(pki().root.pem)
    return path


def test_what_python_offers_is_what_the_command_uses(here):
    report = signing.verify(here / "order.asice", trust=pki().trust)
    assert signing.exit_code([report]) == 0
    assert Means().timeout == 30.0
    assert certified(pki().issuer).digest == "sha256"
