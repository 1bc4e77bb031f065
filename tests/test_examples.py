"""The scripts in examples/ run as they are, on a real terminal."""

from __future__ import annotations

import re
import ssl
import urllib.request

import pexpect
import pytest

from tests.test_docs import ROOT, place, run_on_terminal  # noqa: F401 - place is a fixture

EXAMPLES = ROOT / "examples"
CLIENTS = ["requests_session.py", "httpx_client.py", "aiohttp_client.py", "urllib_client.py", "choose_identity.py"]

pytestmark = pytest.mark.xdist_group("docs")


@pytest.mark.parametrize("name", CLIENTS)
def test_client(name, place):  # noqa: F811
    seen = run_on_terminal(place, EXAMPLES / name, place.url, "--uri", "pkcs11:token=dev", "--cafile", "ca.pem")
    assert '"client_subject": "CN=client"' in seen


def test_signing_request(place, tmp_path):  # noqa: F811
    from tests.support.programs import openssl

    seen = run_on_terminal(place, EXAMPLES / "signing_request.py", "pkcs11:token=dev;object=client")
    request = seen[seen.index("-----BEGIN") :].replace("\r", "")
    assert b"client" in openssl("req", "-verify", "-noout", "-subject", input=request.encode())


def test_server(place):  # noqa: F811
    import sys

    script = [str(EXAMPLES / "server.py"), "pkcs11:token=dev;object=server"]
    child = pexpect.spawn(
        sys.executable, script, cwd=place.directory, env=place.environment, timeout=30, encoding="utf-8"
    )
    child.expect(r"PIN[^\n]*: ")
    child.sendline(place.pin)
    child.expect(r"(https://localhost:\d+/)")
    url = child.match.group(1)
    context = ssl.create_default_context(cafile=str(place.directory / "ca.pem"))
    with urllib.request.urlopen(url, context=context, timeout=10) as answer:
        assert answer.status == 200
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_all_examples_are_run():
    tried = {*CLIENTS, "signing_request.py", "server.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == tried
    assert all(re.match(r'"""[A-Z].*\."""', (EXAMPLES / name).read_text()) for name in tried)
