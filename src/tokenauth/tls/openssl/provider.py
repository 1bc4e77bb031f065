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
from ctypes import POINTER, byref, c_int, c_void_p
from typing import TYPE_CHECKING, Any

from tokenauth.errors import UnsupportedOpenSSL
from tokenauth.tls.openssl.dispatch import (
    KEPT,
    OP_KEYMGMT,
    OP_SIGNATURE,
    PROVIDER_INIT,
    PROVIDER_QUERY_OPERATION,
    QUERY,
    Algorithm,
    Dispatch,
    address_of,
    immortal,
    until,
)
from tokenauth.tls.openssl.key_types import KEY_TYPES, Keys, ProviderKey, calls
from tokenauth.tls.openssl.library import openssl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenauth.tls.openssl.key_types import Signer

__all__ = ["TokenPKey", "calls", "register"]

_PROPERTIES = b"provider=tokenauth"
_MOST_FUNCTIONS = 16  # of a table, and one more; all tables of one size are one class
_PUBLIC_KEY = 0x86  # EVP_PKEY_PUBLIC_KEY: domain and other parameters, and the public key


class _Provider(Keys):
    """The registered provider; one for the process."""

    def __init__(self) -> None:
        super().__init__()
        lib = openssl()
        self._default = lib.OSSL_PROVIDER_load(None, b"default")
        if not self._default:
            raise UnsupportedOpenSSL(f"OpenSSL's default provider can not be loaded: {lib.errors()}")
        # A fetch makes the default provider register all its algorithms of that kind, ahead of ours.
        lib.EVP_KEYMGMT_free(lib.EVP_KEYMGMT_fetch(None, b"RSA", None))
        lib.EVP_SIGNATURE_free(lib.EVP_SIGNATURE_fetch(None, b"RSA", None))
        self._algorithms = self._build()
        self._context = lib.OSSL_PROVIDER_get0_provider_ctx(self._default)
        query = Dispatch(PROVIDER_QUERY_OPERATION, address_of(QUERY(self._query_operation)))
        self._dispatch = immortal((Dispatch * 2)(query))
        if not lib.OSSL_PROVIDER_add_builtin(None, b"tokenauth", address_of(PROVIDER_INIT(self._initialise))) or not (
            lib.OSSL_PROVIDER_load(None, b"tokenauth")
        ):
            raise UnsupportedOpenSSL(f"OpenSSL does not take the provider: {lib.errors()}")

    def _initialise(self, _handle: int, _core: Any, out: Any, context: Any) -> int:
        out[0] = ctypes.addressof(self._dispatch)
        context[0] = self._context
        return 1

    def _query_operation(self, _context: int, operation: int, no_cache: Any) -> int | None:
        no_cache[0] = 0
        table = self._algorithms.get(operation)
        return ctypes.addressof(table) if table is not None else None

    def _build(self) -> dict[int, Any]:
        """The two tables of algorithms, made from the default provider's."""
        native = {operation: self._native(operation) for operation in KEPT}
        rows: dict[int, list[Algorithm]] = {operation: [] for operation in KEPT}
        for names, make in KEY_TYPES.values():
            found: dict[int, Any] = {
                operation: native[operation].get(name) for operation, name in zip(KEPT, names, strict=True)
            }
            tables = {number: _functions(algorithm, KEPT[number]) for number, algorithm in found.items() if algorithm}
            if len(tables) < len(KEPT):
                continue  # a build of OpenSSL without this kind of key
            kind = make(self, tables[OP_KEYMGMT], tables[OP_SIGNATURE])
            for operation, table in tables.items():
                rows[operation].append(_row(found[operation].names, table | kind.callbacks[operation]))
        return {operation: immortal((Algorithm * (len(row) + 1))(*row)) for operation, row in rows.items()}

    def _native(self, operation: int) -> dict[bytes, Any]:
        """The default provider's algorithms by their first name."""
        table = openssl().OSSL_PROVIDER_query_operation(self._default, operation, byref(c_int()))
        algorithms = until(ctypes.cast(table, POINTER(Algorithm)), "names")
        return {algorithm.names.partition(b":")[0]: algorithm for algorithm in algorithms}


def _functions(algorithm: Any, kept: frozenset[int]) -> dict[int, int]:
    """The functions of an algorithm that are handed on: number -> address."""
    entries = until(algorithm.implementation, "function_id")
    return {entry.function_id: entry.function for entry in entries if entry.function_id in kept}


def _row(names: bytes, functions: Mapping[int, int]) -> Algorithm:
    entries = [Dispatch(number, address) for number, address in sorted(functions.items())]
    table = immortal((Dispatch * _MOST_FUNCTIONS)(*entries))  # the rest is zeros, the first of which ends it
    return Algorithm(names, _PROPERTIES, table, b"keys in PKCS#11 tokens")


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
        name = next((name for name in KEY_TYPES if lib.EVP_PKEY_is_a(public, name)), None)
        if name is None:
            raise UnsupportedOpenSSL("the certificate's key is neither RSA, EC nor Ed25519")
        params, pkey = c_void_p(), c_void_p()
        context = lib.EVP_PKEY_CTX_new_from_name(None, name, _PROPERTIES)
        provider.entering.key = ProviderKey(sign, lib.EVP_PKEY_get_size(public))
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
