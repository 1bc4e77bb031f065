"""Which PKCS#11 mechanism makes which signature, as a table.

A token rarely has all of them. For each scheme the table lists the ways to get there, best first: let the token
take a digest; let it hash the message itself; or pad here and let it do the bare RSA operation. Numbers are those
of PKCS #11 v3.1 (pkcs11t.h); paddings are those of RFC 8017 (PKCS #1 v2.2).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping

from tokenauth._records import Record
from tokenauth.pkcs11.cryptoki import Mechanism

__all__ = ["SIGNING_MECHANISMS", "KeyShape", "MechanismInfo", "Payload", "SignatureScheme", "Way", "lists", "ways"]

CKM_RSA_PKCS, CKM_RSA_X_509, CKM_RSA_PKCS_PSS = 0x1, 0x3, 0xD
CKM_ECDSA, CKM_EDDSA = 0x1041, 0x1057
CKF_SIGN = 0x800


class _Hash(Record):
    """What PKCS#11 and PKCS #1 call one hash function."""

    mechanism: int  # CKM_SHA..., a parameter of PSS
    mgf: int  # CKG_MGF1_SHA...
    rsa_pkcs: int  # CKM_SHA..._RSA_PKCS
    rsa_pss: int  # CKM_SHA..._RSA_PKCS_PSS
    ecdsa: int  # CKM_ECDSA_SHA...
    digest_info: bytes  # the DER in front of the digest, RFC 8017 section 9.2 note 1


_HASHES = {
    "sha1": _Hash(0x220, 1, 0x06, 0x0E, 0x1042, bytes.fromhex("3021300906052b0e03021a05000414")),
    "sha224": _Hash(0x255, 5, 0x46, 0x47, 0x1043, bytes.fromhex("302d300d06096086480165030402040500041c")),
    "sha256": _Hash(0x250, 2, 0x40, 0x43, 0x1044, bytes.fromhex("3031300d060960864801650304020105000420")),
    "sha384": _Hash(0x260, 3, 0x41, 0x44, 0x1045, bytes.fromhex("3041300d060960864801650304020205000430")),
    "sha512": _Hash(0x270, 4, 0x42, 0x45, 0x1046, bytes.fromhex("3051300d060960864801650304020305000440")),
}


class SignatureScheme(Record):
    """What kind of signature is wanted.

    Args:
        padding: ``pkcs1`` or ``pss`` (RSA), ``ecdsa``, or ``eddsa``.
        digest: hashlib's name of the hash; empty for ``eddsa``.
        salt_length: bytes of PSS salt; None for as many as the digest has.
    """

    padding: str
    digest: str
    salt_length: int | None = None

    @property
    def salt(self) -> int:
        """Bytes of PSS salt."""
        return hashlib.new(self.digest).digest_size if self.salt_length is None else self.salt_length


class KeyShape(Record):
    """What a mechanism's input depends on.

    Args:
        type: ``rsa``, ``ec`` or ``ed25519``.
        bits: of the modulus, or of the curve's order.
    """

    type: str
    bits: int


class Payload(Record):
    """What is to be signed: the message, or only its digest where the caller has hashed it already."""

    message: bytes | None
    digest: bytes | None = None

    def digested(self, scheme: SignatureScheme) -> bytes:
        """The digest."""
        if self.digest is not None:
            return self.digest
        return hashlib.new(scheme.digest, self.message or b"").digest()


class MechanismInfo(Record):
    """``CK_MECHANISM_INFO``: key sizes (bits for RSA; modules disagree for the rest) and flags."""

    smallest_key: int
    largest_key: int
    flags: int

    def signs(self, key: KeyShape) -> bool:
        """Whether the token says that it signs with such a key."""
        fits = key.type != "rsa" or not self.largest_key or self.smallest_key <= key.bits <= self.largest_key
        return bool(self.flags & CKF_SIGN) and fits


class Way(Record):
    """One way to a signature.

    Args:
        mechanism: for ``C_SignInit``.
        prepare: makes what ``C_Sign`` takes.
        needs_message: the token hashes, so a digest alone is not enough.
    """

    mechanism: Mechanism
    prepare: Callable[[SignatureScheme, KeyShape, Payload], bytes]
    needs_message: bool = False


def _digest(scheme: SignatureScheme, key: KeyShape, payload: Payload) -> bytes:  # noqa: ARG001
    return payload.digested(scheme)


