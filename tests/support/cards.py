"""Cards whose module misbehaves on request, and what is done with them again and again."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

import tokenauth

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.faulty_module import FaultyModule
    from tokenauth.testing import SoftToken

__all__ = ["in_threads", "key_on", "sign"]

_TIMEOUT = 30.0  # seconds


def key_on(card: FaultyModule, token: SoftToken, pin: Any, **options: Any) -> Any:
    """The private key ``client`` of a token, behind the faulty module."""
    return tokenauth.identity(f"{token.uri};object=client", pin=pin, module=card.path, **options).private_key


def sign(key: Any) -> None:
    """Sign with a P-256 key, and see that the signature is good."""
    data = b"to be signed"
    key.public_key().verify(key.sign(data, ec.ECDSA(hashes.SHA256())), data, ec.ECDSA(hashes.SHA256()))


def in_threads(count: int, work: Callable[[], object]) -> list[Exception]:
    """Do work in threads at the same time; the errors that it ended with."""
    errors: list[Exception] = []
    together = threading.Barrier(count)

    def run() -> None:
        together.wait(_TIMEOUT)
        try:
            work()
        except Exception as error:  # noqa: BLE001 - the caller looks at it
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_TIMEOUT)
    assert not any(thread.is_alive() for thread in threads)
    return errors
