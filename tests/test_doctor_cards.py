"""``tokenauth doctor`` about readers, cards and modules: each situation is brought about."""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.command_line import run
from tests.support.piv.handle import STANDARD, Holder
from tests.support.piv.profile import NIST_ATR, Profile
from tests.support.piv.profile import yubikey as yubikey_profile
from tests.support.piv.stack import READER, YUBIKEY_READER, CardStack, opensc_module, ykcs11_module
from tests.test_doctor import of
from tests.test_readers import UNKNOWN_ATR, holder, left_alone, refusing, spawned
from tokenauth.doctor import clock
from tokenauth.doctor.libraries import architectures, mismatch
from tokenauth.doctor.modules import check_table
from tokenauth.provisioning.softhsm import softhsm_module
from tokenauth.testing import Authority, SoftToken

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="vpcd is kept apart by Linux's namespaces")
FIRST = f"{READER} 00 00"
LATER = datetime.now(UTC) + timedelta(days=200)


def examined(
    stack: CardStack, module: Path | str, *arguments: str, **variables: Any
) -> tuple[int, list[dict[str, Any]]]:
    command = (sys.executable, "-m", "tokenauth", "doctor", "--json", *arguments)
    done = stack.run(*command, TOKENAUTH_MODULE=str(module), **variables)
    return done.returncode, json.loads(done.stdout)


def test_a_card_that_works(lone_piv):
    code, findings = examined(left_alone(lone_piv), opensc_module())
    assert code == 0
    assert of(findings, "reader")["status"] == "ok"
    assert of(findings, "card") == {
        "check": "card",
        "status": "ok",
        "what": f"PIV card (NIST SP 800-73) in {FIRST}: {opensc_module()} shows its token",
        "why": "",
        "next": "",
    }
    assert lone_piv.card.counters.pin_attempts == 0


# --- pcscd ---


@pytest.fixture
def without_pcscd(fresh_piv):
    fresh_piv.stop_pcscd()
    return fresh_piv


def test_a_module_that_needs_readers_is_not_to_be_installed_again(without_pcscd):
    found = of(examined(without_pcscd, ykcs11_module())[1], "module", "does not list its slots")
    assert (found["status"], found["next"]) == ("warning", "set right what is said of the readers")


def test_pcscd_refuses(tmp_path):
    with refusing(tmp_path) as path:
        done = run("doctor", "--json", "--module", str(opensc_module()), PCSCLITE_CSOCK_NAME=path)
    found = of(json.loads(done.stdout), "reader")
    assert (done.returncode, found["status"]) == (1, "error")
    assert found["what"] == "the PC/SC service pcscd does not let this user at the readers"
    assert "polkit" in found["next"]


@pytest.mark.parametrize(("module", "status", "code"), [("cards", "error", 1), ("softhsm", "ok", 0)])
def test_no_pcscd(without_pcscd, module, status, code):
    """An error for who has a module for cards; nothing for who has not."""
    path = opensc_module() if module == "cards" else softhsm_module()
    seen, findings = examined(without_pcscd, path)
    found = of(findings, "reader")
    assert (seen, found["status"]) == (code, status)
    assert found["what"] == "the PC/SC service pcscd does not run"
    assert found["next"] == "start it: systemctl enable --now pcscd.socket"


def test_no_pcscd_is_a_warning_where_another_token_shows(without_pcscd):
    modules = f"{opensc_module()}{os.pathsep}{softhsm_module()}"
    with SoftToken("other") as token:
        code, findings = examined(without_pcscd, modules, SOFTHSM2_CONF=os.environ["SOFTHSM2_CONF"])
    assert of(findings, "token", token.label)["status"] == "ok"
    assert of(findings, "reader")["status"] == "warning"
    assert code == 0


def test_no_reader_and_scdaemon(make_stack, tmp_path):
    stack = make_stack()
    stack.stop_pcscd()
    stack.start_pcscd(without_readers=True)
    found = of(examined(stack, opensc_module())[1], "reader")
    assert (found["status"], found["what"]) == ("error", "no reader is there")
    assert "scdaemon" not in found["why"]
    with holding_nothing(stack, tmp_path) as pid:
        found = of(examined(stack, opensc_module())[1], "reader")
        assert f"GnuPG's scdaemon (process {pid}) runs" in found["why"]
        assert found["next"].startswith("let it go: gpgconf --kill scdaemon")


