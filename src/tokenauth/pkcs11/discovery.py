"""Which PKCS#11 modules this machine has. Nothing here loads one.

The first of these that names any module decides: the module given by the caller, the ``module-path`` of the URI,
``TOKENAUTH_MODULE``; failing those, everything that p11-kit's module files offer and then the well-known paths.
"""
# pathlib is not used because importing it would cost more than a whole discovery.
# ruff: noqa: PTH100, PTH110, PTH111, PTH112, PTH113, PTH116, PTH117, PTH118, PTH119, PTH123, PTH208

from __future__ import annotations

import os
import sys
from collections import ChainMap
from typing import TYPE_CHECKING, NamedTuple

from tokenauth.errors import ModuleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "SYSTEMS",
    "Discovery",
    "ModuleCandidate",
    "System",
    "discover",
    "library_name",
    "parse_module_file",
    "survey",
]

#: The name by which ``enable-in`` and ``disable-in`` of a p11-kit module file mean this program.
PROGRAM = "tokenauth"

#: Libraries without keys of their own, never chosen unless named: certificate stores, and p11-kit's proxy (which is
#: libp11-kit itself), through which every token would appear a second time.
KEYLESS = frozenset({"p11-kit-trust", "p11-kit-proxy", "p11-kit", "nssckbi"})

_LIBRARY_SUFFIXES = (".so", ".dylib", ".dll")
_WHITESPACE = " \t\n\v\f\r"  # what C's isspace() takes, so that odd bytes are read as p11-kit reads them
_MAX_FILE_SIZE = 1 << 20
_HINT = "give the full path of the module's library file; 'tokenauth doctor' lists the modules it finds"


class ModuleCandidate(NamedTuple):
    """A library file that should be a PKCS#11 module.

    Attributes:
        path: absolute path of the file, as it was named (symbolic links are not resolved).
        origin: who named it, in words for people: ``--module``, ``p11-kit: softhsm2.module``, ...
        name: its RFC 7512 ``module-name``, see :func:`library_name`.
    """

    path: str
    origin: str
    name: str


class Discovery(NamedTuple):
    """What :func:`survey` found.

    Attributes:
        candidates: the modules to use, best first, each file once.
        problems: one sentence for each p11-kit file or module that could not be used.
    """

    candidates: list[ModuleCandidate]
    problems: list[str]


class System(NamedTuple):
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


def discover(
    explicit: str | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    module_name: str | None = None,
    module_path: str | None = None,
) -> list[ModuleCandidate]:
    """List the modules to use, best first; log a warning for each problem on the way.

    Arguments, result and errors are those of :func:`survey`.
    """
    found = survey(explicit, environ=environ, module_name=module_name, module_path=module_path)
    if found.problems:
        import logging

        for problem in found.problems:
            logging.getLogger(PROGRAM).warning("%s", problem)
    return found.candidates


def survey(
    explicit: str | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    module_name: str | None = None,
    module_path: str | None = None,
    system: System | None = None,
) -> Discovery:
    """Find the modules to use, and what is wrong with the places that name them.

    Args:
        explicit: the module the caller asks for; it alone is used and the two attributes of the URI are not looked at.
            A name without a directory (``libsofthsm2.so``, ``softhsm2``) is looked for where modules usually are.
        environ: ``TOKENAUTH_MODULE`` (paths separated by ``os.pathsep``), and what p11-kit reads:
            ``P11_KIT_NO_USER_CONFIG``, ``XDG_CONFIG_HOME``, ``HOME``.
        module_name: the attribute of the URI (RFC 7512, section 2.3): of the modules found, those with this name or
            else those whose name begins with it, in any case; failing that, a library of that name.
        module_path: the attribute of the URI: an absolute path of a module, or of a directory that has ``module_name``.
        system: where to look; this operating system's entry in :data:`SYSTEMS` if not given.

    Returns:
        The candidates, none if there are none, and the problems.

    Raises:
        ModuleError: ``explicit``, ``module_path`` or an entry of ``TOKENAUTH_MODULE`` names no file.
    """
    system = _expand(system or SYSTEMS.get(sys.platform, SYSTEMS["linux"]), environ)
    if explicit is not None:
        return Discovery([_given(explicit, "--module", system, environ)], [])
    if module_path is not None:
        return Discovery([_from_uri(module_path, module_name)], [])
    listed = [entry for entry in environ.get("TOKENAUTH_MODULE", "").split(os.pathsep) if entry]
    if listed:
        candidates = [_given(entry, "TOKENAUTH_MODULE", system, environ) for entry in listed]
        return Discovery(_unique(_named(candidates, module_name)), [])
    problems: list[str] = []
    candidates = _named(_automatic(system, environ, problems), module_name)
    if module_name and not candidates and (path := _search(library_name(module_name), system)):
        candidates = [_candidate(path, "module-name")]
    return Discovery(_unique(candidates), problems)


