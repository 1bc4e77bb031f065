"""An OpenSSL provider in which a private key is a public key plus a function that asks the token to sign.

How it works. OpenSSL finds an algorithm's code in tables of function pointers that a provider hands out. The
provider ``tokenauth`` hands out the *default provider's own* tables for RSA, EC and Ed25519, with three entries
replaced by Python:

- key import, which notes the address of the key object that OpenSSL has just made for a token's key;
- the start of a signature, which notes the digest's name;
- the signature itself, which goes to the token.

Everything else a key must answer (its size, its curve, whether it matches a certificate, how it is freed) is
answered by OpenSSL's own C code over the public half, with no call into Python. That makes a handshake cheap, and
it means that nothing of ours runs when OpenSSL frees its objects after the interpreter is gone. The default
provider's functions expect the default provider's context, so that is the context that this provider reports.

Nothing else reaches these tables: OpenSSL prefers the implementation that was registered first, and ``default`` is
made to register its own before ours are added; ours are asked for by the property ``provider=tokenauth``.
There is no key export: a key that can not be moved to another provider is signed with in its own
(``EVP_DigestSignInit`` tries the default provider first).

Callbacks and tables live for ever: OpenSSL may reach them until the process ends. No exception may cross into C;
it is kept for the thread, and :func:`tokenauth.tls.exchange.take` gives it to whoever made the call.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from ctypes import CFUNCTYPE, POINTER, PYFUNCTYPE, Structure, addressof, byref, c_char_p, c_int, c_size_t, c_void_p
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from tokenauth.errors import UnsupportedOpenSSL
from tokenauth.pkcs11.mechanisms import SignatureScheme
from tokenauth.tls import exchange
from tokenauth.tls.openssl import openssl

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Signer", "TokenPKey", "calls", "register"]

if TYPE_CHECKING:
    #: Takes the scheme and the bytes to be signed, returns the signature as TLS wants it (ECDSA in DER).
    Signer = Callable[[SignatureScheme, bytes], bytes]

# Numbers of openssl/core_dispatch.h.
_OP_KEYMGMT, _OP_SIGNATURE = 10, 12
_PROVIDER_QUERY_OPERATION = 1027
_KEYMGMT_NEW, _KEYMGMT_FREE, _KEYMGMT_GET_PARAMS, _KEYMGMT_GETTABLE_PARAMS = 1, 10, 11, 12
_KEYMGMT_OPERATION_NAME, _KEYMGMT_HAS, _KEYMGMT_MATCH, _KEYMGMT_IMPORT = 20, 21, 23, 40
_KEYMGMT_IMPORT_TYPES, _KEYMGMT_IMPORT_TYPES_EX = 41, 45
_SIGNATURE_NEWCTX, _SIGNATURE_DIGEST_SIGN_INIT, _SIGNATURE_DIGEST_SIGN, _SIGNATURE_FREECTX = 1, 8, 11, 16
_SIGNATURE_GET_CTX_PARAMS, _SIGNATURE_SET_CTX_PARAMS = 18, 20
_SIGNATURE_GETTABLE_CTX_PARAMS, _SIGNATURE_SETTABLE_CTX_PARAMS = 19, 21

#: The entries of the default provider's tables that are handed on as they are, or replaced; the rest is left out.
_KEPT = {
    _OP_KEYMGMT: frozenset(
        {
            _KEYMGMT_NEW,
            _KEYMGMT_FREE,
            _KEYMGMT_GET_PARAMS,
            _KEYMGMT_GETTABLE_PARAMS,
            _KEYMGMT_OPERATION_NAME,
            _KEYMGMT_HAS,
            _KEYMGMT_MATCH,
            _KEYMGMT_IMPORT,
            _KEYMGMT_IMPORT_TYPES,
            _KEYMGMT_IMPORT_TYPES_EX,
        }
    ),
    _OP_SIGNATURE: frozenset(
        {
            _SIGNATURE_NEWCTX,
            _SIGNATURE_FREECTX,
            _SIGNATURE_DIGEST_SIGN_INIT,
            _SIGNATURE_DIGEST_SIGN,
            _SIGNATURE_GET_CTX_PARAMS,
            _SIGNATURE_SET_CTX_PARAMS,
            _SIGNATURE_GETTABLE_CTX_PARAMS,
            _SIGNATURE_SETTABLE_CTX_PARAMS,
        }
    ),
}
#: Key type: the names of its key management and of its signature algorithm in the default provider.
_ALGORITHMS = {b"RSA": (b"RSA", b"RSA"), b"EC": (b"EC", b"ECDSA"), b"ED25519": (b"ED25519", b"ED25519")}

_PROPERTIES = b"provider=tokenauth"
_PUBLIC_KEY = 0x86  # EVP_PKEY_PUBLIC_KEY: domain and other parameters, and the public key
_PARAM_INTEGER = 1  # OSSL_PARAM_INTEGER
_RSA_PKCS1_PADDING, _RSA_PKCS1_PSS_PADDING = 1, 6  # openssl/rsa.h
_SALT_AS_LONG_AS_DIGEST = -1  # RSA_PSS_SALTLEN_DIGEST


class _Dispatch(Structure):
    _fields_ = [("function_id", c_int), ("function", c_void_p)]


class _Algorithm(Structure):
    _fields_ = [
        ("names", c_char_p),
        ("properties", c_char_p),
        ("implementation", POINTER(_Dispatch)),
        ("description", c_char_p),
    ]


class _Param(Structure):
    _fields_ = [
        ("key", c_char_p),
        ("data_type", ctypes.c_uint),
        ("data", c_void_p),
        ("data_size", c_size_t),
        ("return_size", c_size_t),
    ]


_INIT = CFUNCTYPE(c_int, c_void_p, POINTER(_Dispatch), POINTER(c_void_p), POINTER(c_void_p))
_QUERY = CFUNCTYPE(c_void_p, c_void_p, c_int, POINTER(c_int))
_IMPORT = CFUNCTYPE(c_int, c_void_p, c_int, c_void_p)
_DIGEST_SIGN_INIT = CFUNCTYPE(c_int, c_void_p, c_char_p, c_void_p, c_void_p)
_DIGEST_SIGN = CFUNCTYPE(c_int, c_void_p, c_void_p, POINTER(c_size_t), c_size_t, c_void_p, c_size_t)
# The same shapes for calling OpenSSL's functions, with the interpreter's lock held.
_NATIVE_IMPORT = PYFUNCTYPE(c_int, c_void_p, c_int, c_void_p)
_NATIVE_DIGEST_SIGN_INIT = PYFUNCTYPE(c_int, c_void_p, c_char_p, c_void_p, c_void_p)
_NATIVE_GET_CTX_PARAMS = PYFUNCTYPE(c_int, c_void_p, c_void_p)


class _Key(NamedTuple):
    """What a key object's address stands for."""

    sign: Signer
    signature_size: int


