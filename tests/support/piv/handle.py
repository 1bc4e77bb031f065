"""A virtual card in the hands of a test."""

from __future__ import annotations

import os
import pickle
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.piv.apdu import INSTRUCTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from tests.support.piv.card import Counters
    from tests.support.piv.profile import Profile
    from tokenauth.testing import Authority

__all__ = ["CONTROL", "STANDARD", "CardHandle", "Holder", "ask", "attach", "attached_ask"]

#: The variable that tells the programs of a stack how to reach its cards.
CONTROL = "TOKENAUTH_TEST_CARDS"
_FIRST_CARD = "card 1"
_TIMEOUT = 30.0  # seconds
_NUMBERS = {name: number for number, name in INSTRUCTIONS.items()}


def ask(control: Path, method: str, *arguments: Any) -> Any:
    """One request to the process that the cards live in.

    Raises:
        Exception: whatever it raised there.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_TIMEOUT)
        connection.connect(str(control))
        with connection.makefile("rwb") as stream:
            pickle.dump((method, *arguments), stream)
            stream.flush()
            good, result = pickle.load(stream)
    if not good:
        raise result
    return result


def attached_ask(method: str, *arguments: Any) -> Any:
    """The same in a program that a stack runs."""
    return ask(Path(os.environ[CONTROL]), method, *arguments)


def attach() -> CardHandle:
    """The stack's first card, in a program that the stack runs."""
    return CardHandle(Path(os.environ[CONTROL]), _FIRST_CARD, attached_ask("profile", _FIRST_CARD))


@dataclass(frozen=True)
class Holder:
    """The certificate in a slot, and the key below it.

    Args:
        key_type: ``rsa2048``, ``rsa3072``, ``p256`` or ``p384``.
        common_name: the CN of its subject.
        purposes: as for `Authority.issue`.
        not_after: the end of its validity; None: in 30 days.
        compressed: whether the card keeps it compressed.
    """

    key_type: str = "rsa2048"
    common_name: str = "piv client"
    purposes: tuple[str, ...] = ("tls-client",)
    not_after: datetime | None = None
    compressed: bool = False


#: A card as it is given to a person. `Authority` has no purpose for the last two slots; a server's keeps the first one
#: the only TLS client, as it is on real cards.
STANDARD = {
    "9A": Holder(),
    "9C": Holder("p256", "piv signer", ("document",)),
    "9D": Holder("p384", "piv key management", ("tls-server",)),
    "9E": Holder("p256", "piv card", ("tls-server",)),
}


class CardHandle:
    """A virtual card: what a person can do with it, and a look inside.

    It works in every process that can reach the stack's directory. Slots are named as in "9A", instructions as in
    "VERIFY" (see `INSTRUCTIONS`).

    Args:
        control: the socket of the process that the card lives in.
        name: of the card, there.
        profile: see `Profile`; what it was made with.

    Attributes:
        authority: who issued the certificates on it, if `personalise` was called.
        certificates: slot: certificate, those that `personalise` made.
    """

    def __init__(self, control: Path, name: str, profile: Profile) -> None:
        self._control = control
        self.name = name
        self.profile = profile
        self.authority: Authority | None = None
        self.certificates: dict[str, x509.Certificate] = {}

    def _ask(self, method: str, *arguments: Any) -> Any:
        return ask(self._control, method, self.name, *arguments)

    # --- in and out ---

    def insert(self, reader: int = 0) -> None:
        """Put it in a reader; returns when pcscd has noticed, if that is running."""
        self._ask("insert", reader)

    def remove(self) -> None:
        """Pull it out, also in the middle of a command; returns when pcscd has noticed."""
        self._ask("remove")

    @property
    def reader(self) -> int | None:
        """The number of the reader that it is in."""
        number: int | None = self._ask("reader_of")
        return number

    # --- as it behaves ---

    def set_latency(self, instruction: str, seconds: float) -> None:
        """Let the card take longer for an instruction that comes with data, until `restore`."""
        self._ask("set_latency", _NUMBERS[instruction], seconds)

    def fail(self, instruction: str, *status: int) -> None:
        """Answer the next commands of that kind with these status words, one each, and do nothing else."""
        self._ask("fail", _NUMBERS[instruction], list(status))

    # --- what is on it ---

    def personalise(self, authority: Authority, holders: Mapping[str, Holder] = STANDARD) -> None:
        """Make keys in slots and store certificates for them, and `save`."""
        self.authority = authority
        for slot, holder in holders.items():
            self.make_key(slot, holder.key_type)
            csr = self.request(slot, holder.common_name)
            certificate = authority.issue(csr, purposes=holder.purposes, not_after=holder.not_after)
            self.store_certificate(slot, certificate, compressed=holder.compressed)
            self.certificates[slot] = certificate
        self.save()

    def make_key(self, slot: str, key_type: str) -> None:
        """Make a key in a slot."""
        self._ask("make_key", int(slot, 16), key_type)

    def request(self, slot: str, common_name: str) -> x509.CertificateSigningRequest:
        """A request for a certificate with that CN for the slot's key; it needs no PIN and is not counted."""
        return x509.load_der_x509_csr(self._ask("request", int(slot, 16), common_name))

    def store_certificate(self, slot: str, certificate: x509.Certificate, *, compressed: bool = False) -> None:
        """Store a slot's certificate, whatever key is there."""
        self._ask("store_certificate", int(slot, 16), certificate.public_bytes(Encoding.DER), compressed)

    def set_object(self, tag: int, value: bytes | None) -> None:
        """Store a data object, or remove it with None."""
        self._ask("set_object", tag, value)

    def save(self) -> None:
        """Remember what is on the card, PINs and their tries with it, for `restore`."""
        self._ask("save")

    def restore(self) -> None:
        """Be as at `save`, with nothing verified, no latency, no failures to come, and counters at zero."""
        self._ask("restore")

    # --- a look inside ---

    def _state(self, what: str) -> Any:
        return self._ask("state")[what]

    @property
    def counters(self) -> Counters:
        """What the card has done, see `Counters`."""
        counters: Counters = self._state("counters")
        return counters

    def clear_counters(self) -> None:
        self._ask("clear_counters")

    @property
    def pin_tries(self) -> int:
        """How many tries the PIN has left."""
        return int(self._state("pin_tries"))

    @property
    def puk_tries(self) -> int:
        """How many tries the PUK has left."""
        return int(self._state("puk_tries"))

    @property
    def busy(self) -> str | None:
        """The instruction with a latency that the card is at, for tests of what happens meanwhile."""
        instruction = self._state("busy")
        return None if instruction is None else INSTRUCTIONS.get(instruction, "other")

    @property
    def log(self) -> list[str]:
        """The last commands, without their data, and their status words."""
        return list(self._state("log"))
