"""The scripts in examples/ run as they are, on a real terminal."""

from __future__ import annotations

import ast
import base64
import json
import re
import ssl
import subprocess
import sys
import urllib.request

import jwt
import pexpect
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support import docs
from tests.support.programs import openssl
from tokenauth.signing import load_trust, verify

EXAMPLES = docs.ROOT / "examples"
CLIENTS = ["requests_session.py", "httpx_client.py", "aiohttp_client.py", "urllib_client.py", "choose_identity.py"]
OTHERS = [
    "signing_request.py",
    "jwt_token.py",
    "sign_pdf.py",
    "sign_in_two_steps.py",
    "server.py",
    "pytest_example/test_service.py",
]

pytestmark = pytest.mark.xdist_group("examples")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with docs.made(tmp_path_factory.mktemp("examples"), with_documents=True) as made:
        yield made


@pytest.mark.parametrize("name", CLIENTS)
def test_client(name, place):
    seen = place.terminal(EXAMPLES / name, place.url, "--uri", "pkcs11:token=dev", "--cafile", "ca.pem")
    assert json.loads(seen)["client_subject"] == "CN=client"


def test_signing_request(place):
    request = place.terminal(EXAMPLES / "signing_request.py", "pkcs11:token=dev").replace("\r", "").strip()
    assert b"client" in openssl("req", "-verify", "-noout", "-subject", input=request.encode())


def test_jwt_token(place):
    token = place.terminal(EXAMPLES / "jwt_token.py", "pkcs11:token=dev", "--audience", "here").strip()
    certificate = x509.load_der_x509_certificate(base64.b64decode(jwt.get_unverified_header(token)["x5c"][0]))
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert jwt.decode(token, key, algorithms=["ES256"], audience="here")["sub"] == "CN=client"


def test_sign_pdf(place):
    card = ("--uri", "pkcs11:token=id-card", "--trust", "id-ca.pem", "--tsa", place.tsa)
    seen = place.terminal(EXAMPLES / "sign_pdf.py", "contract.pdf", *card).strip()
    assert seen == "contract.pdf.signed.pdf: valid, CN=Mari Maasikas, b-t, the whole file"


def test_sign_in_two_steps(place):
    seen = place.terminal(EXAMPLES / "sign_in_two_steps.py", "form.pdf", "--uri", "pkcs11:token=id-card").strip()
    assert seen == "form.pdf.signed"
    report = verify(place.directory / seen, trust=load_trust([place.directory / "id-ca.pem"], asks=True))
    assert report.status == "valid"


def test_server(place):
    child = pexpect.spawn(
        sys.executable,
        [str(EXAMPLES / "server.py"), "pkcs11:token=site"],
        cwd=place.directory,
        env=place.environment,
        timeout=docs.TIMEOUT,
        encoding="utf-8",
    )
    child.expect(r"PIN for [^\n]*: ")
    child.sendline(place.pin)
    child.expect(r"(https://localhost:\d+/)")
    context = ssl.create_default_context(cafile=str(place.directory / "ca.pem"))
    with urllib.request.urlopen(child.match.group(1), context=context, timeout=10) as answer:
        assert answer.status == 200
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_pytest_example(place, tmp_path):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLES / "pytest_example")]
    done = subprocess.run(
        command, cwd=tmp_path, env=place.environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^4 passed in", done.stdout, re.MULTILINE)


def test_all_examples_are_run_and_say_what_they_are():
    found = {path.relative_to(EXAMPLES).as_posix(): path for path in EXAMPLES.rglob("*.py")}
    assert set(found) == {*CLIENTS, *OTHERS}
    assert all(ast.get_docstring(ast.parse(path.read_text())) for path in found.values())
