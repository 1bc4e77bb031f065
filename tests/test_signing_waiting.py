"""Coroutines of pyHanko's, waited for in ordinary code."""

from __future__ import annotations

import asyncio
import signal

import pytest

from tokenauth.signing.waiting import run


@pytest.fixture(autouse=True)
def interrupts():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


async def answer() -> int:
    await asyncio.sleep(0)
    return 42


async def handler_of_interrupts() -> object:
    return signal.getsignal(signal.SIGINT)


async def interrupted() -> None:
    signal.raise_signal(signal.SIGINT)


async def failing() -> None:
    raise ValueError("no")


async def waiting(coroutine) -> object:
    return run(coroutine)


def test_the_result():
    assert run(answer()) == 42


def test_where_a_loop_is_running():
    assert asyncio.run(waiting(answer())) == 42


def test_control_c_stays_what_it_is():
    assert run(handler_of_interrupts()) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt):
        run(interrupted())
    assert run(answer()) == 42


def test_an_error():
    with pytest.raises(ValueError, match="no"):
        run(failing())
