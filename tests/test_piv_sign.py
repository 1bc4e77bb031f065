"""``tokenauth sign`` with the signature key of a PIV card, which asks for the PIN each time."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple

import pexpect
import pytest

from tests.support.pdfs import one_page
from tests.support.piv.place import PIN
from tests.support.piv.stack import CardStack, opensc_module, ykcs11_module
from tests.support.signed_files import trusting
from tokenauth.signing import verify

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="vpcd is kept apart by Linux's namespaces")

_TIMEOUT = 60  # seconds
_WRONG = "000000"


class Desk(NamedTuple):
    """A card, the module that serves it, and five PDFs."""

    stack: CardStack
    module: Path
    files: list[Path]

    @property
    def signed(self) -> list[Path]:
        return sorted(self.files[0].parent.glob("*.signed.pdf"))

    def sign(self, *more: str) -> pexpect.spawn:
        """Start to sign the PDFs, on a terminal."""
        return pexpect.spawn(
            sys.executable,
            ["-m", "tokenauth", "sign", *more, *map(str, self.files)],
            env={**self.stack.plain_environment(), "TOKENAUTH_MODULE": str(self.module)},
            timeout=_TIMEOUT,
            encoding="utf-8",
            dimensions=(24, 240),
        )

    def are_valid(self) -> bool:
        root = self.stack.card.authority
        assert root is not None
        return all(verify(one, trust=trusting(root.certificate)).status == "valid" for one in self.signed)


@pytest.fixture(params=["opensc", "ykcs11"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Desk:
    stack = request.getfixturevalue("lone_piv" if request.param == "opensc" else "yubikey")
    files = [tmp_path / f"{number}.pdf" for number in range(5)]
    for number, file in enumerate(files):
        file.write_bytes(one_page(filler=number + 1))
    return Desk(stack, opensc_module() if request.param == "opensc" else ykcs11_module(), files)


def ended(terminal: pexpect.spawn) -> tuple[str, int | None]:
    """What else it shows, and its exit code."""
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert "Traceback" not in terminal.before
    assert PIN not in terminal.before.replace("12345678", "SERIAL")
    return str(terminal.before), terminal.exitstatus


def ask(terminal: pexpect.spawn, pin: str = PIN) -> str:
    """Wait for the question, and answer it; what stands before it, and the question."""
    terminal.expect(r"PIN for token [^\r\n]*: ")
    terminal.sendline(pin)
    return str(terminal.before) + str(terminal.match[0])


def test_five_signatures_ask_five_times(desk):
    terminal = desk.sign("--jobs", "4")
    asked = [ask(terminal) for _ in desk.files]
    screen, code = ended(terminal)
    assert code == 0
    assert asked[0].startswith("tokenauth: 5 signatures, the card asks for the PIN each time")
    for number, question in enumerate(asked, 1):
        assert f"to sign {number - 1}.pdf ({number} of 5)" in question
    assert "signed 5 of 5 as CN=piv signer" in screen
    assert len(desk.signed) == 5
    assert desk.are_valid()
    assert desk.stack.card.counters.signatures == {"9C": 5}
    assert desk.stack.card.pin_tries == 3


def test_one_signature_asks_once(desk):
    terminal = desk._replace(files=desk.files[:1]).sign()
    question = ask(terminal)
    assert "each time" not in question
    assert "to sign 0.pdf" in question
    assert ended(terminal)[1] == 0


def test_a_wrong_pin_ends_the_batch(desk):
    terminal = desk.sign()
    ask(terminal)
    ask(terminal, _WRONG)
    screen, code = ended(terminal)
    assert code == 4
    assert "1 failed; 3 not tried" in screen
    assert desk.stack.card.pin_tries == 2
    assert len(desk.signed) == 1


def test_a_wrong_pin_at_once_writes_nothing(desk):
    terminal = desk.sign()
    ask(terminal, _WRONG)
    screen, code = ended(terminal)
    assert code == 4
    assert "signed" not in re.sub("not tried.*", "", screen)
    assert desk.stack.card.pin_tries == 2
    assert sorted(path.name for path in desk.files[0].parent.iterdir()) == [file.name for file in desk.files]


def test_a_card_that_is_pulled_out_in_the_middle(desk):
    terminal = desk.sign()
    ask(terminal)
    ask(terminal)
    terminal.expect(r"PIN for token [^\r\n]*: ")
    desk.stack.card.remove()
    terminal.sendline(PIN)
    screen, code = ended(terminal)
    assert code == 3
    assert "signed 2 of 5 as CN=piv signer; 1 failed; 2 not tried: " in screen
    assert "3.pdf" in screen
    assert "4.pdf" in screen
    assert len(desk.signed) == 2
    assert desk.are_valid()
    before = {path: path.stat().st_mtime_ns for path in desk.signed}
    desk.stack.card.insert()
    terminal = desk.sign("--resume")
    asked = [ask(terminal) for _ in range(3)]
    screen, code = ended(terminal)
    assert code == 0
    assert "3 signatures, the card asks for the PIN each time" in asked[0]
    assert len(desk.signed) == 5
    assert desk.are_valid()
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_interrupted_at_the_second_question(desk):
    terminal = desk.sign()
    ask(terminal)
    terminal.expect(r"PIN for token [^\r\n]*: ")
    terminal.sendintr()
    screen, code = ended(terminal)
    assert code == 130
    assert "interrupted: signed 1 of 5 as CN=piv signer; 4 not tried: " in screen
    assert [path.name for path in desk.signed] == ["0.signed.pdf"]
    assert not list(desk.files[0].parent.glob(".*"))
    assert desk.stack.card.pin_tries == 3
