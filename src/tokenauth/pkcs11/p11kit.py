"""What p11-kit's configuration files say of PKCS#11 modules (pkcs11.conf(5))."""
# pathlib is not used because importing it would cost more than a whole discovery.
# ruff: noqa: PTH110, PTH112, PTH113, PTH118, PTH123, PTH208

from __future__ import annotations

import os
import sys
from collections import ChainMap
from typing import TYPE_CHECKING

from tokenauth.pkcs11.known_modules import SYSTEMS, ModuleCandidate, expand, expand_home, library_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenauth.pkcs11.known_modules import System

__all__ = ["PROGRAM", "configured_modules", "init_reserved", "parse_module_file"]

#: The name by which ``enable-in`` and ``disable-in`` of a p11-kit module file mean this program.
PROGRAM = "tokenauth"

_WHITESPACE = " \t\n\v\f\r"  # what C's isspace() takes, so that odd bytes are read as p11-kit reads them
_MAX_FILE_SIZE = 1 << 20


def parse_module_file(text: str) -> dict[str, str]:
    """Read the settings of a p11-kit configuration file (pkcs11.conf(5)).

    Args:
        text: lines of ``name: value``; blank lines and lines that begin with ``#`` are skipped.

    Returns:
        Values by name; of several with one name the last.

    Raises:
        ValueError: a line is something else. p11-kit then refuses the whole file.
    """
    settings: dict[str, str] = {}
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip(_WHITESPACE)
        if not line or line.startswith("#"):
            continue
        name, colon, value = line.partition(":")
        if not colon or line.startswith(("[", "-----BEGIN ")):
            raise ValueError(f"line {number} is not 'name: value'")
        settings[name.rstrip(_WHITESPACE)] = value.lstrip(_WHITESPACE)
    return settings


def configured_modules(
    system: System, environ: Mapping[str, str], problems: list[str]
) -> tuple[list[ModuleCandidate], set[str]]:
    """List the modules of p11-kit's files, highest priority first.

    Args:
        system: where the files are, without templates.
        environ: ``P11_KIT_NO_USER_CONFIG``, ``XDG_CONFIG_HOME`` and ``HOME``.
        problems: gets one sentence for each file or module that cannot be used.

    Returns:
        The candidates, and the names of all modules that the files decide about: also those that a file switches off
        for this program, or that a user's file replaces, which must not come back as well-known ones.
    """
    candidates: list[ModuleCandidate] = []
    decided: set[str] = set()
    directories = system.module_directories or ("/",)
    files = _module_settings(system, environ, problems)
    for file in sorted(files, key=lambda file: (-_priority(files[file]), file.removesuffix(".module"))):
        settings = files[file]
        named = settings.get("module", "")
        if named and "remote" not in settings and _enabled(settings):
            # join() leaves an absolute path as it is.
            places = (os.path.join(directory, named) for directory in directories)
            path = next(filter(os.path.isfile, places), None)
            if path is None:
                problems.append(f"p11-kit's {file!r} names the module {named!r}, which does not exist")
                continue
            candidates.append(ModuleCandidate(path, f"p11-kit: {file}", library_name(path)))
        decided.update(library_name(layer["module"]) for layer in settings.maps if layer.get("module"))
    return candidates, decided


def init_reserved(path: str, environ: Mapping[str, str] = os.environ) -> bytes | None:
    """What a module's file says that ``C_Initialize`` is to be given (``x-init-reserved``); NSS's softokn needs it.

    Args:
        path: the module's file, whoever named it.
        environ: as for :func:`configured_modules`.
    """
    system = expand(SYSTEMS.get(sys.platform, SYSTEMS["linux"]), environ)
    real = os.path.realpath(path)
    for settings in _module_settings(system, environ, []).values():
        given, named = settings.get("x-init-reserved"), settings.get("module")
        places = [os.path.join(directory, named) for directory in system.module_directories or ("/",)] if named else []
        if given and real in map(os.path.realpath, places):
            return os.fsencode(given)
    return None


def _priority(settings: Mapping[str, str]) -> int:
    try:
        return int(settings.get("priority", "0"))
    except ValueError:
        return 0


def _enabled(settings: Mapping[str, str]) -> bool:
    def lists_us(setting: str) -> bool:
        return PROGRAM in settings.get(setting, "").replace(",", " ").split()

    return lists_us("enable-in") if "enable-in" in settings else not lists_us("disable-in")


def _module_settings(system: System, environ: Mapping[str, str], problems: list[str]) -> dict[str, ChainMap[str, str]]:
    """Read all module files: by file name its settings, where those of an earlier directory win one by one."""
    merged: dict[str, ChainMap[str, str]] = {}
    for directory in _module_file_directories(system, environ, problems):
        for file in _listing(directory, problems):
            path = os.path.join(directory, file)
            if os.path.isdir(path):
                continue
            if not file.endswith(".module"):
                problems.append(f"p11-kit's file {path!r} should have a name that ends in '.module'")
            merged.setdefault(file, ChainMap()).maps.append(_read_settings(path, problems))
    return merged


def _listing(directory: str, problems: list[str]) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        problems.append(f"p11-kit's directory {directory!r} cannot be read: {error.strerror}")
        return []


def _module_file_directories(system: System, environ: Mapping[str, str], problems: list[str]) -> tuple[str, ...]:
    """Decide, as p11-kit does, which directories count: ``user-config`` may be set by the system and by the user."""
    configuration = next(filter(os.path.exists, system.configuration), "")
    mode = _user_config(configuration, "merge", problems)
    user = expand_home(system.user_directory, environ)
    if environ.get("XDG_CONFIG_HOME") and system.user_directory.startswith("~/.config/"):
        user = os.path.join(environ["XDG_CONFIG_HOME"], system.user_directory.removeprefix("~/.config/"))
    # A user's files must not bring code into a program that runs as root, for instance under sudo.
    is_root = hasattr(os, "getuid") and os.getuid() == 0
    if mode == "none" or not user or is_root or "P11_KIT_NO_USER_CONFIG" in environ:
        return system.module_files
    mode = _user_config(os.path.join(user, "pkcs11.conf"), mode, problems)
    modules = os.path.join(user, "modules")
    return {"none": system.module_files, "merge": (modules, *system.module_files)}.get(mode, (modules,))


def _user_config(path: str, default: str, problems: list[str]) -> str:
    if not os.path.exists(path):
        return default
    mode = _read_settings(path, problems).get("user-config", default)
    if mode in ("none", "merge", "only", "override"):  # "override" is the old name of "only"
        return mode
    problems.append(f"p11-kit's file {path!r} sets user-config to {mode!r}, which is none of none, merge and only")
    return default


def _read_settings(path: str, problems: list[str]) -> dict[str, str]:
    """Read one file of p11-kit's; one that cannot be read counts as empty and is a problem."""
    try:
        return parse_module_file(_read_text(path))
    except OSError as error:
        reason = error.strerror
    except ValueError as error:
        reason = str(error)
    problems.append(f"p11-kit's file {path!r} cannot be used: {reason}")
    return {}


def _read_text(path: str) -> str:
    if os.path.exists(path) and not os.path.isfile(path):  # opening a FIFO would hang
        raise ValueError("not a regular file")
    with open(path, "rb") as file:
        data = file.read(_MAX_FILE_SIZE + 1)
    if len(data) > _MAX_FILE_SIZE:
        raise ValueError(f"larger than {_MAX_FILE_SIZE} bytes")
    return os.fsdecode(data)
