"""requests with a key in a token."""

from __future__ import annotations

import ssl
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
import requests.adapters
import requests.utils

from tokenauth.pin import as_source
from tokenauth.tls.context import create_context, removal_of, wanted

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenauth.inventory.identity import Identity
    from tokenauth.pin import PinSource
    from tokenauth.tls.removal import Removal
    from tokenauth.tls.selection import CertificateRequest
    from tokenauth.uri import TokenInfo, TokenURI

__all__ = ["Session", "TokenAdapter"]


class TokenAdapter(requests.adapters.HTTPAdapter):
    """The adapter that lets requests authenticate with a token; mount it on ``https://`` or on one site.

    There is one context for each value of ``verify`` that is used, so that a CA trusted for one request is not
    trusted for the next.

    Args:
        uri_or_context: as ``uri`` in :func:`tokenauth.create_context`; or an :class:`ssl.SSLContext` of yours, made
            by that function or given to :func:`tokenauth.configure`. With a context of yours, what it trusts is what
            counts: ``verify=PATH`` and ``REQUESTS_CA_BUNDLE`` are not looked at, and ``verify=False`` is an error.
        pin: as in :func:`tokenauth.create_context`.
        module: as in :func:`tokenauth.create_context`.
        choose: as in :func:`tokenauth.create_context`.
        allow_final_try: as in :func:`tokenauth.create_context`.
        forget_after: as in :func:`tokenauth.create_context`.
        isolate: as in :func:`tokenauth.create_context`.
        reuse_sessions: as in :func:`tokenauth.create_context`.
        wait: as in :func:`tokenauth.create_context`.
        on_remove: as in :func:`tokenauth.create_context`.
        **settings: as in :class:`requests.adapters.HTTPAdapter`.
    """

    def __init__(
        self,
        uri_or_context: str | TokenURI | Identity | ssl.SSLContext = "pkcs11:",
        *,
        pin: str | PinSource | None = None,
        module: str | None = None,
        choose: Callable[[list[Identity], CertificateRequest], Identity | None] | None = None,
        allow_final_try: bool = False,
        forget_after: float | None = None,
        isolate: bool | None = None,
        reuse_sessions: bool = True,
        wait: float | bool = False,
        on_remove: Callable[[TokenInfo], object] | Removal | None = None,
        **settings: Any,
    ) -> None:
        self._own = uri_or_context if isinstance(uri_or_context, ssl.SSLContext) else None
        self._identity: Any = uri_or_context
        self._options: dict[str, Any] = {
            "pin": as_source(pin),
            "module": module,
            "choose": choose,
            "allow_final_try": allow_final_try,
            "forget_after": forget_after,
            "isolate": isolate,
            "reuse_sessions": reuse_sessions,
            "wait": wait,
            "on_remove": removal_of(on_remove),  # one for all contexts, so that it is called once
        }
        self._contexts: dict[str | bool, ssl.SSLContext] = {}
        self._lock = threading.Lock()
        if not isinstance(uri_or_context, ssl.SSLContext):
            found = wanted(uri_or_context, **self._options)  # what is wrong with the URI or the module shows now
            self._identity = found.identity or found.uri
        super().__init__(**settings)

    def _context(self, verify: bool | str) -> ssl.SSLContext:
        if self._own is not None:
            if verify is False:
                raise ValueError("verify=False has no effect on your own ssl.SSLContext; set it there")
            return self._own
        with self._lock:
            if verify not in self._contexts:
                self._contexts[verify] = self._make_context(verify)
            return self._contexts[verify]

    def _make_context(self, verify: bool | str) -> ssl.SSLContext:
        bundle = requests.utils.DEFAULT_CA_BUNDLE_PATH if isinstance(verify, bool) else verify
        path = Path(bundle)
        if not path.exists():
            raise OSError(f"Could not find a suitable TLS CA certificate bundle, invalid path: {bundle}")
        cafile, capath = (None, bundle) if path.is_dir() else (bundle, None)
        context = create_context(self._identity, cafile=cafile, capath=capath, **self._options)
        if verify is False:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        """As in requests: which pool of connections serves a request; ours hold a context each."""
        if cert is not None:
            raise ValueError("cert= names a key file, but this session authenticates with a token: leave it out")
        host, settings = super().build_connection_pool_key_attributes(request, verify, cert)
        pool: dict[str, Any] = dict(settings)
        if host["scheme"] == "https":
            for setting in ("ca_certs", "ca_cert_dir", "ca_cert_data"):
                pool.pop(setting, None)
            context: Any = self._context(verify if isinstance(verify, bool) else str(verify))
            context._tokenauth.await_token()  # here, before the server is connected to and waits with us
            pool["ssl_context"] = context
        return host, pool

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:  # noqa: ARG002 - as in requests
        """As in requests; but what is trusted was settled with the context, so the connection loads nothing."""
        if url.lower().startswith("https"):
            conn.cert_reqs = "CERT_REQUIRED" if verify else "CERT_NONE"
            conn.ca_certs = conn.ca_cert_dir = None


class Session(requests.Session):
    """A :class:`requests.Session` whose ``https://`` requests authenticate with a token.

    Args:
        uri: as in :func:`tokenauth.create_context`.
        pin: as in :func:`tokenauth.create_context`.
        module: as in :func:`tokenauth.create_context`.
        verify: as in requests: True, False, or the path of a CA bundle.
        choose: as in :func:`tokenauth.create_context`.
        allow_final_try: as in :func:`tokenauth.create_context`.
        forget_after: as in :func:`tokenauth.create_context`.
        isolate: as in :func:`tokenauth.create_context`.
        reuse_sessions: as in :func:`tokenauth.create_context`.
        wait: as in :func:`tokenauth.create_context`.
        on_remove: as in :func:`tokenauth.create_context`.

    Raises:
        as :func:`tokenauth.create_context`. A failed handshake arrives as requests' ``SSLError``, whose text tells
        what the token answered.
    """

    def __init__(
        self,
        uri: str | TokenURI | Identity = "pkcs11:",
        *,
        pin: str | PinSource | None = None,
        module: str | None = None,
        verify: bool | str = True,
        choose: Callable[[list[Identity], CertificateRequest], Identity | None] | None = None,
        allow_final_try: bool = False,
        forget_after: float | None = None,
        isolate: bool | None = None,
        reuse_sessions: bool = True,
        wait: float | bool = False,
        on_remove: Callable[[TokenInfo], object] | None = None,
    ) -> None:
        super().__init__()
        self.verify = verify
        pin = as_source(pin)
        adapter = TokenAdapter(
            uri,
            pin=pin,
            module=module,
            choose=choose,
            allow_final_try=allow_final_try,
            forget_after=forget_after,
            isolate=isolate,
            reuse_sessions=reuse_sessions,
            wait=wait,
            on_remove=on_remove,
        )
        self.mount("https://", adapter)

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """As in requests, but ``REQUESTS_CA_BUNDLE`` does not override a ``verify`` that this session was given.

        In requests it does, so that ``Session.verify = PATH`` is silently not what is trusted.
        """
        if verify in {None, True} and self.verify is not True:
            verify = self.verify
        return super().merge_environment_settings(url, proxies, stream, verify, cert)
