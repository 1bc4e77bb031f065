"""Which PKCS#11 modules this machine has. Nothing here loads one.

The first of these that names any module decides: the module given by the caller, the ``module-path`` of the URI,
``TOKENAUTH_MODULE``; failing those, everything that p11-kit's module files offer and then the well-known paths.
"""
# pathlib is not used because importing it would cost more than a whole discovery.
# ruff: noqa: PTH100, PTH112, PTH113, PTH116, PTH117, PTH118, PTH119

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping

from tokenauth._records import Record
from tokenauth.errors import ModuleError
from tokenauth.pkcs11.known_modules import (
    LIBRARY_SUFFIXES,
    SYSTEMS,
    ModuleCandidate,
    System,
    expand,
    expand_home,
    library_name,
)
from tokenauth.pkcs11.p11kit import configured_modules, parse_module_file

__all__ = [
    "SYSTEMS",
    "Discovery",
    "ModuleCandidate",
    "System",
    "discover",
    "find_library",
    "library_name",
    "parse_module_file",
    "survey",
]

#: Libraries without keys of their own, never chosen unless named: certificate stores, and p11-kit's proxy (which is
#: libp11-kit itself), through which every token would appear a second time.
KEYLESS = frozenset({"p11-kit-trust", "p11-kit-proxy", "p11-kit", "nssckbi"})

_HINT = "give the full path of the module's library file; 'tokenauth doctor' lists the modules it finds"


class Discovery(Record):
    """What :func:`survey` found.

    Attributes:
        candidates: the modules to use, best first, each file once.
        problems: one sentence for each p11-kit file or module that could not be used.
    """

    candidates: list[ModuleCandidate]
    problems: list[str]


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
            logging.getLogger("tokenauth").warning("%s", problem)
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
    system = expand(system or SYSTEMS.get(sys.platform, SYSTEMS["linux"]), environ)
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


def find_library(name: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """The path of a library in one of the directories where modules usually are; None if it is in none.

    Args:
        name: of the file, or without ``lib`` and suffix.
        environ: ``ProgramFiles``.
    """
    return _search(name, expand(SYSTEMS.get(sys.platform, SYSTEMS["linux"]), environ))


def _candidate(path: str, origin: str) -> ModuleCandidate:
    return ModuleCandidate(path, origin, library_name(path))


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
        return _checked(os.path.abspath(expand_home(name, environ)), origin)
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
    spellings = (name, *(prefix + name + suffix for suffix in LIBRARY_SUFFIXES for prefix in ("lib", "")))
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
    candidates, decided = configured_modules(system, environ, problems)
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
