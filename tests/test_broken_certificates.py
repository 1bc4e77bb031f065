"""Certificates that are none, or hardly, on a token: at the command line and the functions."""

from __future__ import annotations

import contextlib
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenauth
from tests.conftest import log_out
from tests.support import command_line
from tests.support.broken_certificates import broken_certificates, good_certificate, store
from tests.support.connect import fetch
from tests.support.nginx import Nginx, NginxOptions
from tokenauth.cli.records import identity_record
from tokenauth.doctor.identities import check_identity
from tokenauth.inventory.identity import Identity
from tokenauth.pkcs11.objects import CertificateObject
from tokenauth.testing import Authority, MTLSServer, SoftToken
from tokenauth.tls.offers import Offer

pytestmark = [
    pytest.mark.xdist_group("broken_certificates"),
    pytest.mark.filterwarnings("ignore:Parsed a serial number"),  # cryptography's, of a negative one
]

BROKEN = broken_certificates()
UNREAD = {"larger than we read"}
#: What others may refuse in them does not keep their owner from using them.
HARMLESS = {"negative serial", "unknown signature", "name that commands a terminal", "unknown critical extension"}
HARMLESS |= {"key brainpool", "key ed25519", "key rsa-1024", "key secp256k1"}


@pytest.fixture(scope="module")
def token():
    """A good identity among all that is broken."""
    with SoftToken("broken") as made:
        for number, (label, value) in enumerate(BROKEN.items()):
            store(made, label, value, bytes([1, number]))
        made.token.logout()
        yield made


@pytest.fixture(scope="module")
def server(token):
    with MTLSServer(token.ca) as running:
        yield running


@pytest.fixture(scope="module")
def good(token):
    return tokenauth.identity(f"{token.uri};object=client", pin=token.pin, module=token.module)


@pytest.fixture
def command(token, capsys, monkeypatch):
    """Run the command line here: its exit code, stdout and stderr. It never blames itself."""
    log_out(token)  # what a login shows would be another problem
    monkeypatch.setenv("TOKENAUTH_MODULE", token.module)
    monkeypatch.setenv("TEST_PIN", token.pin)
    monkeypatch.setenv("TOKENAUTH_PIN_SOURCE", "env:TEST_PIN")

    return lambda *arguments: command_line.run_here(capsys, *arguments)


def listed(command, token):
    code, output, _ = command("list", token.uri, "--json")
    assert code == 0
    [found] = json.loads(output)
    return {identity["label"]: identity for identity in found["identities"]}


def test_all_are_listed_but_what_is_too_large(command, token):
    assert set(listed(command, token)) == {"client", *BROKEN} - UNREAD


def test_the_good_one_has_no_problem_and_the_others_have(command, token):
    found = listed(command, token)
    assert found["client"]["problems"] == []
    assert found["client"]["purposes"] == ["tls-client"]
    assert {label for label in set(BROKEN) - UNREAD if not found[label]["problems"]} == HARMLESS


def test_the_page(command, token):
    code, output, _ = command("list", token.uri)
    assert code == 0
    assert output.count("pkcs11:") == len(BROKEN) + 1 - len(UNREAD)
    assert all(character.isprintable() for character in output.replace("\n", ""))


@pytest.mark.parametrize("label", sorted(set(BROKEN) - UNREAD))
def test_each_alone(command, token, server, label):
    uri = listed(command, token)[label]["uri"]
    for options in ([], ["--json"]):
        code, output, errors = command("show", uri, *options)
        assert (code, errors) == (0, "")
        assert label in output
    for options in (["--pem"], ["--chain"]):
        code, output, errors = command("show", uri, *options)
        assert code == 0 or (code, output) == (3, "")
    code, output, errors = command("get", server.url, "--cacert", server.cafile, "-i", uri)
    assert code in {3, 5}, errors
    assert output == ""
    assert errors.startswith("tokenauth: error: ")
    assert errors.count("\n") == 1


def test_the_good_one_works_among_them(command, token, server):
    uri = f"{token.uri};object=client"
    code, output, errors = command("get", server.url, "--cacert", server.cafile, "-i", uri)
    assert (code, errors) == (0, "")
    assert json.loads(output)["client_subject"] == "CN=client"

    def choose(identities, _request):
        assert {identity.label for identity in identities} <= {"client", *BROKEN}
        return next(identity for identity in identities if identity.label == "client")

    context = tokenauth.create_context(
        token.uri, pin=token.pin, module=token.module, cafile=server.cafile, choose=choose
    )
    assert b"CN=client" in fetch(context, server.port)


def test_the_doctor_tells_all(command):
    code, output, _ = command("doctor")
    assert code == 1  # some can not be read
    assert len(re.findall("certificate: .*token=broken", output)) == len(BROKEN) + 1 - len(UNREAD)
    code, output, _ = command("doctor", "--json")
    assert code == 1
    certificates = [finding for finding in json.loads(output) if finding["check"] == "certificate"]
    found = [finding for finding in certificates if "token=broken" in finding["what"]]
    assert len(found) == len(BROKEN) + 1 - len(UNREAD)
    sound = [finding for finding in found if finding["what"].endswith("in 29 days")]
    assert len(sound) == 1 + len(HARMLESS | {"name not UTF-8"})
    assert all(finding["next"] for finding in found)


@pytest.mark.parametrize("label", ["name not UTF-8", "version 9", "indefinite length"])
def test_a_refused_certificate_that_can_not_be_read(token, server, good, label):
    """OpenSSL takes it, and the server does not."""
    broken = Identity(
        good._found._replace(certificate=CertificateObject(BROKEN[label], b"", label, 0)), good.credentials
    )
    context = tokenauth.create_context(broken, cafile=server.cafile)
    with pytest.raises(tokenauth.HandshakeFailed):
        fetch(context, server.port)


def test_a_server_that_accepts_none_of_them(token, tmp_path):
    """Why each does not suit is said, whatever can be read of it."""
    with Nginx(token.ca, tmp_path, NginxOptions(client_ca=Authority("another").pem)) as server:
        context = tokenauth.create_context(token.uri, pin=token.pin, module=token.module, cafile=server.cafile)
        with pytest.raises(tokenauth.HandshakeFailed, match=r"no identity suits localhost: .*object=client") as failed:
            fetch(context, server.port)
    assert "object=version%209" in str(failed.value)


# Certificates that nobody thought of.

GOOD = good_certificate()
CHANGES = st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4)


def changed(changes) -> bytes:
    der = bytearray(GOOD)
    for position, byte in changes:
        der[position] = byte
    return bytes(der)


@settings(deadline=None, max_examples=400)
@given(CHANGES.map(changed) | st.binary(max_size=300) | st.integers(0, len(GOOD)).map(lambda end: GOOD[:end]))
def test_any_bytes_are_a_certificate_or_a_problem(good, der):
    found = Identity(good._found._replace(certificate=CertificateObject(der, b"\x01\x77", "any", 0)), good.credentials)
    record = identity_record(found)
    json.dumps(record)
    assert record["problems"]
    assert check_identity(found).status != "ok"
    with contextlib.suppress(tokenauth.TokenAuthError):
        Offer(found, good.credentials)
    with contextlib.suppress(tokenauth.TokenAuthError):
        found.private_key  # noqa: B018
    neighbours = Identity(good._found._replace(others=(der,)), good.credentials)
    assert neighbours.chain == []
    assert Offer(neighbours, good.credentials).chain == []
