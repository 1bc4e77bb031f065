"""The virtual PIV card as independent programs see it: OpenSC's and Yubico's, through a real pcscd."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.piv.handle import Holder
from tests.support.piv.profile import NIST_ATR, YUBIKEY_ATR, Profile
from tests.support.piv.stack import CardStack, opensc_module, ykcs11_module
from tests.support.programs import openssl
from tokenauth.testing import Authority

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="vpcd is kept apart by Linux's namespaces")

RSA = ("--mechanism", "SHA256-RSA-PKCS")
EC = ("--mechanism", "ECDSA-SHA256", "--signature-format", "openssl")
IDS = {"9A": "01", "9C": "02", "9D": "03", "9E": "04"}
PIN = "123456"


def output(done: subprocess.CompletedProcess[bytes]) -> str:
    text = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, text
    return text


def pkcs11_tool(stack: CardStack, *arguments: str | Path, module: Path | None = None, **options):
    return stack.run("pkcs11-tool", "--module", module or opensc_module(), *arguments, **options)


def sign(stack: CardStack, slot: str, *mechanism: str, pin: str = PIN, module: Path | None = None):
    """The program's end, with "text" signed in the file "signature" of the stack's directory."""
    (stack.directory / "text").write_bytes(b"text")
    files = ("--input-file", stack.directory / "text", "--output-file", stack.directory / "signature")
    return pkcs11_tool(stack, "--login", "--pin", pin, "--sign", "--id", IDS[slot], *mechanism, *files, module=module)


def verify(stack: CardStack, certificate: x509.Certificate, *options: str) -> None:
    """That OpenSSL takes the signature for the certificate's."""
    public = certificate.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    key, text, signature = (stack.directory / name for name in ("key.pem", "text", "signature"))
    key.write_bytes(public)
    openssl("dgst", "-sha256", "-verify", key, "-signature", signature, *options, text)


def eventually(true: Callable[[], bool]) -> bool:
    """Whether that becomes true within some seconds."""
    for _ in range(500):
        if true():
            return True
        time.sleep(0.01)
    return False


# --- reading ---


def test_the_reader_and_the_card(piv):
    assert "Yes             Virtual PCD 00 00" in output(piv.run("opensc-tool", "--list-readers"))
    assert output(piv.run("opensc-tool", "--atr")).startswith(NIST_ATR.hex(":"))
    assert "Personal Identity Verification Card" in output(piv.run("opensc-tool", "--name"))
    serial = output(piv.run("piv-tool", "--serial")).replace(" ", "")
    assert piv.card.profile.guid.hex().upper() in serial


def test_the_token_and_its_objects(piv):
    slots = output(pkcs11_tool(piv, "--list-slots"))
    assert "token initialized, PIN initialized" in slots
    assert f"serial num         : {piv.card.profile.guid.hex()[16:]}" in slots
    seen = output(pkcs11_tool(piv, "--login", "--pin", PIN, "--list-objects"))
    for holder in ("piv client", "piv signer", "piv key management", "piv card"):
        assert f"CN={holder}" in seen
    assert seen.count("Private Key Object") == 4
    assert seen.count("always authenticate") == 1
    assert seen.count("Certificate Object") == 4


@pytest.mark.parametrize("compressed", [False, True])
def test_a_certificate_is_read_as_it_is(make_stack, compressed):
    stack = make_stack()
    stack.card.personalise(Authority(), {"9A": Holder(compressed=compressed)})
    copy = stack.directory / "copy.der"
    output(pkcs11_tool(stack, "--read-object", "--type", "cert", "--id", "01", "--output-file", copy))
    assert copy.read_bytes() == stack.card.certificates["9A"].public_bytes(Encoding.DER)


def test_retired_slots(make_stack):
    stack = make_stack()
    stack.card.personalise(Authority(), {"82": Holder("p256", "old one"), "83": Holder("p256", "older one")})
    seen = output(pkcs11_tool(stack, "--list-objects", "--type", "cert"))
    assert "CN=old one" in seen
    assert "CN=older one" in seen
    assert seen.count("Certificate Object") == 2


