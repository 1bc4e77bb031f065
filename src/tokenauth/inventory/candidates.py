"""The modules to look at: what discovery finds, and what the user's own table allows."""
# pathlib is not used because importing it would cost more than a whole discovery.
# ruff: noqa: PTH110, PTH118

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from tokenauth.pkcs11.discovery import SYSTEMS, Discovery, ModuleCandidate, library_name, survey
from tokenauth.pkcs11.known_modules import expand

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["find_modules"]

_ORIGIN = "your modules.toml"


def find_modules(
    named: str | None = None, *, module_name: str | None = None, environ: Mapping[str, str] = os.environ
) -> Discovery:
    """Find the modules to look at; with those that the user's ``modules.toml`` marks as ``automatic``, at the end.

    Args:
        named: the only module to look at.
        module_name: the attribute of the URI (RFC 7512 section 2.3).
        environ: see :func:`tokenauth.pkcs11.discovery.survey`.

    Raises:
        ModuleError: a module that was asked for is not there.
    """
    found = survey(named, environ=environ, module_name=module_name)
    if named or module_name or environ.get("TOKENAUTH_MODULE"):
        return found
    from tokenauth.cards.places import user_directory

    directory = user_directory(environ)
    if not directory or not os.path.exists(os.path.join(directory, "modules.toml")):
        return found
    files = {os.path.realpath(candidate.path) for candidate in found.candidates}
    more = [own for own in _users_own(directory, environ) if os.path.realpath(own.path) not in files]
    return found._replace(candidates=[*found.candidates, *more])


def _users_own(directory: str, environ: Mapping[str, str]) -> Iterator[ModuleCandidate]:
    """The first file that exists of each row; what is wrong with a row, doctor tells."""
    from tokenauth.cards.files import MODULES, user_rows
    from tokenauth.cards.table import paths_of

    libraries = expand(SYSTEMS.get(sys.platform, SYSTEMS["linux"]), environ).libraries or ("",)
    for row in user_rows(MODULES, directory, []):
        path = next(filter(os.path.isfile, paths_of(row, libraries=libraries, environ=environ)), None)
        if row.automatic and path is not None:
            yield ModuleCandidate(path, _ORIGIN, library_name(path))
