"""Identities: certificates on tokens, each with its private key and its chain.

Importing this package binds it to the name ``tokenauth.identity``, which is the public function's. So the package can
be called: whichever of the two is found under that name does the same.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from tokenauth.identity.search import identity

        return identity(*args, **kwargs)


sys.modules[__name__].__class__ = _Package
