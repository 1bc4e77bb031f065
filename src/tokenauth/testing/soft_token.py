"""SoftHSM tokens for tests and development: keys generated in the token, certificates from a throw-away CA."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import NameOID

from tokenauth.errors import ModuleError
from tokenauth.inventory.search import identity
from tokenauth.pin import as_source
from tokenauth.pkcs11.keys import KeyReference
from tokenauth.pkcs11.tokens import Credentials
from tokenauth.provisioning import keys, softhsm
from tokenauth.testing.authority import Authority
from tokenauth.uri import TokenURI

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from types import TracebackType

    from tokenauth.inventory.identity import Identity
    from tokenauth.pkcs11.modules import Module
    from tokenauth.pkcs11.tokens import Token

__all__ = ["SoftToken"]


class _Home:
    """The directory of SoftHSM's tokens that this process uses.

    SoftHSM reads its configuration once, when it is initialised, so all soft tokens that are open at the same time
    share one directory. It goes with the last of them, and what was configured before is back.
    """

    def __init__(self) -> None:
        self.tokens: list[SoftToken] = []
        self.module: Module | None = None
        self._directory: Path | None = None
        self._before: Path | None = None

    def enter(self, token: SoftToken) -> Module:
        if self.module is None:
            self._before = softhsm.configuration_in_use()
            self._directory = Path(tempfile.mkdtemp(prefix="tokenauth-"))
            self.module = softhsm.use_configuration(softhsm.write_configuration(self._directory))
        self.tokens.append(token)
        return self.module

    @property
    def configuration(self) -> Path:
        if self._directory is None:
            raise ValueError("no soft token is open")
        return self._directory / "softhsm2.conf"

    def leave(self, token: SoftToken) -> None:
        self.tokens.remove(token)
        module, directory = self.module, self._directory
        if module is None or directory is None:
            return
        if self.tokens:
            softhsm.remove_token(directory, token.serial)
            module.reload()
            softhsm.tell_isolated(module)
            return
        self.module = self._directory = None
        shutil.rmtree(directory, ignore_errors=True)
        # Ordinary users often can not read the system's own configuration; without it SoftHSM stays uninitialised.
        with contextlib.suppress(ModuleError):
            softhsm.use_configuration(self._before)


_home = _Home()


class SoftToken:
    """A temporary SoftHSM token with one client identity, or those that you add.

    The keys are generated in the token and never leave it; the certificates are issued by a throw-away CA over
    requests that the token signed. The environment variable ``SOFTHSM2_CONF`` points to it while it is open, so that
    programs started by the test see it too.

    Args:
        label: the token's label.
        pin: the user's PIN; None makes a random one.
        key_type: of the client identity: ``rsa2048``, ``rsa3072``, ``rsa4096``, ``p256``, ``p384``, ``p521`` or
            ``ed25519``; None makes no identity.
        authority: the CA that issues the certificates; None makes one.

    Attributes:
        label: the token's label.
        serial: its serial number.
        pin: the user's PIN.
        ca: the CA.

    Raises:
        ModuleError: SoftHSM is not installed.
    """

    def __init__(
        self,
        label: str = "tokenauth-test",
        *,
        pin: str | None = None,
        key_type: str | None = "p256",
        authority: Authority | None = None,
    ) -> None:
        self.label = label
        self.pin = pin or _random_pin()
        self.ca = authority or Authority()
        self._identities = 0
        self._open = True
        self._module = _home.enter(self)
        try:
            self._token = softhsm.new_token(self._module, label, _random_pin(), self.pin)
            self.serial = self._token.info.serial
            if key_type is not None:
                self.add_identity("client", key_type=key_type)
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<SoftToken {self.uri}>"

    def __enter__(self) -> SoftToken:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def module(self) -> str:
        """The path of SoftHSM's PKCS#11 module."""
        return self._module.path

    @property
    def configuration(self) -> Path:
        """SoftHSM's configuration file, which ``SOFTHSM2_CONF`` names; the tokens' directory is beside it."""
        return _home.configuration

    @property
    def uri(self) -> str:
        """The ``pkcs11:`` URI of this token and no other."""
        return str(TokenURI(token=self.label, serial=self.serial))

    @property
    def token(self) -> Token:
        """The token, as the PKCS#11 layer sees it now."""
        return self._token

    def add_identity(
        self,
        common_name: str = "client",
        *,
        key_type: str = "p256",
        purposes: Sequence[str] = ("tls-client",),
        names: Sequence[str] = (),
        label: str | None = None,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        authority: Authority | None = None,
    ) -> Identity:
        """Generate a key in the token and have a certificate issued for it.

        Args:
            common_name: the CN of its subject.
            key_type: as for the token itself.
            purposes: of ``tls-client``, ``tls-server``, ``document``.
            names: DNS names and IP addresses that the certificate is for.
            label: of key and certificate; None takes the common name.
            not_before: when the certificate's validity begins, with a time zone; None: an hour ago.
            not_after: when it ends; None: in 30 days.
            authority: the CA, if not the token's own. Its chain is stored on the token as well.

        Returns:
            The identity, with the PIN.
        """
        issuer = authority or self.ca
        self._identities += 1
        reference = KeyReference(self._identities.to_bytes(1 + self._identities // 256, "big"), label or common_name)
        key = keys.generate_key(self.token, self.credentials, key_type, reference)
        certificate = issuer.issue(
            _signing_request(common_name, key),
            purposes=tuple(purposes),
            not_before=not_before,
            not_after=not_after,
            subject_alternative_names=tuple(names),
        )
        keys.store_certificate(self.token, self.credentials, certificate, reference)
        for above in issuer.chain:
            name = above.subject.rfc4514_string()
            keys.store_certificate(self.token, self.credentials, above, KeyReference(label=name))
        # A test of a wrong PIN would pass with a token that is logged in to.
        self.token.logout()
        uri = TokenURI(token=self.label, serial=self.serial, id=reference.id)
        return identity(uri, pin=self.pin, module=self.module)

    @property
    def credentials(self) -> Credentials:
        """For logging in to it."""
        return Credentials(as_source(self.pin))

    def close(self) -> None:
        """Remove the token and all that is on it. Contexts that used it fail from now on."""
        if self._open:
            self._open = False
            _home.leave(self)


def _random_pin() -> str:
    return f"{secrets.randbelow(10**8):08}"


def _signing_request(common_name: str, key: Any) -> x509.CertificateSigningRequest:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, algorithm)
