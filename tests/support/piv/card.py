"""The PIV card application (SP 800-73-4 part 2)."""

from __future__ import annotations

import copy
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from tests.support.piv import apdu, objects, tlv
from tests.support.piv.admin import Administrator
from tests.support.piv.apdu import INSTRUCTIONS, SW, Chaining, Command, Refusal, Response
from tests.support.piv.attestation import attestation
from tests.support.piv.keys import Key, generate
from tests.support.piv.profile import Profile
from tests.support.piv.references import Reference, fits_pin, fits_puk

__all__ = ["Card", "Counters"]

PIN, PUK, SIGNATURE, CARD_AUTHENTICATION, MANAGEMENT, ATTESTATION = 0x80, 0x81, 0x9C, 0x9E, 0x9B, 0xF9


class Counters(NamedTuple):
    """What a card has done since it was made, or since its counters were cleared.

    Args:
        instructions: name of the instruction: how many whole commands came; "other" for those that the card has not.
        signatures: slot, as in "9A": private key operations.
        pin_attempts: how often a PIN was compared, by any instruction.
        pin_queries: how often VERIFY came without a PIN, to ask.
        puk_attempts: how often a PUK was compared.
        resets: how often the card was reset or powered on.
    """

    instructions: Counter[str]
    signatures: Counter[str]
    pin_attempts: int
    pin_queries: int
    puk_attempts: int
    resets: int


class _Status:
    """What a reset clears."""

    def __init__(self, profile: Profile) -> None:
        self.selected = profile.selected_at_reset
        self.verified = False  # the PIN
        self.fresh = False  # the PIN, for one use of the signature key
        self.administrator = Administrator(profile.management_key, profile.management_algorithm)
        self.chaining = Chaining()


