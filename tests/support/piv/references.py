"""PIN and PUK (SP 800-73-4 part 1 section 2.4.3)."""

from __future__ import annotations

from tests.support.piv.apdu import SW, Refusal

__all__ = ["Reference", "fits_pin", "fits_puk", "padded"]

SIZE = 8  # bytes, filled up with FF


def fits_pin(value: bytes) -> bool:
    """Six to eight digits, filled up with FF."""
    digits = value.rstrip(b"\xff")
    return len(value) == SIZE and len(digits) >= 6 and digits.isdigit()


def fits_puk(value: bytes) -> bool:
    return len(value) == SIZE


def padded(secret: str) -> bytes:
    return secret.encode().ljust(SIZE, b"\xff")


class Reference:
    """A secret with a counter of the tries that are left.

    Attributes:
        tries: how many are left; 0 is blocked.
        attempts: how often a value was compared.
    """

    def __init__(self, secret: str, limit: int) -> None:
        self._value = padded(secret)
        self._limit = self.tries = limit
        self.attempts = 0

    def compare(self, value: bytes) -> None:
        """Raises:
        Refusal: the secret is blocked, or this is not it.
        """
        if not self.tries:
            raise Refusal(SW.BLOCKED)
        self.attempts += 1
        if value != self._value:
            self.tries -= 1
            raise Refusal(SW.TRIES_LEFT | self.tries)
        self.tries = self._limit

    def change(self, value: bytes) -> None:
        """Take another value; all tries are there again."""
        self._value = value
        self.tries = self._limit
