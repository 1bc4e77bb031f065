"""The very libssl and libcrypto that Python's ``ssl`` module uses, called through ctypes.

Every function is found here and nowhere else, by one rule: the shared object of ``_ssl`` depends on the right
libssl and libcrypto, so the dynamic linker resolves their symbols through it (Linux, macOS); on Windows the two
DLLs lie beside ``_ssl.pyd``. No library is ever loaded by name from a search path: that could be another OpenSSL,
whose objects must not be mixed with those of ``ssl``.

The functions are called with the interpreter's lock held (``PyDLL``). All of them are short, and a handshake
would otherwise pay for releasing and regaining the lock a dozen times.
"""

from __future__ import annotations

import ctypes
import os
import ssl
import sys
from ctypes import c_char_p, c_int, c_long, c_size_t, c_uint32, c_uint64, c_ulong, c_void_p
from pathlib import Path
from typing import Any

from tokenauth.errors import UnsupportedOpenSSL

__all__ = ["OpenSSL", "openssl"]

#: name: (result, arguments), from the headers of OpenSSL 3.0. An address travels as ``c_void_p``, of whatever it is.
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "OpenSSL_version_num": (c_ulong, ()),
    "ERR_get_error": (c_ulong, ()),
    "ERR_error_string_n": (None, (c_ulong, c_char_p, c_size_t)),
    "ERR_clear_error": (None, ()),
    # providers and fetching
    "OSSL_PROVIDER_load": (c_void_p, (c_void_p, c_char_p)),
    "OSSL_PROVIDER_add_builtin": (c_int, (c_void_p, c_char_p, c_void_p)),
    "OSSL_PROVIDER_query_operation": (c_void_p, (c_void_p, c_int, c_void_p)),
    "OSSL_PROVIDER_get0_provider_ctx": (c_void_p, (c_void_p,)),
    "EVP_KEYMGMT_fetch": (c_void_p, (c_void_p, c_char_p, c_char_p)),
    "EVP_KEYMGMT_free": (None, (c_void_p,)),
    "EVP_SIGNATURE_fetch": (c_void_p, (c_void_p, c_char_p, c_char_p)),
    "EVP_SIGNATURE_free": (None, (c_void_p,)),
    # keys
    "EVP_PKEY_CTX_new_from_name": (c_void_p, (c_void_p, c_char_p, c_char_p)),
    "EVP_PKEY_CTX_free": (None, (c_void_p,)),
    "EVP_PKEY_fromdata_init": (c_int, (c_void_p,)),
    "EVP_PKEY_fromdata": (c_int, (c_void_p, c_void_p, c_int, c_void_p)),
    "EVP_PKEY_todata": (c_int, (c_void_p, c_int, c_void_p)),
    "EVP_PKEY_free": (None, (c_void_p,)),
    "EVP_PKEY_is_a": (c_int, (c_void_p, c_char_p)),
    "EVP_PKEY_get_bits": (c_int, (c_void_p,)),
    "EVP_PKEY_get_size": (c_int, (c_void_p,)),
    "OSSL_PARAM_free": (None, (c_void_p,)),
    # certificates
    "d2i_X509": (c_void_p, (c_void_p, c_void_p, c_long)),
    "X509_free": (None, (c_void_p,)),
    "X509_get0_pubkey": (c_void_p, (c_void_p,)),
    "X509_get_issuer_name": (c_void_p, (c_void_p,)),
    "X509_get0_notBefore": (c_void_p, (c_void_p,)),
    "X509_get0_notAfter": (c_void_p, (c_void_p,)),
    "X509_cmp_current_time": (c_int, (c_void_p,)),
    "X509_check_issued": (c_int, (c_void_p, c_void_p)),
    "X509_verify": (c_int, (c_void_p, c_void_p)),
    "X509_check_purpose": (c_int, (c_void_p, c_int, c_int)),
    "X509_get_key_usage": (c_uint32, (c_void_p,)),
    "X509_NAME_get0_der": (c_int, (c_void_p, c_void_p, c_void_p)),
    "OPENSSL_sk_new_null": (c_void_p, ()),
    "OPENSSL_sk_push": (c_int, (c_void_p, c_void_p)),
    "OPENSSL_sk_num": (c_int, (c_void_p,)),
    "OPENSSL_sk_value": (c_void_p, (c_void_p, c_int)),
    "OPENSSL_sk_free": (None, (c_void_p,)),
    # contexts and connections
    "SSL_CTX_get_options": (c_uint64, (c_void_p,)),
    "SSL_CTX_get_verify_mode": (c_int, (c_void_p,)),
    "SSL_CTX_ctrl": (c_long, (c_void_p, c_int, c_long, c_char_p)),
    "SSL_CTX_set_cert_cb": (None, (c_void_p, c_void_p, c_void_p)),
    "SSL_get_servername": (c_char_p, (c_void_p, c_int)),
    "SSL_get0_peer_CA_list": (c_void_p, (c_void_p,)),
    "SSL_get_sigalgs": (c_int, (c_void_p, c_int, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p)),
    "SSL_use_cert_and_key": (c_int, (c_void_p, c_void_p, c_void_p, c_void_p, c_int)),
    "SSL_version": (c_int, (c_void_p,)),
    "SSL_CTX_use_cert_and_key": (c_int, (c_void_p, c_void_p, c_void_p, c_void_p, c_int)),
    # sessions
    "SSL_get_session": (c_void_p, (c_void_p,)),
    "SSL_set_session": (c_int, (c_void_p, c_void_p)),
    "SSL_SESSION_dup": (c_void_p, (c_void_p,)),
    "SSL_SESSION_free": (None, (c_void_p,)),
    "SSL_SESSION_get_id": (c_void_p, (c_void_p, c_void_p)),
}