def test_opensc_may_keep_what_it_has_read(make_stack):
    stack = make_stack(file_cache=True)
    stack.card.personalise(Authority(), {"9A": Holder()})
    output(pkcs11_tool(stack, "--list-objects"))
    before = stack.card.counters.instructions["GET RESPONSE"]
    assert "CN=piv client" in output(pkcs11_tool(stack, "--list-objects"))
    assert stack.card.counters.instructions["GET RESPONSE"] == before > 0


# --- signing ---


@pytest.mark.parametrize(
    ("slot", "mechanism", "options"),
    [
        ("9A", RSA, ()),
        ("9A", ("--mechanism", "SHA256-RSA-PKCS-PSS"), ("-sigopt", "rsa_padding_mode:pss")),
        ("9C", EC, ()),
        ("9D", EC, ()),
        ("9E", EC, ()),
    ],
)
def test_openssl_verifies_what_pkcs11_tool_signs(piv, slot, mechanism, options):
    output(sign(piv, slot, *mechanism))
    verify(piv, piv.card.certificates[slot], *options)
    assert piv.card.counters.signatures == {slot: 1}
    assert piv.card.counters.pin_attempts == (2 if slot == "9C" else 1)


def test_the_signature_key_gets_the_pin_before_each_signature(piv):
    output(sign(piv, "9C", *EC))
    assert [line[:11] for line in piv.card.log[-2:]] == ["00 20 00 80", "00 87 11 9c"]


def test_pkcs11_tools_own_test(piv):
    assert "No errors" in output(pkcs11_tool(piv, "--login", "--pin", PIN, "--test"))


@pytest.mark.parametrize("kind", ["rsa3072", "p256", "p384"])
def test_other_keys(make_stack, kind):
    stack = make_stack()
    stack.card.personalise(Authority(), {"9A": Holder(kind)})
    output(sign(stack, "9A", *(RSA if kind.startswith("rsa") else EC)))
    verify(stack, stack.card.certificates["9A"])


# --- PINs ---


def test_a_wrong_pin_costs_one_try(piv):
    done = sign(piv, "9A", *RSA, pin="000000")
    assert done.returncode == 1
    assert b"CKR_PIN_INCORRECT" in done.stderr
    assert piv.card.pin_tries == 2
    output(sign(piv, "9A", *RSA))
    assert piv.card.pin_tries == 3
    assert piv.card.counters.pin_attempts == 2


def test_a_blocked_pin_and_the_puk(piv):
    for _ in range(3):
        sign(piv, "9A", *RSA, pin="000000")
    assert piv.card.pin_tries == 0
    assert b"CKR_PIN_LOCKED" in sign(piv, "9A", *RSA).stderr
    assert "user PIN locked" in output(pkcs11_tool(piv, "--list-slots"))
    unblock = ("pkcs15-tool", "--unblock-pin", "--auth-id", "01", "--new-pin", "654321", "--puk")
    assert piv.run(*unblock, "00000000").returncode != 0
    assert (piv.card.pin_tries, piv.card.puk_tries) == (0, 2)
    output(piv.run(*unblock, "12345678"))
    assert (piv.card.pin_tries, piv.card.puk_tries) == (3, 3)
    output(sign(piv, "9A", *RSA, pin="654321"))


def test_the_pin_is_changed(piv):
    output(pkcs11_tool(piv, "--login", "--pin", PIN, "--change-pin", "--new-pin", "654321"))
    assert sign(piv, "9A", *RSA).returncode == 1
    output(sign(piv, "9A", *RSA, pin="654321"))


# --- the administrator ---