class _Operation(NamedTuple):
    """A signature that was begun on OpenSSL's signature context at an address."""

    context: int
    key: _Key
    digest: str


def _immortal(thing: Any) -> Any:
    """Keep an object beyond the interpreter's own clean-up: one reference to it is never given back."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
    return thing


def _address(callback: Any) -> int:
    """Where C finds a callback, from now on and for ever."""
    return ctypes.cast(_immortal(callback), c_void_p).value or 0


@cache
def _digest_name(mdname: bytes | None) -> str:
    """hashlib's name for OpenSSL's: ``SHA2-256`` and ``SHA256`` are ``sha256``."""
    return (mdname or b"").decode("ascii").lower().replace("sha2-", "sha").replace("sha-", "sha")


class _KeyType:
    """The three replaced functions for one kind of key, and what they need of OpenSSL's."""

    def __init__(self, provider: _Provider, keymgmt: Mapping[int, int], signature: Mapping[int, int]) -> None:
        self._provider = provider
        # One per thread is enough: TLS begins and makes a signature in one go. OpenSSL also begins some only to see
        # whether the key takes the digest, and never says that it let them go.
        self._begun = threading.local()
        self._import = _NATIVE_IMPORT(keymgmt[_KEYMGMT_IMPORT])
        self._init = _NATIVE_DIGEST_SIGN_INIT(signature[_SIGNATURE_DIGEST_SIGN_INIT])
        self._get_params = _NATIVE_GET_CTX_PARAMS(signature[_SIGNATURE_GET_CTX_PARAMS])
        self.callbacks = {
            _OP_KEYMGMT: {_KEYMGMT_IMPORT: _address(_IMPORT(self.import_key))},
            _OP_SIGNATURE: {
                _SIGNATURE_DIGEST_SIGN_INIT: _address(_DIGEST_SIGN_INIT(self.digest_sign_init)),
                _SIGNATURE_DIGEST_SIGN: _address(_DIGEST_SIGN(self.digest_sign)),
            },
        }

    def import_key(self, keydata: int, selection: int, params: int) -> int:
        """OSSL_FUNC_keymgmt_import: let OpenSSL import, and note the address if it is a token's key."""
        calls["import"] += 1
        done: int = self._import(keydata, selection, params)
        entering = getattr(self._provider.entering, "key", None)
        if done and entering is not None:
            self._provider.entering.address = keydata
            self._provider.keys[keydata] = entering
        return done

    def digest_sign_init(self, context: int, mdname: bytes | None, keydata: int | None, params: int | None) -> int:
        """OSSL_FUNC_signature_digest_sign_init."""
        calls["digest_sign_init"] += 1
        key = self._provider.keys.get(keydata or 0)
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


