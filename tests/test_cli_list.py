"""``tokenauth list`` and ``tokenauth show``."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509

from tests.support.broken_certificates import store
from tests.support.command_line import error_of, no_tokens, output_of, run
from tokenauth.testing import Authority, SoftToken

if TYPE_CHECKING:
    from collections.abc import Iterator

LABEL = 'Büro 100% "#1"; /?&='
KEYS = {
    "rsa2048": {"type": "rsa", "bits": 2048, "curve": None},
    "p384": {"type": "ec", "bits": 384, "curve": "secp384r1"},
    "ed25519": {"type": "ed25519", "bits": 256, "curve": None},
}
TOKEN_FIELDS = "module slot label serial manufacturer model login_required pin_state pin_pad identities"
IDENTITY_FIELDS = "uri label id subject issuer serial not_before not_after key purposes problems"


@pytest.fixture(scope="module")
def token() -> Iterator[SoftToken]:
    """Odd labels, each kind of key, a certificate that has expired, and an object that is no certificate."""
    authority = Authority("list root").intermediate("list intermediate")
    with SoftToken(LABEL, key_type=None, authority=authority) as token:
        for key_type in KEYS:
            token.add_identity(key_type, key_type=key_type, label=f"Schlüssel {key_type} 50% ;'")
        token.add_identity("old", not_after=datetime.now(UTC) - timedelta(days=1))
        token.add_identity("\x1b[31mred\n\u202e", label="red")
        store(token, "garbage", b"no certificate at all", b"\x07")
        yield token


@pytest.fixture(scope="module")
def records(token) -> dict[str, Any]:
    """The token as ``list --json`` shows it."""
    found: list[dict[str, Any]] = json.loads(output_of(run("list", token.uri, "--json")))
    assert len(found) == 1
    return found[0]


def by_label(records: dict[str, Any], label: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = [identity for identity in records["identities"] if identity["label"] == label]
    assert len(found) == 1
    return found[0]


def test_json_has_the_fields_of_a_token(token, records):
    assert " ".join(records) == TOKEN_FIELDS
    assert (records["label"], records["serial"], records["module"]) == (LABEL, token.serial, token.module)
    assert (records["login_required"], records["pin_state"], records["pin_pad"]) == (True, "ok", False)
    assert len(records["identities"]) == len(KEYS) + 3


@pytest.mark.parametrize("key_type", KEYS)
def test_json_has_the_fields_of_an_identity(records, key_type):
    found = by_label(records, f"Schlüssel {key_type} 50% ;'")
    assert " ".join(found) == IDENTITY_FIELDS
    assert (found["subject"], found["issuer"]) == (f"CN={key_type}", "CN=list intermediate")
    assert found["key"] == KEYS[key_type]
    assert (found["purposes"], found["problems"]) == (["tls-client"], [])
    assert len(bytes.fromhex(found["id"])) == 1
    assert int(found["serial"], 16) > 0
    begin, end = (datetime.strptime(found[name], "%Y-%m-%dT%H:%M:%SZ") for name in ("not_before", "not_after"))
    assert begin < datetime.now(UTC).replace(tzinfo=None) < end


def test_each_uri_selects_its_identity_alone(records):
    for identity in records["identities"]:
        assert json.loads(output_of(run("show", identity["uri"], "--json"))) == identity


def test_a_bare_word_is_a_label(token, records):
    assert json.loads(output_of(run("list", LABEL, "--json"))) == [records]


def test_a_garbage_certificate_hides_nothing(records):
    found = by_label(records, "garbage")
    assert [found[name] for name in ("subject", "issuer", "serial", "not_before", "not_after", "key")] == [None] * 6
    assert "can not be read" in found["problems"][0]


def test_an_expired_certificate_is_told(token, records):
    assert by_label(records, "old")["problems"][0].startswith("expired on ")
    assert "PROBLEM     expired on " in output_of(run("list", token.uri))


def test_the_page_holds_nothing_that_commands_a_terminal(token):
    page = output_of(run("list", token.uri))
    assert all(char.isprintable() for char in page.replace("\n", ""))
    assert r"\x1b[31mred" in page
    assert "EC, secp384r1" in page
    assert LABEL in page


def test_nothing_is_logged_in_to(token):
    done = run("list", token.uri, "-v", TOKENAUTH_PIN_SOURCE="file:/nonexistent")
    assert output_of(done).count("pkcs11:") == len(KEYS) + 3


def test_no_token(tmp_path):
    done = run("list", "--json", **no_tokens(tmp_path))
    assert json.loads(done.stdout) == []
    assert "no token matches pkcs11:" in error_of(done, 3)


def test_a_token_without_identities_is_listed(token):
    with SoftToken("bare", key_type=None) as bare:
        assert "no identity shows" in output_of(run("list", bare.uri))
        [found] = json.loads(output_of(run("list", bare.uri, "--json")))
        assert found["identities"] == []
        assert "no identity matches" in error_of(run("list", f"{bare.uri};object=none"), 3)


def test_no_module():
    done = run("list", "--json", "--module", "/nonexistent/module.so")
    assert json.loads(done.stdout) == []
    assert "'/nonexistent/module.so': No such file" in error_of(done, 3)


def test_a_file_that_is_no_module(tmp_path):
    text = tmp_path / "module.so"
    text.write_text("no library")
    assert "can not be loaded" in error_of(run("list", "--module", str(text)), 3)


def test_a_module_that_does_not_load_hides_no_other(token, tmp_path):
    text = tmp_path / "module.so"
    text.write_text("no library")
    done = run("list", token.uri, TOKENAUTH_MODULE=f"{text}:{token.module}")
    assert LABEL in output_of(done)
    assert done.stderr.startswith("tokenauth: warning: ")


@pytest.mark.parametrize("uri", ["pkcs11:token=%zz", "pkcs11:nonsense", "pkcs11:?pin-value=1&pin-source=/x", ""])
def test_a_bad_uri_is_wrong_usage(uri):
    assert "Traceback" not in error_of(run("list", uri), 2)


def test_show_needs_exactly_one(token):
    ambiguous = error_of(run("show", token.uri), 3)
    assert ambiguous.count("pkcs11:token=") == len(KEYS) + 4
    assert "no token matches" in error_of(run("show", "pkcs11:token=none"), 3)
    assert "no certificate on token" in error_of(run("show", f"{token.uri};object=none"), 3)


def test_show_writes_certificate_and_chain(token):
    uri = f"{token.uri};object=old"
    [certificate] = x509.load_pem_x509_certificates(output_of(run("show", uri, "--pem")).encode())
    chain = x509.load_pem_x509_certificates(output_of(run("show", uri, "--chain")).encode())
    assert chain == [certificate, *token.ca.chain]
    assert "CN=list intermediate" in output_of(run("show", uri))


def test_show_writes_one_form():
    assert "exclude each other" in error_of(run("show", "pkcs11:", "--pem", "--json"), 2)


def test_a_certificate_that_can_not_be_read_is_shown_but_not_written(token):
    uri = f"{token.uri};object=garbage"
    assert "PROBLEM" in output_of(run("show", uri))
    assert "can not be read" in error_of(run("show", uri, "--pem"), 3)