class Card:
    """A card; `transmit` is all that the outside can do with it, the rest is for those who make it.

    Args:
        profile: see `Profile`.

    Attributes:
        keys: key reference: key.
        objects: tag: value.
        latency: instruction: seconds that the card takes longer for it if it comes with data.
        busy: the instruction that it takes longer for at the moment, or None.
        faults: instruction: status words that it answers from now on instead of doing anything, one each time.
        log: the last commands since the counters were cleared, without their data, and their status words.
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.pin = Reference(profile.pin, profile.pin_tries)
        self.puk = Reference(profile.puk, profile.puk_tries)
        self.keys: dict[int, Key] = {}
        self.objects = objects.factory_objects(profile.guid)
        self.latency: dict[int, float] = {}
        self.busy: int | None = None
        self.faults: dict[int, list[int]] = {}
        self.log: deque[str] = deque(maxlen=2000)
        self.clear_counters()
        self._status = _Status(profile)
        self.save()

    def clear_counters(self) -> None:
        self._instructions: Counter[str] = Counter()
        self._signatures: Counter[str] = Counter()
        self.pin.attempts = self.puk.attempts = 0
        self._pin_queries = self._resets = 0
        self.log.clear()

    @property
    def counters(self) -> Counters:
        attempts = self.pin.attempts, self._pin_queries, self.puk.attempts
        return Counters(self._instructions.copy(), self._signatures.copy(), *attempts, self._resets)

    def save(self) -> None:
        """Remember all that the card keeps without power, for `restore`."""
        self._saved = copy.copy(self.pin), copy.copy(self.puk), dict(self.keys), dict(self.objects)

    def restore(self) -> None:
        """Be as at `save`, with nothing verified, no latency and no faults, counters at zero.

        The application stays selected: that it is not, without a reset, is nothing that a program could expect.
        """
        pin, puk, keys, data = self._saved
        self.pin, self.puk, self.keys, self.objects = copy.copy(pin), copy.copy(puk), dict(keys), dict(data)
        selected = self._status.selected
        self._status = _Status(self.profile)
        self._status.selected = selected
        self.latency.clear()
        self.faults.clear()
        self.clear_counters()

    def reset(self) -> None:
        """The power came, or a reset."""
        self._resets += 1
        self._status = _Status(self.profile)

    def transmit(self, raw: bytes) -> bytes:
        """The response APDU to a command APDU, whatever that is."""
        try:
            response = self._respond(Command.parse(raw))
        except Refusal as refusal:
            response = Response(status=refusal.status)
        self.log.append(f"{raw[:4].hex(' ')} ({len(raw)} bytes) -> {response.status:04X} ({len(response.data)} bytes)")
        return bytes(response)

    def _respond(self, part: Command) -> Response:
        if part.cla & ~0x10:
            raise Refusal(SW.NO_SECURE_MESSAGING if part.cla & 0x0C else SW.NO_CLASS)
        if part.ins == apdu.GET_RESPONSE:
            self._instructions[INSTRUCTIONS[part.ins]] += 1
            return self._status.chaining.more(part.le)
        command = self._status.chaining.collect(part)
        if command is None:
            return Response()
        self._instructions[INSTRUCTIONS.get(command.ins, "other")] += 1
        if self.faults.get(command.ins):
            raise Refusal(self.faults[command.ins].pop(0))
        return self._status.chaining.hand_out(Response(self._execute(command)), command.le)

    def _execute(self, command: Command) -> bytes:
        handler = _HANDLERS.get(command.ins)
        if handler is None or not (self._status.selected or command.ins == apdu.SELECT):
            raise Refusal(SW.NO_INSTRUCTION)
        fresh = self._status.fresh
        if self.profile.verify_adjacent:
            self._status.fresh = False
        try:
            return handler(self, command, fresh)
        except tlv.TLVError:
            raise Refusal(SW.WRONG_DATA) from None

    # --- the instructions ---

    def _select(self, command: Command, _: bool) -> bytes:
        if command.p1 != 0x04 or len(command.data) < 5 or not self.profile.application.startswith(command.data):
            raise Refusal(SW.NOT_FOUND)  # the application that was selected stays so
        self._status.selected = True
        identifier = tlv.encode(0x4F, self.profile.application[5:])
        authority = tlv.encode(0x79, tlv.encode(0x4F, self.profile.application[:5]))
        return tlv.encode(0x61, identifier, authority)

    def _get_data(self, command: Command, _: bool) -> bytes:
        tag = self._object_tag(command)
        value = self.objects.get(tag)
        if value is None:
            raise Refusal(SW.NOT_FOUND)
        if tag in objects.PROTECTED and not self._status.verified:
            raise Refusal(SW.SECURITY_STATUS)
        return tlv.encode(tag if tag == objects.DISCOVERY else 0x53, value)

    def _put_data(self, command: Command, _: bool) -> bytes:
        self._need_administrator()
        tag = self._object_tag(command)
        if tag not in {*objects.CERTIFICATE_TAGS.values(), *objects.PROTECTED, *range(0x5FC101, 0x5FC124)}:
            raise Refusal(SW.NOT_SUPPORTED)
        value = tlv.find(command.data, 0x53)
        if value:
            self.objects[tag] = value
        else:
            self.objects.pop(tag, None)
        return b""

    def _object_tag(self, command: Command) -> int:
        if command.parameters != 0x3FFF:
            raise Refusal(SW.WRONG_P1_P2)
        return int.from_bytes(tlv.find(command.data, 0x5C), "big")

    def _verify(self, command: Command, _: bool) -> bytes:
        if command.p2 != PIN:
            raise Refusal(SW.NO_REFERENCE)
        if command.p1 == 0xFF and not command.data:
            self._status.verified = self._status.fresh = False
            return b""
        if command.p1:
            raise Refusal(SW.WRONG_P1_P2)
        if not command.data:
            return self._pin_state()
        if not fits_pin(command.data):
            raise Refusal(SW.WRONG_DATA)  # without a try lost
        self._status.verified = self._status.fresh = False
        self.pin.compare(command.data)
        self._status.verified = self._status.fresh = True
        return b""

    def _pin_state(self) -> bytes:
        self._pin_queries += 1
        if not self._status.verified:
            raise Refusal(SW.TRIES_LEFT | self.pin.tries if self.pin.tries else SW.BLOCKED)
        return b""

    def _change_reference(self, command: Command, _: bool) -> bytes:
        known = {PIN: (self.pin, fits_pin), PUK: (self.puk, fits_puk)}
        if command.p1 or command.p2 not in known:
            raise Refusal(SW.NO_REFERENCE)
        reference, fits = known[command.p2]
        old, new = command.data[:8], command.data[8:]
        if not (fits(old) and fits(new)):
            raise Refusal(SW.WRONG_DATA)
        reference.compare(old)
        reference.change(new)
        return b""

    def _reset_retry_counter(self, command: Command, _: bool) -> bytes:
        if command.parameters != PIN:
            raise Refusal(SW.NO_REFERENCE)
        puk, pin = command.data[:8], command.data[8:]
        if not (fits_puk(puk) and fits_pin(pin)):
            raise Refusal(SW.WRONG_DATA)
        self.puk.compare(puk)
        self.pin.change(pin)
        return b""

    def _general_authenticate(self, command: Command, fresh: bool) -> bytes:
        template = dict(tlv.parse(tlv.find(command.data, 0x7C)))
        if command.p2 == MANAGEMENT:
            answer = self._status.administrator.authenticate(command.p1, template)
            return tlv.encode(0x7C, answer) if answer else b""
        key = self.keys.get(command.p2)
        if key is None or key.algorithm != command.p1:
            raise Refusal(SW.WRONG_P1_P2)
        if not self._may_use(command.p2, fresh):
            raise Refusal(SW.SECURITY_STATUS)
        if command.p2 == SIGNATURE:
            self._status.fresh = False
        if 0x82 not in template:
            raise Refusal(SW.WRONG_DATA)
        result = key.agree(template[0x85]) if 0x85 in template else key.operate(template.get(0x81, b""))
        self._signatures[f"{command.p2:02X}"] += 1
        return tlv.encode(0x7C, tlv.encode(0x82, result))

    def _may_use(self, slot: int, fresh: bool) -> bool:
        if slot == CARD_AUTHENTICATION:
            return True
        return fresh if slot == SIGNATURE else self._status.verified

    def _generate_key(self, command: Command, _: bool) -> bytes:
        self._need_administrator()
        if command.p1 or command.p2 not in objects.CERTIFICATE_TAGS:
            raise Refusal(SW.WRONG_P1_P2)
        algorithm = tlv.find(tlv.find(command.data, 0xAC), 0x80)
        self.keys[command.p2] = generate(int.from_bytes(algorithm, "big"))
        return self.keys[command.p2].public_template()

    def _need_administrator(self) -> None:
        if not self._status.administrator.authenticated:
            raise Refusal(SW.SECURITY_STATUS)

    def _get_version(self, _command: Command, _: bool) -> bytes:
        if self.profile.version is None:
            raise Refusal(SW.NO_INSTRUCTION)
        return bytes(self.profile.version)

    def _get_serial(self, _command: Command, _: bool) -> bytes:
        if self.profile.serial is None:
            raise Refusal(SW.NO_INSTRUCTION)
        return self.profile.serial.to_bytes(4, "big")

    def _attest(self, command: Command, _: bool) -> bytes:
        key, attestor, issuer = self.keys.get(command.p1), self.keys.get(ATTESTATION), self.objects.get(0x5FFF01)
        if self.profile.version is None or attestor is None or issuer is None or command.p1 == ATTESTATION:
            raise Refusal(SW.NO_INSTRUCTION)
        if key is None or command.p2:
            raise Refusal(SW.WRONG_P1_P2)
        return attestation(command.p1, key, attestor, tlv.find(issuer, 0x70), self.profile)


#: Each gets the command, and whether the PIN was verified for one use of the signature key before it came.
_HANDLERS: dict[int, Callable[[Card, Command, bool], bytes]] = {
    apdu.SELECT: Card._select,
    apdu.GET_DATA: Card._get_data,
    apdu.PUT_DATA: Card._put_data,
    apdu.VERIFY: Card._verify,
    apdu.CHANGE_REFERENCE_DATA: Card._change_reference,
    apdu.RESET_RETRY_COUNTER: Card._reset_retry_counter,
    apdu.GENERAL_AUTHENTICATE: Card._general_authenticate,
    apdu.GENERATE_KEY: Card._generate_key,
    apdu.GET_VERSION: Card._get_version,
    apdu.GET_SERIAL: Card._get_serial,
    apdu.ATTEST: Card._attest,
}
