"""Test a service that wants client certificates, or a program that uses tokens, with no hardware.

:class:`SoftToken` is a SoftHSM token with an identity in it, :class:`MTLSServer` a server that demands one, and
:class:`Authority` the CA that both trust. With pytest, the fixtures of :mod:`tokenauth.testing.plugin` are there
as soon as tokenauth is installed.
"""

from __future__ import annotations

from tokenauth.testing.authority import Authority
from tokenauth.testing.server import MTLSServer
from tokenauth.testing.soft_token import SoftToken

__all__ = ["Authority", "MTLSServer", "SoftToken"]
