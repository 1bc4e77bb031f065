"""``tokenauth doctor``: each thing that may be wrong is found, with what to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.broken_certificates import store
from tests.support.command_line import no_tokens, run
from tests.support.programs import find_module
from tokenauth.doctor.environment import check_environment
from tokenauth.testing import MTLSServer, SoftToken

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def token() -> Iterator[SoftToken]:
    with SoftToken("doctor", key_type=None) as token:
        now = datetime.now(UTC)
        token.add_identity("good", not_after=now + timedelta(days=100))
        token.add_identity("ending", not_after=now + timedelta(days=9, hours=1))
        token.add_identity("old", not_after=now - timedelta(days=1))
        token.add_identity("early", not_before=now + timedelta(days=1))
        store(token, "garbage", b"no certificate at all", b"\x07")
        yield token


@pytest.fixture(scope="module")
def findings(token) -> list[dict[str, Any]]:
    done = run("doctor", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def examined(*arguments: str, **variables: str) -> tuple[int, list[dict[str, Any]]]:
    done = run("doctor", "--json", *arguments, **variables)
    return done.returncode, json.loads(done.stdout)


def of(findings: list[dict[str, Any]], check: str, part: str = "") -> dict[str, Any]:
    [found] = [finding for finding in findings if finding["check"] == check and part in finding["what"]]
    return found


def test_each_finding_has_all_fields(findings):
    assert {tuple(finding) for finding in findings} == {("check", "status", "what", "why", "next")}
    assert {finding["status"] for finding in findings} == {"ok", "warning", "error"}
    assert all(finding["next"] for finding in findings if finding["status"] != "ok")


def test_what_works_is_ok(findings, token):
    assert of(findings, "python")["status"] == "ok"
    assert of(findings, "openssl")["what"].endswith("takes keys that live in tokens")
    assert of(findings, "module", token.module)["status"] == "ok"
    assert of(findings, "token", "'doctor'")["status"] == "ok"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("ssl.OPENSSL_VERSION_INFO, ssl.OPENSSL_VERSION = (1, 1, 1, 23, 15), 'OpenSSL 1.1.1w'", "uses OpenSSL 1.1.1w"),
        ("ssl.OPENSSL_VERSION = 'LibreSSL 4.0.0'", "uses LibreSSL 4.0.0"),
        ("ssl.OPENSSL_VERSION_NUMBER += 0x100000", "is not the one that the ssl module uses"),
        ("import _ssl, _json; _ssl.__file__ = _json.__file__", "this Python hides its OpenSSL"),
    ],
)
def test_an_openssl_that_does_not_do(change, why):
    script = f"import ssl, sys; {change}; from tokenauth.cli import main; sys.argv[1:] = ['doctor', '--json']; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    found = of(json.loads(done.stdout), "openssl")
    assert (done.returncode, found["status"]) == (1, "error")
    assert why in found["why"]
    assert found["next"].startswith("use a Python whose ssl module is linked with a shared OpenSSL 3")


@pytest.mark.skipif(sys.platform != "linux", reason="these modules need Linux")
@pytest.mark.parametrize(
    ("name", "action"),
    [("libopencryptoki.so", "start its slot daemon: "), ("libtpm2_pkcs11.so*", "see that there is a TPM")],
)
def test_a_module_whose_service_is_missing(name, action, tmp_path):
    """In a namespace where nothing of this machine's runs."""
    as_root = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    alone = ("unshare", "--mount", *as_root, "--", "sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh")
    command = (*alone, sys.executable, "-m", "tokenauth", "doctor", "--json", "--module", str(find_module(name)))
    tpm = {"TPM2_PKCS11_TCTI": "device:/nonexistent", "TPM2_PKCS11_STORE": str(tmp_path)}
    done = subprocess.run(
        command, env={**os.environ, **tpm}, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    found = of(json.loads(done.stdout), "module")
    assert found["status"] == "error"
    assert found["next"].startswith(action)


@pytest.mark.parametrize(
    ("label", "status", "what"),
    [
        ("good", "ok", "is valid until"),
        ("ending", "warning", "in 9 days"),
        ("old", "error", "expired on"),
        ("early", "error", "is not valid before"),
        ("garbage", "error", "can not be read"),
    ],
)
def test_certificates(findings, label, status, what):
    found = of(findings, "certificate", f"object={label} ")
    assert found["status"] == status
    assert what in found["what"]


def test_the_page_says_why_and_what_next(token):
    page = run("doctor").stdout
    assert "ERROR    certificate: pkcs11:token=doctor;" in page
    assert "         next: have a new certificate issued" in page


def test_no_token_is_a_warning(tmp_path):
    code, findings = examined(**no_tokens(tmp_path))
    assert code == 0
    assert of(findings, "token")["next"].endswith("tokenauth softtoken init")


def test_a_file_that_is_no_module(tmp_path):
    (tmp_path / "module.so").write_text("text")
    code, findings = examined("--module", str(tmp_path / "module.so"))
    assert code == 1
    assert "can not be loaded" in of(findings, "module")["why"]
    code, findings = examined("--module", str(tmp_path / "none.so"))
    assert (code, of(findings, "module")["status"]) == (1, "error")


def test_a_wrong_pin_that_was_entered():
    with SoftToken("doctor-low") as token, MTLSServer(token.ca) as server:
        arguments = ("get", server.url, "-i", token.uri, "--cacert", server.cafile, "--pin-source", "env:PIN")
        assert run(*arguments, PIN="12345678").returncode == 4
        found = of(examined()[1], "token", "'doctor-low'")
        assert (found["status"], "a wrong PIN was entered" in found["what"]) == ("warning", True)
        assert "a wrong PIN was entered" in run("list", token.uri).stdout


def test_environment(tmp_path):
    pin = tmp_path / "pin"
    pin.write_text("1234")
    variables = {
        "TOKENAUTH_PIN_SOURCE": f"file:{pin}",
        "SOFTHSM2_CONF": str(tmp_path / "none"),
        "REQUESTS_CA_BUNDLE": str(pin),
    }
    found = {finding.what.split("=")[0]: finding.status for finding in check_environment(variables)}
    assert found == {"TOKENAUTH_PIN_SOURCE": "ok", "SOFTHSM2_CONF": "error", "REQUESTS_CA_BUNDLE": "ok"}


def test_ways_to_ask_for_the_pin(monkeypatch, tmp_path):
    def status(**variables):
        [finding] = check_environment(variables)
        return finding.status, finding.why, finding.next

    named = shutil.which("pinentry-tty")
    assert status(PINENTRY_PROGRAM=named)[0] == "ok"
    assert status(PINENTRY_PROGRAM="/nonexistent")[:2] == ("error", "there is no such program")
    monkeypatch.setenv("PINENTRY_PROGRAM", named)
    for value in ("keyring", "pinentry", "pad", "prompt"):
        assert status(TOKENAUTH_PIN_SOURCE=value)[0] == "ok"
    monkeypatch.setenv("PINENTRY_PROGRAM", str(tmp_path / "none"))
    assert status(TOKENAUTH_PIN_SOURCE="pinentry")[0] == "error"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert status(TOKENAUTH_PIN_SOURCE="keyring") == (
        "error",
        "the package 'keyring' is missing",
        "pip install keyring",
    )


@pytest.mark.parametrize(("value", "status"), [("90", "ok"), ("soon", "error")])
def test_a_time_limit(value, status):
    [finding] = check_environment({"TOKENAUTH_ISOLATE_TIMEOUT": value})
    assert finding.status == status


@pytest.mark.parametrize("value", ["8675309", "file:/nonexistent", "env:NOT_SET_AT_ALL"])
def test_a_pin_source_that_is_none(value):
    [finding] = check_environment({"TOKENAUTH_PIN_SOURCE": value})
    assert finding.status == "error"
    assert "8675309" not in "".join(finding)
