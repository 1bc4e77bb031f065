"""Fixtures with virtual PIV cards.

A test that talks to the card in its own process uses ``piv_stack`` or ``piv``: libpcsclite looks only once in a process
for the pcscd that it is to use, so all such tests of a worker share one. Tests that run programs may use any of them.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.piv.handle import STANDARD
from tests.support.piv.profile import yubikey as yubikey_profile
from tests.support.piv.stack import YUBIKEY_READER, CardStack
from tokenauth.testing import Authority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "as_made",
    "choose_pcscd",
    "fresh_piv",
    "lone_piv",
    "lone_piv_stack",
    "make_stack",
    "piv",
    "piv_stack",
    "yubikey",
    "yubikey_stack",
]

_directory = Path(tempfile.gettempdir()) / f"tokenauth-piv-{secrets.token_hex(8)}"


def choose_pcscd() -> None:
    """Decide where this process looks for pcscd, before anything in it does; until a test starts it there is none.

    So the tester's own readers and cards are left alone too.
    """
    os.environ["PCSCLITE_CSOCK_NAME"] = str(_directory / "pcscd.comm")


@pytest.fixture(scope="session")
def piv_stack() -> Iterator[CardStack]:
    """The worker's own pcscd, with a card of `STANDARD` contents and a CA for it; see ``piv``."""
    _directory.mkdir(mode=0o700)
    with CardStack(directory=_directory) as stack, pytest.MonkeyPatch.context() as patch:
        for name, value in stack.environment.items():
            patch.setenv(name, value)
        stack.card.personalise(Authority("piv CA"), STANDARD)
        yield stack


@pytest.fixture
def piv(piv_stack: CardStack) -> CardStack:
    """``piv_stack`` with its card as it was made: in reader 0, PIN not verified, counters at zero."""
    as_made(piv_stack)
    return piv_stack


@pytest.fixture(scope="session")
def lone_piv_stack() -> Iterator[CardStack]:
    with CardStack() as stack:
        stack.card.personalise(Authority("piv CA"), STANDARD)
        yield stack


@pytest.fixture
def lone_piv(lone_piv_stack: CardStack) -> CardStack:
    """Another pcscd with the same card, which no test uses in its own process: nobody is connected to the card."""
    as_made(lone_piv_stack)
    return lone_piv_stack


@pytest.fixture(scope="session")
def yubikey_stack() -> Iterator[CardStack]:
    with CardStack(yubikey_profile(), readers=(YUBIKEY_READER,)) as stack:
        stack.card.personalise(Authority("piv CA"), STANDARD)
        yield stack


@pytest.fixture
def yubikey(yubikey_stack: CardStack) -> CardStack:
    """Another pcscd with a card that passes for a YubiKey, as it was made; for programs."""
    as_made(yubikey_stack)
    return yubikey_stack


def as_made(stack: CardStack) -> None:
    """Have pcscd run and the card in reader 0 as it was made: PIN not verified, counters at zero."""
    if stack.pcscd_pid is None:
        stack.start_pcscd()
    if stack.card.reader is None:
        stack.card.insert()
    stack.card.restore()


@pytest.fixture
def make_stack() -> Iterator[Callable[..., CardStack]]:
    """A function that makes stacks, called as `CardStack`; they end with the test. Their cards are empty."""
    made = []

    def make(*arguments, **options) -> CardStack:
        made.append(CardStack(*arguments, **options))
        return made[-1]

    yield make
    for stack in made:
        stack.close()


@pytest.fixture
def fresh_piv(make_stack: Callable[..., CardStack]) -> CardStack:
    """A stack of the test's own, for programs; the card has `STANDARD` contents."""
    stack = make_stack()
    stack.card.personalise(Authority("piv CA"), STANDARD)
    return stack
