"""Authentication of the administrator with the management key 9B (SP 800-73-4 part 2 section 3.2.4, appendix A)."""

from __future__ import annotations

import secrets

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tests.support.piv import tlv
from tests.support.piv.apdu import SW, Refusal

__all__ = ["Administrator"]

WITNESS, CHALLENGE, RESPONSE = 0x80, 0x81, 0x82


class Administrator:
    """The security status of the management key.

    Args:
        key: the management key.
        algorithm: its algorithm identifier.

    Attributes:
        authenticated: whether somebody showed that they know the key.
    """

    def __init__(self, key: bytes, algorithm: int) -> None:
        cipher = TripleDES if algorithm in {0x00, 0x03} else algorithms.AES
        self._algorithms = {0x00, 0x03} if cipher is TripleDES else {algorithm, 0x00}
        # One block at a time, each random and used once: there is nothing that ECB could show.
        self._cipher = Cipher(cipher(key), modes.ECB())
        self._block = 8 if cipher is TripleDES else 16
        self.authenticated = False
        self._expected: tuple[int, bytes] | None = None

    def authenticate(self, algorithm: int, template: dict[int, bytes]) -> bytes:
        """One step, by the data objects in the caller's template.

        Returns:
            The objects of the card's own template.

        Raises:
            Refusal: what came is wrong, or not what belongs there.
        """
        if algorithm not in self._algorithms:
            raise Refusal(SW.WRONG_P1_P2)
        expected, self._expected = self._expected, None
        if template == {WITNESS: b""}:
            return tlv.encode(WITNESS, self._encrypt(self._expect(WITNESS)))
        if template == {CHALLENGE: b""}:
            return tlv.encode(CHALLENGE, self._expect(CHALLENGE))
        if expected is None:
            raise Refusal(SW.WRONG_DATA)
        if expected[0] == WITNESS:
            return self._mutual(expected[1], template)
        self._check(template.get(RESPONSE), self._encrypt(expected[1]))
        return b""

    def _mutual(self, witness: bytes, template: dict[int, bytes]) -> bytes:
        challenge = template.get(CHALLENGE, b"")
        if len(challenge) != self._block:
            raise Refusal(SW.WRONG_DATA)
        self._check(template.get(WITNESS), witness)
        return tlv.encode(RESPONSE, self._encrypt(challenge))

    def _check(self, answer: bytes | None, right: bytes) -> None:
        self.authenticated = answer == right
        if not self.authenticated:
            raise Refusal(SW.SECURITY_STATUS)

    def _expect(self, tag: int) -> bytes:
        block = secrets.token_bytes(self._block)
        self._expected = tag, block
        return block

    def _encrypt(self, block: bytes) -> bytes:
        return self._cipher.encryptor().update(block)