@contextmanager
def holding_nothing(stack: CardStack, directory: Path) -> Iterator[int]:
    """A program of the name ``scdaemon``."""
    program = directory / "scdaemon"
    shutil.copy(shutil.which("cat") or "", program)
    with spawned(stack, program) as process:
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "\n"
        yield process.pid


def test_without_pyscard(lone_piv, tmp_path):
    (tmp_path / "smartcard.py").write_text("raise ModuleNotFoundError('none', name='smartcard')")
    path = f"{tmp_path}{os.pathsep}{Path(__file__).parents[1] / 'src'}"
    code, findings = examined(lone_piv, opensc_module(), PYTHONPATH=path)
    found = of(findings, "reader")
    assert (code, found["status"]) == (0, "ok")
    assert "pyscard is not installed" in found["what"]
    assert "python3-pyscard" in found["next"]


# --- cards ---


def test_no_card(fresh_piv):
    fresh_piv.card.remove()
    code, findings = examined(fresh_piv, opensc_module())
    found = of(findings, "reader")
    assert (code, found["status"], found["next"]) == (0, "warning", "insert the card")
    assert found["what"].startswith("no card is in any reader")
    assert of(examined(fresh_piv, softhsm_module())[1], "reader")["status"] == "ok"


def test_a_card_of_no_known_kind(make_stack):
    stack = make_stack(Profile(atr=UNKNOWN_ATR, selected_at_reset=False))
    stack.card.fail("SELECT", *[0x6A82] * 20)
    found = of(examined(stack, softhsm_module())[1], "card")
    assert found["status"] == "warning"
    assert UNKNOWN_ATR.hex(" ").upper() in found["what"]
    assert "docs/modules.md" in found["next"]


def test_a_module_that_is_there_and_not_looked_at(lone_piv):
    code, findings = examined(left_alone(lone_piv), softhsm_module())
    found = of(findings, "card")
    assert (code, found["status"]) == (0, "warning")
    assert found["what"].endswith("its module is not looked at")
    path = found["next"].removeprefix("name it: --module ")
    assert Path(path).resolve() == opensc_module().resolve()


def with_table(stack: CardStack, cards: str, modules: str, module: str | Path) -> list[dict[str, Any]]:
    """What doctor finds where the tables have rows of the user's own; root, too, who has none else."""
    directory = stack.directory / "tokenauth"
    directory.mkdir()
    (directory / "cards.toml").write_text(cards)
    (directory / "modules.toml").write_text(modules)
    script = (
        "import os; os.getuid = lambda: 65534\n"
        "import json; from tokenauth.doctor import examine\n"
        "print(json.dumps([finding._asdict() for finding in examine()]))"
    )
    done = stack.python(script, XDG_CONFIG_HOME=str(stack.directory), TOKENAUTH_MODULE=str(module))
    findings: list[dict[str, Any]] = json.loads(done.stdout)
    return findings


CARD = f'[[card]]\nkind = "acme"\nname = "ACME card"\natrs = ["{NIST_ATR.hex()}"]\nmodules = ["acme"]\n'
MODULE = '[[module]]\nid = "acme"\nname = "ACME"\nprogram = "ACME Suite"\nquirks = ["shows nothing at first"]\n'


def test_no_module_for_the_card(fresh_piv):
    rows = MODULE + 'paths.linux = ["/nonexistent/libacme.so"]\nurl = "https://acme.example/"\n'
    found = of(with_table(fresh_piv, CARD, rows, softhsm_module()), "card")
    assert found["status"] == "error"
    assert found["what"] == f"ACME card in {FIRST}: no PKCS#11 module for it is installed"
    assert found["next"] == "install ACME Suite: https://acme.example/"


def test_a_module_that_shows_no_token(fresh_piv):
    """As Polish cards' do until the vendor's program has opened them: here Yubico's, which takes no other reader."""
    rows = MODULE + f'paths.linux = ["{ykcs11_module()}"]\n'
    found = of(with_table(fresh_piv, CARD, rows, ykcs11_module()), "card")
    assert found["status"] == "error"
    assert found["what"] == f"ACME card in {FIRST}: ACME shows no token"
    assert found["why"].endswith("works but sees nothing in the reader; shows nothing at first")
    assert found["next"].startswith("open the card once with its own program (ACME Suite), or take the card out")