_WHAT_TO_DO = "use a Python whose ssl module is linked with a shared OpenSSL 3 (python.org's or a distribution's)"


class OpenSSL:
    """The functions of ``_FUNCTIONS`` as attributes, bound at first use."""

    def __init__(self) -> None:
        if ssl.OPENSSL_VERSION_INFO < (3, 0) or ssl.OPENSSL_VERSION.startswith("LibreSSL"):
            raise UnsupportedOpenSSL(f"Python's ssl module uses {ssl.OPENSSL_VERSION}", hint=_WHAT_TO_DO)
        self._libraries = _libraries()
        if self.OpenSSL_version_num() != ssl.OPENSSL_VERSION_NUMBER:
            raise UnsupportedOpenSSL("the OpenSSL found is not the one that the ssl module uses", hint=_WHAT_TO_DO)

    def __getattr__(self, name: str) -> Any:
        function = self._find(name)
        function.restype, function.argtypes = _FUNCTIONS[name]
        setattr(self, name, function)
        return function

    def _find(self, name: str) -> Any:
        """The one place where a symbol is looked up."""
        for library in self._libraries:
            try:
                return library[name]
            except AttributeError:
                continue
        raise UnsupportedOpenSSL(f"this Python hides its OpenSSL: {name} can not be found in it", hint=_WHAT_TO_DO)

    def errors(self) -> str:
        """Empty this thread's error queue.

        Returns:
            Its entries, oldest first, joined with semicolons; words that say so if there are none.
        """
        texts = []
        buffer = ctypes.create_string_buffer(256)
        while code := self.ERR_get_error():
            self.ERR_error_string_n(code, buffer, len(buffer))
            texts.append(buffer.value.decode("ascii", "replace"))
        return "; ".join(texts) or "OpenSSL gives no reason"

    def pointer(self, context: ssl.SSLContext) -> int:
        """The ``SSL_CTX *`` of a context.

        CPython's object for it is ``PyObject_HEAD; SSL_CTX *ctx; ...`` (Modules/_ssl.c), so the pointer lies right
        behind the object's header. Options and verify mode, read through the pointer, must be those that the ``ssl``
        module reports; a Python laid out differently is refused here rather than crashed.

        Raises:
            UnsupportedOpenSSL: the pointer is not where it should be.
        """
        address = c_void_p.from_address(id(context) + object.__basicsize__).value
        peer_bits = {ssl.CERT_NONE: 0, ssl.CERT_OPTIONAL: 1, ssl.CERT_REQUIRED: 3}[context.verify_mode]
        if (
            not address
            or self.SSL_CTX_get_options(address) != int(context.options) % (1 << 64)
            or self.SSL_CTX_get_verify_mode(address) & 3 != peer_bits
        ):
            raise UnsupportedOpenSSL(
                f"a {type(context).__module__}.{type(context).__qualname__} is not laid out as CPython's SSLContext",
                hint="pass a plain ssl.SSLContext",
            )
        return address


def _libraries() -> tuple[ctypes.PyDLL, ...]:
    import _ssl

    extension = Path(getattr(_ssl, "__file__", None) or sys.executable)
    beside = sorted(extension.parent.glob("lib[cs]*-3*.dll")) if os.name == "nt" else [extension]
    return tuple(ctypes.PyDLL(str(path)) for path in beside)


_instance: OpenSSL | None = None


def openssl() -> OpenSSL:
    """The process's binding; two threads that race for it make the same one twice, which does no harm.

    Raises:
        UnsupportedOpenSSL: Python's OpenSSL is older than 3, is LibreSSL, or hides its functions.
    """
    global _instance  # noqa: PLW0603 - one binding for the process
    if _instance is None:
        _instance = OpenSSL()
    return _instance