@pytest.mark.parametrize(
    ("algorithm", "profile"),
    [("03", Profile()), ("0C", Profile(management_key=bytes(range(32)), management_algorithm=12))],
)
def test_a_key_and_a_certificate_by_piv_tool(make_stack, algorithm, profile):
    stack = make_stack(profile)
    (stack.directory / "key").write_text(profile.management_key.hex(":"))
    administer = ("piv-tool", "--admin", f"M:9B:{algorithm}")
    variables = {"PIV_EXT_AUTH_KEY": str(stack.directory / "key")}
    # piv-tool 0.23 can not print the new key with OpenSSL 3, and the exit code of --cert is the size of what it wrote.
    stack.run(*administer, "--genkey", "9A:11", "--out", "/dev/null", **variables)
    certificate = Authority().issue(stack.card.request("9A", "by piv-tool"))
    (stack.directory / "certificate.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    stack.run(*administer, "--cert", "9A", "--in", stack.directory / "certificate.pem", **variables)
    assert "CN=by piv-tool" in output(pkcs11_tool(stack, "--list-objects", "--type", "cert"))
    output(sign(stack, "9A", *EC))
    verify(stack, certificate)


def test_a_wrong_management_key_does_nothing(piv):
    (piv.directory / "key").write_text(bytes(range(24)).hex(":"))
    piv.run("piv-tool", "--admin", "M:9B:03", "--genkey", "9A:11", PIV_EXT_AUTH_KEY=str(piv.directory / "key"))
    assert piv.card.counters.instructions["GENERATE ASYMMETRIC KEY PAIR"] == 0
    output(sign(piv, "9A", *RSA))
    verify(piv, piv.card.certificates["9A"])


# --- as a YubiKey ---


def test_yubicos_module(yubikey):
    assert output(yubikey.run("opensc-tool", "--atr")).startswith(YUBIKEY_ATR.hex(":"))
    seen = output(pkcs11_tool(yubikey, "--list-slots", module=ykcs11_module()))
    assert "YubiKey PIV #12345678" in seen
    for slot, mechanism in (("9A", RSA), ("9C", EC), ("9D", EC)):
        output(sign(yubikey, slot, *mechanism, module=ykcs11_module()))
        verify(yubikey, yubikey.card.certificates[slot])


def test_opensc_on_a_yubikey(yubikey):
    for slot, mechanism in (("9A", RSA), ("9C", EC)):
        output(sign(yubikey, slot, *mechanism))
        verify(yubikey, yubikey.card.certificates[slot])
    assert yubikey.card.counters.instructions["GET VERSION"] > 0


def test_yubico_piv_tool(yubikey):
    def tool(*arguments: str | Path) -> str:
        return output(yubikey.run("yubico-piv-tool", "--reader", "Yubico", *arguments))

    status = tool("--action", "status")
    assert "Serial Number:\t12345678" in status
    assert "PIN tries left:\t3" in status
    key, certificate = yubikey.directory / "key.pem", yubikey.directory / "certificate.pem"
    tool("--action", "generate", "--slot", "9a", "--algorithm", "RSA2048", "--output", key)
    assert b"Public-Key: (2048 bit)" in openssl("pkey", "-pubin", "-in", key, "-text", "-noout")
    issued = Authority().issue(yubikey.card.request("9A", "by yubico-piv-tool"))
    certificate.write_bytes(issued.public_bytes(Encoding.PEM))
    tool("--action", "import-certificate", "--slot", "9a", "--input", certificate)
    use = ("--action", "verify-pin", "--pin", PIN, "--action", "test-signature", "--slot", "9a", "--input", certificate)
    assert "Successful RSA verification" in tool(*use)
    output(sign(yubikey, "9A", *RSA))
    verify(yubikey, issued)
    tool("--action", "change-pin", "--pin", PIN, "--new-pin", "654321")
    output(sign(yubikey, "9A", *RSA, pin="654321"))


def test_the_attestation_certificate(yubikey):
    authority = Authority("attestation")
    yubikey.card.store_certificate("F9", authority.certificate)
    seen = output(pkcs11_tool(yubikey, "--list-objects", "--type", "cert", module=ykcs11_module()))
    assert "CN=attestation" in seen


# --- in and out ---


def has_card(stack: CardStack, reader: str = "Virtual PCD 00 00") -> bool:
    listed = output(stack.run("opensc-tool", "--list-readers"))
    line = next(line for line in listed.splitlines() if reader in line)
    return "Yes" in line


def test_a_card_goes_and_comes(piv):
    output(sign(piv, "9A", *RSA))
    piv.card.remove()
    assert piv.card.reader is None
    assert eventually(lambda: not has_card(piv))
    assert "(empty)" in output(pkcs11_tool(piv, "--list-slots"))
    piv.card.insert()
    assert eventually(lambda: has_card(piv))
    output(sign(piv, "9A", *RSA))
    assert piv.card.counters.signatures == {"9A": 2}


def test_without_power_the_pin_is_forgotten(piv):
    query = ("opensc-tool", "--send-apdu", "00:20:00:80")
    verify_pin = ("--send-apdu", "00:20:00:80:08:31:32:33:34:35:36:FF:FF")
    assert "SW1=0x90" in output(piv.run("opensc-tool", *verify_pin, *query[1:]))
    piv.card.remove()
    piv.card.insert()
    assert eventually(lambda: has_card(piv))
    assert "SW1=0x63, SW2=0xC3" in output(piv.run(*query))


def test_removal_in_the_middle_of_a_command(fresh_piv):
    fresh_piv.card.set_latency("GENERAL AUTHENTICATE", 20)
    with subprocess.Popen(
        [*("pkcs11-tool", "--module", opensc_module(), "--login", "--pin", PIN, "--sign", "--id", "01", *RSA)],
        env={**os.environ, **fresh_piv.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as program:
        assert program.stdin is not None
        program.stdin.close()
        assert eventually(lambda: fresh_piv.card.busy == "GENERAL AUTHENTICATE")
        fresh_piv.card.remove()
        assert program.wait(10) != 0
    assert fresh_piv.card.counters.signatures == {}


def test_another_card_in_the_reader(fresh_piv):
    other = fresh_piv.new_card()
    other.personalise(Authority(), {"9A": Holder(common_name="somebody else")})
    with pytest.raises(ValueError, match="a card in the reader"):
        other.insert()
    fresh_piv.card.remove()
    other.insert()
    assert eventually(lambda: has_card(fresh_piv))
    assert "CN=somebody else" in output(pkcs11_tool(fresh_piv, "--list-objects", "--type", "cert"))


def test_two_readers(make_stack):
    stack = make_stack(readers=("Left", "Right"))
    other = stack.new_card()
    other.insert(1)
    assert eventually(lambda: has_card(stack, "Left 00 00") and has_card(stack, "Right 00 00"))
    serials = {stack.run("opensc-tool", "--reader", name, "--serial").stdout for name in ("Left 00 00", "Right 00 00")}
    assert len(serials) == 2


# --- pcscd ---


@pytest.mark.parametrize("kill", [False, True])
def test_pcscd_ends_and_comes_back(fresh_piv, kill):
    before = fresh_piv.pcscd_pid
    fresh_piv.stop_pcscd(kill=kill)
    assert fresh_piv.pcscd_pid is None
    assert "No smart card readers found" in output(fresh_piv.run("opensc-tool", "--list-readers"))
    fresh_piv.start_pcscd()
    assert fresh_piv.pcscd_pid != before
    assert eventually(lambda: has_card(fresh_piv))
    output(sign(fresh_piv, "9A", *RSA))


def test_several_stacks_do_not_know_each_other(make_stack):
    first, second = make_stack(readers=("First",)), make_stack(readers=("Second",))
    assert "Second" not in output(first.run("opensc-tool", "--list-readers"))
    first.close()
    assert has_card(second, "Second 00 00")


# --- nothing stays ---


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_close_leaves_nothing(make_stack):
    stack = make_stack()
    pids = (stack.pid, stack.pcscd_pid)
    assert all(map(is_alive, pids))
    stack.close()
    assert not any(map(is_alive, pids))
    assert not stack.directory.exists()


STARTER = """
import sys, time
from tests.support.piv.stack import CardStack
stack = CardStack()
print(stack.pid, stack.pcscd_pid, stack.directory, flush=True)
time.sleep(600)
"""


def test_a_killed_test_leaves_nothing():
    root = Path(__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", STARTER], cwd=root, stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        host, pcscd, directory = starter.stdout.readline().decode().split()
        assert is_alive(int(host))
        starter.kill()
    assert eventually(lambda: not is_alive(int(host)) and not is_alive(int(pcscd)))
    assert not Path(directory).exists()


def test_pcscd_dies_with_a_killed_host(make_stack):
    stack = make_stack()
    pcscd = stack.pcscd_pid
    os.kill(stack.pid, signal.SIGKILL)
    assert eventually(lambda: not is_alive(pcscd))
    stack.close()
    assert not stack.directory.exists()