def test_a_row_that_can_not_be_used(fresh_piv):
    findings = with_table(fresh_piv, CARD + "colour = 'red'\n", MODULE, softhsm_module())
    found = of(findings, "table", "colour")
    assert (found["status"], "docs/modules.md" in found["next"]) == ("warning", True)


def test_a_good_table_is_no_finding(monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", "/nonexistent")
    assert list(check_table()) == []


def test_a_card_that_another_program_keeps_for_itself(yubikey, tmp_path):
    with holder(yubikey, "EXCLUSIVE") as other:
        code, findings = examined(yubikey, ykcs11_module())
        found = of(findings, "card")
        assert (code, found["status"]) == (1, "error")
        assert found["what"] == f"another program keeps the card in {YUBIKEY_READER} 00 00 for itself"
        assert f"(process {other.pid})" in found["why"]
        assert found["next"] == "close the program that uses the card"
        assert other.poll() is None, "nothing is ended"


def test_a_program_that_uses_another_pcscd_is_not_meant(yubikey, lone_piv, tmp_path):
    program = tmp_path / "scdaemon"
    program.symlink_to(Path(sys.executable).resolve())
    with holder(lone_piv, "SHARED", program=program) as other, holder(yubikey, "EXCLUSIVE"):
        found = of(examined(yubikey, ykcs11_module())[1], "card")
    assert f"(process {other.pid})" not in found["why"]
    assert found["next"] == "close the program that uses the card"


def test_scdaemon_is_named(yubikey, tmp_path):
    program = tmp_path / "scdaemon"  # Linux takes a program's name from its file
    program.symlink_to(Path(sys.executable).resolve())
    with holder(yubikey, "EXCLUSIVE", program=program) as other:
        found = of(examined(yubikey, ykcs11_module())[1], "card")
    assert f"scdaemon (process {other.pid})" in found["why"]
    assert found["next"].startswith("let it go: gpgconf --kill scdaemon")


@pytest.mark.parametrize(
    ("wrong", "status", "of_the_card", "check", "what"),
    [
        (1, "warning", "has 2 tries left", "card", "has 2 tries left"),
        (2, "error", "has one try left", "token", "one PIN try is left"),
        (3, "error", "is locked", "token", "its PIN is locked"),
    ],
)
def test_tries_of_the_pin(lone_piv, wrong, status, of_the_card, check, what):
    """Told once: of the token, if a module shows it and says so, else of the card."""
    for _ in range(wrong):
        lone_piv.run("opensc-tool", "-s", "00A404000BA000000308000010000100", "-s", "002000800830303030303030FF")
    for module, where, told in ((opensc_module(), check, what), (softhsm_module(), "card", of_the_card)):
        findings = examined(left_alone(lone_piv), module)[1]
        [found] = [finding for finding in findings if finding["status"] == status and "PIN" in finding["what"]]
        assert (found["check"], told in found["what"], bool(found["next"])) == (where, True, True)
    assert lone_piv.card.pin_tries == 3 - wrong


# --- certificates ---


@pytest.mark.parametrize("module", ["opensc", "ykcs11"])
def test_which_certificate_is_for_what(make_stack, module):
    stack = make_stack(yubikey_profile(), readers=(YUBIKEY_READER,))
    people = {slot: Holder("p256", slot, ("tls-client",), LATER) for slot in ("9A", "9C", "F9")}
    stack.card.personalise(Authority(), {**STANDARD, **people})
    findings = examined(stack, opensc_module() if module == "opensc" else ykcs11_module())[1]
    signature = of(findings, "certificate", "Digital%20Signature")
    assert signature["status"] == "ok"
    assert signature["why"] == "its key asks for the PIN at each signature, as a signature key does (PIV slot 9C)"
    assert signature["next"].startswith("for TLS use pkcs11:")
    assert "PIV%20Authentication" in signature["next"]
    assert of(findings, "certificate", "PIV%20Authentication")["why"] == ""
    assert not any("Attestation" in finding["what"] for finding in findings)
    told = of(findings, "token")
    assert told["status"] == "ok"
    # Yubico's module shows one for each key, and the one of F9; OpenSC none.
    assert told["why"].startswith("and 5 more certificate(s) that say where" if module == "ykcs11" else "")
    assert bool(told["why"]) == (module == "ykcs11")


def test_the_clock(monkeypatch):
    assert list(clock.check_clock()) == []

    class Then(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(1970, 1, 1, 0, 1, tzinfo=tz)

    monkeypatch.setattr(clock, "datetime", Then)
    [found] = clock.check_clock()
    assert (found.status, found.what.startswith("this machine's clock says 1970-01-01 00:01 UTC")) == ("error", True)


# --- modules for other processors ---


def patched(path: str, offset: int, value: bytes) -> bytes:
    data = bytearray(Path(path).read_bytes())
    data[offset : offset + len(value)] = value
    return bytes(data)


def test_a_module_for_another_processor(tmp_path):
    (tmp_path / "module.so").write_bytes(patched(softhsm_module(), 18, b"\xf3\0"))  # e_machine: RISC-V
    done = run("doctor", "--json", "--module", str(tmp_path / "module.so"))
    found = of(json.loads(done.stdout), "module")
    assert (done.returncode, found["status"]) == (1, "error")
    assert found["why"].startswith("it is made for RISC-V, 64 bits, little endian, and this Python for ")
    assert "for the same processor" in found["next"]


def test_a_module_for_this_processor():
    assert mismatch(softhsm_module()) == ""
    assert mismatch("/nonexistent") == ""


PE = b"MZ".ljust(0x3C, b"\0") + (0x40).to_bytes(4, "little") + b"PE\0\0"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"\x7fELF\x02\x01".ljust(18, b"\0") + b"\x3e\0", {"x86-64"}),
        (b"\x7fELF\x01\x01".ljust(18, b"\0") + b"\x03\0", {"x86"}),
        (b"\x7fELF\x01\x01".ljust(18, b"\0") + b"\x3e\0", {"x86-64, 32 bits, little endian"}),
        (b"\x7fELF\x02\x01".ljust(18, b"\0") + b"\xb7\0", {"ARM64"}),
        (b"\x7fELF\x02\x02".ljust(18, b"\0") + b"\0\x15", {"POWER, 64 bits, big endian"}),
        (b"\x7fELF\x02\x01".ljust(18, b"\0") + b"\x99\x99", {"processor 0x9999, 64 bits, little endian"}),
        (b"\xcf\xfa\xed\xfe\x0c\0\0\x01", {"ARM64"}),
        (b"\xca\xfe\xba\xbe\0\0\0\x02" + b"\x01\0\0\x07".ljust(20, b"\0") + b"\x01\0\0\x0c", {"x86-64", "ARM64"}),
        (b"\xca\xfe\xba\xbe\0\0\0\x34", set()),  # a Java class
        (PE + b"\x64\x86", {"x86-64"}),
        (PE + b"\x4c\x01", {"x86"}),
        (PE[:-4] + b"NE\0\0", set()),
        (b"\x7fELF\x02\x01", set()),
        (b"MZ", set()),
        (b"", set()),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else " ".join(sorted(value)) or "none",
)
def test_headers(header, expected):
    assert architectures(header) == expected


