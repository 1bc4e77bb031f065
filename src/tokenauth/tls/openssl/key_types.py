"""What a token's key does in OpenSSL: the three functions that differ from those of a key in memory."""

from __future__ import annotations

import ctypes
import threading
from ctypes import addressof, c_int
from functools import cache
from typing import TYPE_CHECKING, Any

from tokenauth._records import Record
from tokenauth.errors import UnsupportedOpenSSL
from tokenauth.pkcs11.mechanisms import SignatureScheme
from tokenauth.tls import exchange
from tokenauth.tls.openssl import dispatch
from tokenauth.tls.openssl.dispatch import Param, address_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    #: Takes the scheme and the bytes to be signed, returns the signature as TLS wants it (ECDSA in DER).
    Signer = Callable[[SignatureScheme, bytes], bytes]

__all__ = ["KEY_TYPES", "KeyType", "Keys", "ProviderKey", "Signer", "calls"]

_PARAM_INTEGER = 1  # OSSL_PARAM_INTEGER
_RSA_PKCS1_PADDING, _RSA_PKCS1_PSS_PADDING = 1, 6  # openssl/rsa.h
_SALT_AS_LONG_AS_DIGEST = -1  # RSA_PSS_SALTLEN_DIGEST

#: How often each replaced function ran: proof that nothing but a token key's signature comes here.
calls = {"import": 0, "digest_sign_init": 0, "digest_sign": 0}


class ProviderKey(Record):
    """What a key object's address stands for."""

    sign: Signer
    signature_size: int


class _Operation(Record):
    """A signature that was begun on OpenSSL's signature context at an address."""

    context: int
    key: ProviderKey
    digest: str


class Keys:
    """The token keys that OpenSSL holds: address of its key object -> what it stands for.

    Attributes:
        keys: that table.
        entering: per thread, ``key`` while it is being handed to OpenSSL, and then its ``address``.
    """

    def __init__(self) -> None:
        self.keys: dict[int, ProviderKey] = {}
        self.entering = threading.local()


@cache
def _digest_name(mdname: bytes | None) -> str:
    """hashlib's name for OpenSSL's: ``SHA2-256`` and ``SHA256`` are ``sha256``."""
    return (mdname or b"").decode("ascii").lower().replace("sha2-", "sha").replace("sha-", "sha")


class KeyType:
    """The three replaced functions for one kind of key, and what they need of OpenSSL's."""

    def __init__(self, registered: Keys, keymgmt: Mapping[int, int], signature: Mapping[int, int]) -> None:
        self._registered = registered
        # One per thread is enough: TLS begins and makes a signature in one go. OpenSSL also begins some only to see
        # whether the key takes the digest, and never says that it let them go.
        self._begun = threading.local()
        self._import = dispatch.native(keymgmt[dispatch.KEYMGMT_IMPORT], dispatch.NATIVE_IMPORT)
        self._init = dispatch.native(signature[dispatch.SIGNATURE_DIGEST_SIGN_INIT], dispatch.NATIVE_DIGEST_SIGN_INIT)
        self._get_params = dispatch.native(signature[dispatch.SIGNATURE_GET_CTX_PARAMS], dispatch.NATIVE_GET_CTX_PARAMS)
        self.callbacks = {
            dispatch.OP_KEYMGMT: {dispatch.KEYMGMT_IMPORT: address_of(dispatch.IMPORT(self.import_key))},
            dispatch.OP_SIGNATURE: {
                dispatch.SIGNATURE_DIGEST_SIGN_INIT: address_of(dispatch.DIGEST_SIGN_INIT(self.digest_sign_init)),
                dispatch.SIGNATURE_DIGEST_SIGN: address_of(dispatch.DIGEST_SIGN(self.digest_sign)),
            },
        }

    def import_key(self, keydata: int, selection: int, params: int) -> int:
        """OSSL_FUNC_keymgmt_import: let OpenSSL import, and note the address if it is a token's key."""
        calls["import"] += 1
        done: int = self._import(keydata, selection, params)
        entering = getattr(self._registered.entering, "key", None)
        if done and entering is not None:
            self._registered.entering.address = keydata
            self._registered.keys[keydata] = entering
        return done

    def digest_sign_init(self, context: int, mdname: bytes | None, keydata: int | None, params: int | None) -> int:
        """OSSL_FUNC_signature_digest_sign_init."""
        calls["digest_sign_init"] += 1
        key = self._registered.keys.get(keydata or 0)
        if key is None or not self._init(context, mdname, keydata, params):
            return 0
        self._begun.operation = _Operation(context, key, _digest_name(mdname))
        return 1

    def digest_sign(  # noqa: PLR0917 - OpenSSL's arguments
        self, context: int, out: int | None, length: Any, room: int, data: int, size: int
    ) -> int:
        """OSSL_FUNC_signature_digest_sign: with no room given only the length is asked for."""
        operation: _Operation | None = getattr(self._begun, "operation", None)
        if operation is None or operation.context != context:
            return 0
        if not out:
            length[0] = operation.key.signature_size
            return 1
        calls["digest_sign"] += 1
        try:
            signature = operation.key.sign(self._scheme(context, operation.digest), ctypes.string_at(data, size))
            if len(signature) > room:
                return 0
            ctypes.memmove(out, signature, len(signature))
            length[0] = len(signature)
        except BaseException as error:  # noqa: BLE001 - nothing may unwind into C; take() raises it again
            exchange.keep(error)
            return 0
        return 1

    def _scheme(self, context: int, digest: str) -> SignatureScheme:
        raise NotImplementedError


