"""The one door to python-pkcs11.

Importing it costs a fifth of a second script's start when done naively: ``pkcs11`` imports its ``util`` modules,
which import asn1crypto, and nothing here needs either. They are loaded when somebody first touches them
(:class:`importlib.util.LazyLoader`), which also keeps them working for other users of python-pkcs11.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from tokenauth.pkcs11.cryptoki import Cryptoki, Initialised

__all__ = ["load", "python_pkcs11"]


class _DeferUtil:
    """A finder that makes ``pkcs11.util.*`` load at first use."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not name.startswith("pkcs11.util."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


def python_pkcs11() -> Any:
    """The package ``pkcs11``."""
    if "pkcs11" not in sys.modules:
        sys.meta_path.insert(0, _DeferUtil)
        try:
            import pkcs11  # noqa: F401 - loaded at use: see above
        finally:
            sys.meta_path.remove(_DeferUtil)
    return sys.modules["pkcs11"]


def load(path: str, cryptoki: Cryptoki) -> tuple[Any, Initialised]:
    """Open a module with python-pkcs11, initialised by us.

    python-pkcs11 finalises and unloads a module when its object goes, at the latest when the interpreter ends. Other
    threads may still be inside the module then, and somebody else may have initialised it; so the object is never
    let go, and as its own ``initialized`` stays false it never finalises anything either.

    Args:
        path: the module's file.
        cryptoki: the functions of the same file.

    Returns:
        python-pkcs11's ``lib`` object, and how the module was initialised.

    Raises:
        ModuleError: it can not be initialised.
    """
    python_pkcs11()
    from pkcs11 import _pkcs11

    initialised: list[Initialised] = []

    class Library(_pkcs11.lib):
        def initialize(self) -> None:
            if not initialised:
                initialised.append(cryptoki.initialise())

    library = Library(path)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(library))
    return library, initialised[0]
