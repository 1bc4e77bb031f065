"""Where operating systems keep PKCS#11 modules and p11-kit's configuration, as a table."""
# pathlib is not used because importing it would cost more than a whole discovery.
# ruff: noqa: PTH111, PTH119

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache

from tokenauth._records import Record

__all__ = ["LIBRARY_SUFFIXES", "SYSTEMS", "ModuleCandidate", "System", "expand", "expand_home", "library_name"]

LIBRARY_SUFFIXES = (".so", ".dylib", ".dll")


class ModuleCandidate(Record):
    """A library file that should be a PKCS#11 module.

    Attributes:
        path: absolute path of the file, as it was named (symbolic links are not resolved).
        origin: who named it, in words for people: ``--module``, ``p11-kit: softhsm2.module``, ...
        name: its RFC 7512 ``module-name``, see :func:`library_name`.
    """

    path: str
    origin: str
    name: str


class System(Record):
    """Where an operating system keeps PKCS#11 modules.

    Paths are in order of preference. The first four follow pkcs11.conf(5). In the last three, ``{multiarch}`` stands
    for Debian's name of the processor and system (``x86_64-linux-gnu``) and ``{programs}`` for ``%ProgramFiles%``.

    Attributes:
        configuration: p11-kit's global configuration file; the first that exists counts.
        module_files: directories of p11-kit's module files.
        user_directory: the user's directory with ``pkcs11.conf`` and ``modules``; empty for none.
        module_directories: where p11-kit looks for a module that its file names without a directory.
        libraries: directories of libraries; each in turn stands for ``{lib}`` in ``known``.
        known: files of well-known modules. Of several with the same :func:`library_name` the first that exists is used.
    """

    configuration: tuple[str, ...] = ()
    module_files: tuple[str, ...] = ()
    user_directory: str = ""
    module_directories: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    known: tuple[str, ...] = ()


#: By ``sys.platform``; any other platform is treated as ``linux``.
SYSTEMS = {
    "linux": System(
        configuration=("/etc/pkcs11/pkcs11.conf",),
        module_files=("/etc/pkcs11/modules", "/usr/share/p11-kit/modules"),
        user_directory="~/.config/pkcs11",
        module_directories=("/usr/lib/{multiarch}/pkcs11", "/usr/lib64/pkcs11", "/usr/lib/pkcs11"),
        libraries=("/usr/lib/{multiarch}", "/usr/lib64", "/usr/lib", "/usr/local/lib64", "/usr/local/lib"),
        known=(
            "{lib}/opensc-pkcs11.so",
            "{lib}/pkcs11/opensc-pkcs11.so",
            "{lib}/softhsm/libsofthsm2.so",
            "{lib}/pkcs11/libsofthsm2.so",
            "{lib}/libsofthsm2.so",
            "{lib}/libykcs11.so",
            "{lib}/libykcs11.so.2",
            "{lib}/pkcs11/libtpm2_pkcs11.so",
            "{lib}/libtpm2_pkcs11.so",
            "{lib}/libtpm2_pkcs11.so.1",
            "{lib}/pkcs11/libopencryptoki.so",
            "{lib}/opencryptoki/libopencryptoki.so",
            "{lib}/opencryptoki/libopencryptoki.so.0",
        ),
    ),
    "darwin": System(
        configuration=("/opt/homebrew/etc/pkcs11.conf", "/usr/local/etc/pkcs11.conf"),
        module_files=("/opt/homebrew/etc/pkcs11/modules", "/usr/local/etc/pkcs11/modules"),
        user_directory="~/.config/pkcs11",
        module_directories=("/opt/homebrew/lib/pkcs11", "/usr/local/lib/pkcs11"),
        libraries=("/opt/homebrew/lib", "/usr/local/lib"),
        known=(
            "/Library/OpenSC/lib/opensc-pkcs11.so",
            "{lib}/opensc-pkcs11.so",
            "{lib}/pkcs11/opensc-pkcs11.so",
            "{lib}/softhsm/libsofthsm2.so",
            "{lib}/libykcs11.dylib",
        ),
    ),
    "win32": System(
        known=(
            r"{programs}\OpenSC Project\OpenSC\pkcs11\opensc-pkcs11.dll",
            r"C:\SoftHSM2\lib\softhsm2-x64.dll",
            r"{programs}\SoftHSM2\lib\softhsm2-x64.dll",
            r"{programs}\Yubico\Yubico PIV Tool\bin\libykcs11.dll",
        ),
    ),
}


def library_name(path: str) -> str:
    """Give a library file's name without directory, ``lib`` prefix, suffix and version.

    That is its ``module-name`` in RFC 7512, section 2.3: ``/usr/lib/softhsm/libsofthsm2.so`` is ``softhsm2``.
    """
    parts = os.path.basename(path).split(".")
    while len(parts) > 1 and (parts[-1].isdigit() or f".{parts[-1].lower()}" in LIBRARY_SUFFIXES):
        parts.pop()
    return ".".join(parts).removeprefix("lib")


def expand(system: System, environ: Mapping[str, str]) -> System:
    """Make plain paths of a system's templates.

    Args:
        system: as in :data:`SYSTEMS`.
        environ: ``ProgramFiles``.

    Returns:
        The system without ``{multiarch}``, ``{programs}`` and ``{lib}``.
    """
    return _expanded(system, environ.get("ProgramFiles", r"C:\Program Files"))


@lru_cache(maxsize=8)
def _expanded(system: System, programs: str) -> System:
    # Every CPython for Linux knows its triplet; elsewhere no directory is named after one.
    multiarch = getattr(sys.implementation, "_multiarch", "")

    def fill(templates: Iterable[str], libraries: Iterable[str] = ("",)) -> tuple[str, ...]:
        paths = (
            template.format(multiarch=multiarch, programs=programs, lib=library)
            for template in templates
            for library in libraries
        )
        return tuple(dict.fromkeys(paths))

    libraries = fill(system.libraries)
    return system._replace(
        module_directories=fill(system.module_directories),
        libraries=libraries,
        known=fill(system.known, libraries or ("",)),
    )


def expand_home(path: str, environ: Mapping[str, str]) -> str:
    """The path with the user's home directory in place of a ``~`` at its beginning."""
    if path != "~" and not path.startswith(("~/", "~" + os.sep)):
        return path
    return (environ.get("HOME") or os.path.expanduser("~")) + path[1:]