class _ECDSA(KeyType):
    def _scheme(self, context: int, digest: str) -> SignatureScheme:  # noqa: ARG002
        return SignatureScheme("ecdsa", digest)


class _Ed25519(KeyType):
    def _scheme(self, context: int, digest: str) -> SignatureScheme:  # noqa: ARG002
        return SignatureScheme("eddsa", "")


class _PaddingQuery(threading.local):
    """The parameters by which a thread asks for an RSA signature's padding, made once: this is done per handshake."""

    def __init__(self) -> None:
        self.padding, self.salt = c_int(), c_int()
        self.params = (Param * 3)(  # the last one ends the list
            Param(b"pad-mode", _PARAM_INTEGER, addressof(self.padding), ctypes.sizeof(c_int), 0),
            Param(b"saltlen", _PARAM_INTEGER, addressof(self.salt), ctypes.sizeof(c_int), 0),
        )

    def reset(self) -> None:
        self.padding.value, self.salt.value = 0, _SALT_AS_LONG_AS_DIGEST


class _RSA(KeyType):
    def __init__(self, registered: Keys, keymgmt: Mapping[int, int], signature: Mapping[int, int]) -> None:
        super().__init__(registered, keymgmt, signature)
        self._query = _PaddingQuery()

    def _scheme(self, context: int, digest: str) -> SignatureScheme:
        """Ask OpenSSL's own signature context which padding was set on it."""
        query = self._query
        query.reset()
        self._get_params(context, query.params)
        padding, salt = query.padding.value, query.salt.value
        if padding == _RSA_PKCS1_PADDING:
            return SignatureScheme("pkcs1", digest)
        if padding == _RSA_PKCS1_PSS_PADDING and salt >= _SALT_AS_LONG_AS_DIGEST:
            return SignatureScheme("pss", digest, salt if salt >= 0 else None)
        raise UnsupportedOpenSSL(f"OpenSSL asks for RSA padding {padding} with salt length {salt}")


#: Key type: the names of its key management and of its signature algorithm in the default provider, and ours.
KEY_TYPES: dict[bytes, tuple[tuple[bytes, bytes], type[KeyType]]] = {
    b"RSA": ((b"RSA", b"RSA"), _RSA),
    b"EC": ((b"EC", b"ECDSA"), _ECDSA),
    b"ED25519": ((b"ED25519", b"ED25519"), _Ed25519),
}