def library_name(path: str) -> str:
    """Give a library file's name without directory, ``lib`` prefix, suffix and version.

    That is its ``module-name`` in RFC 7512, section 2.3: ``/usr/lib/softhsm/libsofthsm2.so`` is ``softhsm2``.
    """
    parts = os.path.basename(path).split(".")
    while len(parts) > 1 and (parts[-1].isdigit() or f".{parts[-1].lower()}" in _LIBRARY_SUFFIXES):
        parts.pop()
    return ".".join(parts).removeprefix("lib")


def _candidate(path: str, origin: str) -> ModuleCandidate:
    return ModuleCandidate(path, origin, library_name(path))


def _expand(system: System, environ: Mapping[str, str]) -> System:
    """Make plain paths of a system's templates."""
    # Every CPython for Linux knows its triplet; elsewhere no directory is named after one.
    multiarch = getattr(sys.implementation, "_multiarch", "")
    programs = environ.get("ProgramFiles", r"C:\Program Files")

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


def _expand_home(path: str, environ: Mapping[str, str]) -> str:
    if path != "~" and not path.startswith(("~/", "~" + os.sep)):
        return path
    return (environ.get("HOME") or os.path.expanduser("~")) + path[1:]


def _checked(path: str, origin: str) -> ModuleCandidate:
    """Make a candidate of a path that somebody named, or say why it cannot be one."""
    try:
        os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ModuleError(f"{origin} names the module {path!r}: {reason}", hint=_HINT) from error
    if not os.path.isfile(path):
        kind = "a directory" if os.path.isdir(path) else "not a regular file"
        raise ModuleError(f"{origin} names the module {path!r}, which is {kind}", hint=_HINT)
    return _candidate(path, origin)


def _given(name: str, origin: str, system: System, environ: Mapping[str, str]) -> ModuleCandidate:
    """Find a module that a person named by path, or by file name alone.

    A file name alone is never looked for in the current directory: a library that happens to lie there would be run.
    """
    if os.path.basename(name) != name:
        return _checked(os.path.abspath(_expand_home(name, environ)), origin)
    path = _search(name, system)
    if path is None:
        raise ModuleError(f"{origin} names the module {name!r}, which is in no usual directory", hint=_HINT)
    return _candidate(path, origin)


def _from_uri(path: str, module_name: str | None) -> ModuleCandidate:
    """Find the module of a URI's ``module-path``, which RFC 7512 wants absolute and allows to be a directory."""
    if not os.path.isabs(path):
        raise ModuleError(f"module-path names the module {path!r}, which is not an absolute path", hint=_HINT)
    if module_name and (found := _search_in([path], library_name(module_name))):
        path = found
    return _checked(path, "module-path")


def _search(name: str, system: System) -> str | None:
    """Find a library by file name or ``module-name`` in every directory where modules usually are."""
    directories = dict.fromkeys([*system.module_directories, *system.libraries, *map(os.path.dirname, system.known)])
    return _search_in(directories, name)


def _search_in(directories: Iterable[str], name: str) -> str | None:
    spellings = (name, *(prefix + name + suffix for suffix in _LIBRARY_SUFFIXES for prefix in ("lib", "")))
    paths = (os.path.join(directory, spelling) for spelling in spellings for directory in directories)
    return next(filter(os.path.isfile, paths), None)


def _named(candidates: list[ModuleCandidate], module_name: str | None) -> list[ModuleCandidate]:
    if not module_name:
        return candidates
    wanted = library_name(module_name).casefold()
    exact = [candidate for candidate in candidates if candidate.name.casefold() == wanted]
    return exact or [candidate for candidate in candidates if candidate.name.casefold().startswith(wanted)]


def _unique(candidates: list[ModuleCandidate]) -> list[ModuleCandidate]:
    by_file: dict[str, ModuleCandidate] = {}
    for candidate in candidates:
        by_file.setdefault(os.path.realpath(candidate.path), candidate)
    return list(by_file.values())


def _automatic(system: System, environ: Mapping[str, str], problems: list[str]) -> list[ModuleCandidate]:
    """List what p11-kit offers, then the well-known modules that no file of p11-kit's decides about."""
    candidates, decided = _from_p11_kit(system, environ, problems)
    for path in system.known:
        name = library_name(path)
        if name not in decided and os.path.isfile(path):
            decided.add(name)
            candidates.append(_candidate(path, "known path"))
    return [
        candidate
        for candidate in candidates
        if KEYLESS.isdisjoint((candidate.name, library_name(os.path.realpath(candidate.path))))
    ]


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


def _from_p11_kit(
    system: System, environ: Mapping[str, str], problems: list[str]
) -> tuple[list[ModuleCandidate], set[str]]:
    """List the modules of p11-kit's files, highest priority first.

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
            candidates.append(_candidate(path, f"p11-kit: {file}"))
        decided.update(library_name(layer["module"]) for layer in settings.maps if layer.get("module"))
    return candidates, decided


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
    user = _expand_home(system.user_directory, environ)
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