class _ECDSA(_KeyType):
    def _scheme(self, context: int, digest: str) -> SignatureScheme:  # noqa: ARG002
        return SignatureScheme("ecdsa", digest)


class _Ed25519(_KeyType):
    def _scheme(self, context: int, digest: str) -> SignatureScheme:  # noqa: ARG002
        return SignatureScheme("eddsa", "")


class _PaddingQuery(threading.local):
    """The parameters by which a thread asks for an RSA signature's padding, made once: this is done per handshake."""

    def __init__(self) -> None:
        self.padding, self.salt = c_int(), c_int()
        self.params = (_Param * 3)(  # the last one ends the list
            _Param(b"pad-mode", _PARAM_INTEGER, addressof(self.padding), ctypes.sizeof(c_int), 0),
            _Param(b"saltlen", _PARAM_INTEGER, addressof(self.salt), ctypes.sizeof(c_int), 0),
        )

    def reset(self) -> None:
        self.padding.value, self.salt.value = 0, _SALT_AS_LONG_AS_DIGEST


class _RSA(_KeyType):
    def __init__(self, provider: _Provider, keymgmt: Mapping[int, int], signature: Mapping[int, int]) -> None:
        super().__init__(provider, keymgmt, signature)
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


_KEY_TYPES = {b"RSA": _RSA, b"EC": _ECDSA, b"ED25519": _Ed25519}

#: How often each replaced function ran: proof that nothing but a token key's signature comes here.
calls = {"import": 0, "digest_sign_init": 0, "digest_sign": 0}


class _Provider:
    """The registered provider; one for the process."""

    def __init__(self) -> None:
        self.keys: dict[int, _Key] = {}
        self.entering = threading.local()
        lib = openssl()
        self._default = lib.OSSL_PROVIDER_load(None, b"default")
        if not self._default:
            raise UnsupportedOpenSSL(f"OpenSSL's default provider can not be loaded: {lib.errors()}")
        # A fetch makes the default provider register all its algorithms of that kind, ahead of ours.
        lib.EVP_KEYMGMT_free(lib.EVP_KEYMGMT_fetch(None, b"RSA", None))
        lib.EVP_SIGNATURE_free(lib.EVP_SIGNATURE_fetch(None, b"RSA", None))
        self._algorithms = self._build()
        self._context = lib.OSSL_PROVIDER_get0_provider_ctx(self._default)
        query = _Dispatch(_PROVIDER_QUERY_OPERATION, _address(_QUERY(self._query_operation)))
        self._dispatch = _immortal((_Dispatch * 2)(query))
        if not lib.OSSL_PROVIDER_add_builtin(None, b"tokenauth", _address(_INIT(self._initialise))) or not (
            lib.OSSL_PROVIDER_load(None, b"tokenauth")
        ):
            raise UnsupportedOpenSSL(f"OpenSSL does not take the provider: {lib.errors()}")

    def _initialise(self, _handle: int, _core: Any, out: Any, context: Any) -> int:
        out[0] = addressof(self._dispatch)
        context[0] = self._context
        return 1

    def _query_operation(self, _context: int, operation: int, no_cache: Any) -> int | None:
        no_cache[0] = 0
        table = self._algorithms.get(operation)
        return addressof(table) if table is not None else None

    def _build(self) -> dict[int, Any]:
        """The two tables of algorithms, made from the default provider's."""
        native = {operation: self._native(operation) for operation in _KEPT}
        rows: dict[int, list[_Algorithm]] = {operation: [] for operation in _KEPT}
        for key_type, names in _ALGORITHMS.items():
            found: dict[int, Any] = {
                operation: native[operation].get(name) for operation, name in zip(_KEPT, names, strict=True)
            }
            tables = {number: _functions(algorithm, _KEPT[number]) for number, algorithm in found.items() if algorithm}
            if len(tables) < len(_KEPT):
                continue  # a build of OpenSSL without this kind of key
            kind = _KEY_TYPES[key_type](self, tables[_OP_KEYMGMT], tables[_OP_SIGNATURE])
            for operation, table in tables.items():
                rows[operation].append(_row(found[operation].names, table | kind.callbacks[operation]))
        return {operation: _immortal((_Algorithm * (len(row) + 1))(*row)) for operation, row in rows.items()}

    def _native(self, operation: int) -> dict[bytes, Any]:
        """The default provider's algorithms by their first name."""
        table = openssl().OSSL_PROVIDER_query_operation(self._default, operation, byref(c_int()))
        algorithms = _until(ctypes.cast(table, POINTER(_Algorithm)), "names")
        return {algorithm.names.partition(b":")[0]: algorithm for algorithm in algorithms}