@given(st.sampled_from([b"\x7fELF", b"MZ", b"\xca\xfe\xba\xbe", b"\xcf\xfa\xed\xfe", b""]), st.binary(max_size=200))
def test_any_bytes_are_read(start, rest):
    assert all(isinstance(name, str) for name in architectures(start + rest))


# --- modules that the user's own table marks as automatic ---


def test_the_users_own_automatic_module(tmp_path, monkeypatch):
    from tokenauth.inventory.candidates import find_modules

    module = tmp_path / "libacme.so"
    shutil.copy(softhsm_module(), module)
    (tmp_path / "tokenauth").mkdir()
    rows = tmp_path / "tokenauth" / "modules.toml"
    monkeypatch.setattr(os, "getuid", lambda: 65534)
    environ = {"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)}

    def own() -> list[str]:
        return [found.path for found in find_modules(environ=environ).candidates if found.origin == "your modules.toml"]

    assert own() == []
    text = MODULE + f'paths.linux = ["{tmp_path}/none.so", "{module}"]\npaths.darwin = ["{module}"]\n'
    rows.write_text(text)
    assert own() == []
    rows.write_text(text + "automatic = true\n")
    assert own() == [str(module)]
    assert [
        found.path for found in find_modules(environ={**environ, "TOKENAUTH_MODULE": softhsm_module()}).candidates
    ] == [softhsm_module()]
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert own() == []
