"""pyHanko's coroutines from ordinary code, also where an event loop of somebody else's is running."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["run"]

_T = TypeVar("_T")


def run(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """The result of a coroutine that nobody else waits for.

    In a thread whose loop is running already (a notebook, a web server's handler) it gets a thread of its own.
    """
    if not _a_loop_is_running():
        return _result(coroutine)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_result, coroutine).result()


def _result(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """``asyncio.run`` would take SIGINT over: a Ctrl-C as it begins would come out as ``CancelledError``."""
    with asyncio.Runner() as runner:
        return runner.get_loop().run_until_complete(coroutine)


def _a_loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