def _truncated_digest(scheme: SignatureScheme, key: KeyShape, payload: Payload) -> bytes:
    """No longer than the curve's order: some tokens refuse the rest instead of cutting it off (FIPS 186-5, 6.4.1)."""
    return payload.digested(scheme)[: (key.bits + 7) // 8]


def _digest_info(scheme: SignatureScheme, key: KeyShape, payload: Payload) -> bytes:  # noqa: ARG001
    return _HASHES[scheme.digest].digest_info + payload.digested(scheme)


def _message(scheme: SignatureScheme, key: KeyShape, payload: Payload) -> bytes:  # noqa: ARG001
    return payload.message or b""


def _padded_pkcs1(scheme: SignatureScheme, key: KeyShape, payload: Payload) -> bytes:
    """EMSA-PKCS1-v1_5 (RFC 8017 section 9.2)."""
    info = _digest_info(scheme, key, payload)
    return b"\x00\x01" + b"\xff" * ((key.bits + 7) // 8 - len(info) - 3) + b"\x00" + info


def _mgf1(seed: bytes, length: int, digest: str) -> bytes:
    """RFC 8017 appendix B.2.1."""
    blocks = -(-length // hashlib.new(digest).digest_size)
    mask = b"".join(hashlib.new(digest, seed + i.to_bytes(4, "big")).digest() for i in range(blocks))
    return mask[:length]


def _padded_pss(scheme: SignatureScheme, key: KeyShape, payload: Payload) -> bytes:
    """EMSA-PSS (RFC 8017 section 9.1.1), put in front of the missing high bytes of the modulus."""
    size, bits = (key.bits + 6) // 8, key.bits - 1
    salt = os.urandom(scheme.salt)
    digest = hashlib.new(scheme.digest, bytes(8) + payload.digested(scheme) + salt).digest()
    block = (b"\x01" + salt).rjust(size - len(digest) - 1, b"\x00")
    mask = _mgf1(digest, len(block), scheme.digest)
    masked = bytearray(a ^ b for a, b in zip(block, mask, strict=True))
    masked[0] &= 0xFF >> (8 * size - bits)
    return (bytes(masked) + digest + b"\xbc").rjust((key.bits + 7) // 8, b"\x00")


def _pss_parameter(scheme: SignatureScheme) -> tuple[int, int, int]:
    names = _HASHES[scheme.digest]
    return names.mechanism, names.mgf, scheme.salt


def _pss_ways(scheme: SignatureScheme) -> Iterator[Way]:
    parameter = _pss_parameter(scheme)
    yield Way(Mechanism(CKM_RSA_PKCS_PSS, parameter), _digest)
    yield Way(Mechanism(_HASHES[scheme.digest].rsa_pss, parameter), _message, needs_message=True)
    yield Way(Mechanism(CKM_RSA_X_509), _padded_pss)


def _pkcs1_ways(scheme: SignatureScheme) -> Iterator[Way]:
    yield Way(Mechanism(CKM_RSA_PKCS), _digest_info)
    yield Way(Mechanism(_HASHES[scheme.digest].rsa_pkcs), _message, needs_message=True)
    yield Way(Mechanism(CKM_RSA_X_509), _padded_pkcs1)


def _ecdsa_ways(scheme: SignatureScheme) -> Iterator[Way]:
    yield Way(Mechanism(CKM_ECDSA), _truncated_digest)
    yield Way(Mechanism(_HASHES[scheme.digest].ecdsa), _message, needs_message=True)


def _eddsa_ways(scheme: SignatureScheme) -> Iterator[Way]:  # noqa: ARG001
    yield Way(Mechanism(CKM_EDDSA), _message, needs_message=True)


#: Every mechanism that the ladders below can name.
SIGNING_MECHANISMS = frozenset({CKM_RSA_PKCS, CKM_RSA_X_509, CKM_RSA_PKCS_PSS, CKM_ECDSA, CKM_EDDSA}) | {
    number for names in _HASHES.values() for number in (names.rsa_pkcs, names.rsa_pss, names.ecdsa)
}
_LADDERS = {"pss": _pss_ways, "pkcs1": _pkcs1_ways, "ecdsa": _ecdsa_ways, "eddsa": _eddsa_ways}


def ways(scheme: SignatureScheme, key: KeyShape, token: Mapping[int, MechanismInfo], payload: Payload) -> list[Way]:
    """The ways to a signature on a token, best first.

    Those that the token lists come first. The rest follow, for modules that leave out what they can do (tpm2-pkcs11
    does PSS unlisted): asking costs nothing, the token refuses at ``C_SignInit``.

    Args:
        scheme: the kind of signature.
        key: the key's type and size.
        token: the mechanisms that the token lists.
        payload: what is to be signed.

    Returns:
        An empty list if nothing can make such a signature.
    """
    able = [way for way in _ladder(scheme) if payload.message is not None or not way.needs_message]
    listed = [way for way in able if _is_listed(way, key, token)]
    return listed + [way for way in able if way.mechanism.number not in token]


def lists(scheme: SignatureScheme, key: KeyShape, token: Mapping[int, MechanismInfo]) -> bool:
    """Whether a token says that it makes such signatures of messages; it may be able to without saying so.

    Args:
        scheme: the kind of signature.
        key: the key's type and size.
        token: the mechanisms that the token lists.
    """
    return any(_is_listed(way, key, token) for way in _ladder(scheme))


def _ladder(scheme: SignatureScheme) -> list[Way]:
    known = not scheme.digest or scheme.digest in _HASHES
    return list(_LADDERS[scheme.padding](scheme)) if known else []


def _is_listed(way: Way, key: KeyShape, token: Mapping[int, MechanismInfo]) -> bool:
    info = token.get(way.mechanism.number)
    return info is not None and info.signs(key)