def _until(array: Any, field: str) -> Any:
    """The elements of a C array that ends with one whose ``field`` is zero."""
    index = 0
    while getattr(array[index], field):
        yield array[index]
        index += 1


def _functions(algorithm: Any, kept: frozenset[int]) -> dict[int, int]:
    """The functions of an algorithm that are handed on: number -> address."""
    entries = _until(algorithm.implementation, "function_id")
    return {entry.function_id: entry.function for entry in entries if entry.function_id in kept}


def _row(names: bytes, functions: Mapping[int, int]) -> _Algorithm:
    entries = [_Dispatch(number, address) for number, address in sorted(functions.items())]
    table = _immortal((_Dispatch * (len(entries) + 1))(*entries))
    return _Algorithm(names, _PROPERTIES, table, b"keys in PKCS#11 tokens")


_lock = threading.Lock()
_registered: _Provider | None = None


def _provider() -> _Provider:
    global _registered  # noqa: PLW0603 - OpenSSL's list of providers is global as well
    if _registered is None:
        with _lock:
            if _registered is None:
                _registered = _Provider()
    return _registered


def register() -> None:
    """Register the provider now rather than with the first key.

    Raises:
        UnsupportedOpenSSL: this Python's OpenSSL can not do it.
    """
    _provider()


class TokenPKey:
    """An ``EVP_PKEY`` whose signatures are made by a function.

    Args:
        public: address of an ``EVP_PKEY`` with the public half, such as a certificate's; not kept.
        sign: makes the signatures; it runs inside OpenSSL, on the thread that does the handshake.

    Raises:
        UnsupportedOpenSSL: the key is neither RSA, EC nor Ed25519, or OpenSSL refuses it.
    """

    def __init__(self, public: int, sign: Signer) -> None:
        lib = openssl()
        provider = _provider()
        name = next((name for name in _ALGORITHMS if lib.EVP_PKEY_is_a(public, name)), None)
        if name is None:
            raise UnsupportedOpenSSL("the certificate's key is neither RSA, EC nor Ed25519")
        params, pkey = c_void_p(), c_void_p()
        context = lib.EVP_PKEY_CTX_new_from_name(None, name, _PROPERTIES)
        provider.entering.key = _Key(sign, lib.EVP_PKEY_get_size(public))
        try:
            if (
                lib.EVP_PKEY_todata(public, _PUBLIC_KEY, byref(params)) <= 0
                or lib.EVP_PKEY_fromdata_init(context) <= 0
                or lib.EVP_PKEY_fromdata(context, byref(pkey), _PUBLIC_KEY, params) <= 0
            ):
                raise UnsupportedOpenSSL(f"OpenSSL does not take the key: {lib.errors()}")
        finally:
            provider.entering.key = None
            lib.OSSL_PARAM_free(params)
            lib.EVP_PKEY_CTX_free(context)
        self.address: int = pkey.value or 0
        # Not at exit: connections that are still open may hold the key, and OpenSSL frees what is left by itself.
        weakref.finalize(self, _release, provider, provider.entering.address, self.address).atexit = False


def _release(provider: _Provider, keydata: int, pkey: int) -> None:
    # The note goes first: once the key is freed, its address may become another key's.
    provider.keys.pop(keydata, None)
    openssl().EVP_PKEY_free(pkey)
