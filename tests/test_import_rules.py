"""Which part of the package may import which, and what ``import tokenauth`` loads."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import tokenauth

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(tokenauth.__file__).parent
#: Each layer knows those before it; those in one row do not know each other.
LAYERS = [
    {"_files", "_lazy", "_records", "_version"},
    {"errors", "notices"},
    {"uri"},
    {"pin"},
    {"pkcs11", "cards"},
    {"inventory"},
    {"tls", "signing", "provisioning"},
    {"clients"},
    {"bridge", "testing", "doctor", "readers"},
    {"cli"},
    {"__main__"},
]
#: Imports that cross two parts of one row, which is allowed where it is written down here.
ALLOWED_ACROSS = {("testing", "provisioning"), ("doctor", "readers")}
#: A library, and where alone it may be imported.
ONLY_IN = {
    "click": ("cli/",),
    "pkcs11": ("pkcs11/binding.py",),
    "smartcard": ("cards/pcsc.py",),
    "keyring": ("pin/desktop.py",),
    "ctypes": (
        "tls/openssl/",
        "pkcs11/binding.py",
        "pkcs11/cryptoki.py",
        "pkcs11/structures.py",
        "pkcs11/error_queue.py",
    ),
    "requests": ("clients/", "cli/", "signing/"),
    "pyhanko": ("signing/",),
    "pyhanko_certvalidator": ("signing/",),
    "asn1crypto": ("signing/",),
    "lxml": ("signing/",),
    "PIL": ("signing/",),
    "fontTools": ("signing/",),
    "jwt": ("signing/",),
    "httpx": (),
    "pytest": ("testing/plugin.py",),
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


def imported(path: Path, *, for_types: bool) -> Iterator[str]:
    """The full names of all modules that a file imports, inside functions too.

    Args:
        path: the file.
        for_types: also those imported only where a type checker looks.
    """
    yield from _imported(ast.parse(path.read_text(encoding="utf-8")), for_types)


def _imported(node: ast.AST, for_types: bool) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (name.name for name in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert not node.level, "imports are written with the package's name"
        yield from (f"{node.module}.{name.name}" for name in node.names)
    elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not for_types:
        children: list[ast.stmt] = node.orelse
        for child in children:
            yield from _imported(child, for_types)
        return
    for child_node in ast.iter_child_nodes(node):
        yield from _imported(child_node, for_types)


def part_of(name: str) -> str | None:
    """The part of the package that a module belongs to: the first name below it."""
    package, _, rest = name.partition(".")
    return rest.partition(".")[0] if package == "tokenauth" and rest else None


def layer_of(part: str) -> int:
    found = [index for index, parts in enumerate(LAYERS) if part in parts]
    assert found, f"{part} is in no layer: say in LAYERS where it belongs"
    return found[0]


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def own_part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_each_layer_knows_only_those_below(path):
    own = own_part(path)
    if own == "__init__":
        return  # the public names, loaded when they are used
    parts = {part_of(name) for name in imported(path, for_types=False)}
    # Types name what a function is given; errors and public names of the package itself are anybody's.
    public = set(tokenauth.__all__)
    for part in sorted(part for part in parts if part and part != own and part not in public):
        assert layer_of(part) < layer_of(own) or (own, part) in ALLOWED_ACROSS, f"{relative(path)} imports {part}"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_libraries_stay_where_they_belong(path):
    tops = {name.partition(".")[0] for name in imported(path, for_types=False)}
    for library in tops & set(ONLY_IN):
        assert relative(path).startswith(ONLY_IN[library]), f"{relative(path)} imports {library}"


def test_the_rules_would_find_something(tmp_path):
    """The checks above read imports in functions and behind TYPE_CHECKING as they should."""
    source = tmp_path / "module.py"
    source.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import requests\n"
        "def f():\n    import click.testing\n    from tokenauth.cli import root\n"
    )
    assert set(imported(source, for_types=False)) == {
        "typing.TYPE_CHECKING",
        "click.testing",
        "tokenauth.cli.root",
    }
    assert "requests" in set(imported(source, for_types=True))


def loaded_by(statement: str) -> set[str]:
    """The modules that are loaded after a statement in a new interpreter."""
    script = f"import sys; before = set(sys.modules)\n{statement}\nprint(*(set(sys.modules) - before))"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


HEAVY = {
    "requests",
    "urllib3",
    "cryptography",
    "pkcs11",
    "click",
    "ctypes",
    "subprocess",
    "asyncio",
    "asn1crypto",
    "keyring",
    "pyhanko",
    "lxml",
    "jwt",
    "smartcard",
}


def test_importing_the_package_loads_nothing_heavy():
    loaded = loaded_by("import tokenauth")
    assert "tokenauth.errors" in loaded
    assert not loaded & HEAVY
    assert not {
        name
        for name in loaded
        if name.startswith(("tokenauth.tls", "tokenauth.pkcs11", "tokenauth.clients", "tokenauth.signing"))
    }


def test_a_context_needs_neither_requests_nor_click():
    loaded = loaded_by("import tokenauth; tokenauth.create_context")
    assert "tokenauth.tls.context" in loaded
    assert not loaded & {"requests", "urllib3", "click"}


@pytest.mark.parametrize("name", tokenauth.__all__)
def test_every_public_name_is_there(name):
    assert getattr(tokenauth, name) is not None
    assert name in dir(tokenauth)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tokenauth.nothing  # noqa: B018


def test_modules_are_there_without_importing_them():
    code = "import tokenauth; print(tokenauth.pin.Env('X'), tokenauth.testing.SoftToken, tokenauth.errors.PinLocked)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
