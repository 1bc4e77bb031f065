"""The files of the two tables: ours in the package, and the user's.

A user's ``modules.toml`` and ``cards.toml`` stand in the user's directory of this program, see :func:`user_directory`.
What is wrong in them is a problem that is told; it hides no other row.
"""
# pathlib is not used because the rest of the look-up of modules does without it, for the start of a short script.
# ruff: noqa: PTH110, PTH113, PTH118, PTH123

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any

from tokenauth._records import Record
from tokenauth.cards.places import user_directory
from tokenauth.cards.rows import CARD_FIELDS, MODULE_FIELDS, Card, Field, Module, RowError, read_row

__all__ = ["CARDS", "MODULES", "TableFile", "built_in", "read_rows", "user_directory", "user_rows"]

_MAX_FILE_SIZE = 1 << 20  # bytes


class TableFile(Record):
    """One of the two files.

    Attributes:
        name: of the file.
        row: what each row stands under, in double brackets.
        key: the field that names a row.
        fields: what a row may say.
        make: makes a row of its values.
    """

    name: str
    row: str
    key: str
    fields: dict[str, Field]
    make: Callable[..., Any]


MODULES = TableFile("modules.toml", "module", "id", MODULE_FIELDS, Module)
CARDS = TableFile("cards.toml", "card", "kind", CARD_FIELDS, Card)
_FILES = {file.name: file for file in (MODULES, CARDS)}


def built_in(file: TableFile) -> tuple[Any, ...]:
    """Our own rows.

    Raises:
        RowError: one of them is wrong, which is a mistake of ours.
    """
    return _built_in(file.name)


@cache
def _built_in(name: str) -> tuple[Any, ...]:
    import importlib.resources

    problems: list[str] = []
    data = importlib.resources.files(__package__).joinpath(name).read_bytes()
    rows = read_rows(_FILES[name], data, name, problems)
    if problems:
        raise RowError(problems[0])
    return tuple(rows)


def user_rows(file: TableFile, directory: str, problems: list[str]) -> list[Any]:
    """The user's rows that can be used.

    Args:
        file: which table.
        directory: as :func:`user_directory` gives it.
        problems: gets one sentence for each thing that can not be used.
    """
    path = os.path.join(directory, file.name)
    if not directory or not os.path.lexists(path):
        return []
    try:
        return read_rows(file, _read(path), path, problems)
    except OSError as error:
        problems.append(f"{path} can not be used: {error.strerror}")
    except ValueError as error:
        problems.append(f"{path} can not be used: {error}")
    return []


def _read(path: str) -> bytes:
    if os.path.exists(path) and not os.path.isfile(path):  # opening a FIFO would hang
        raise ValueError("it is not a regular file")
    with open(path, "rb") as stream:
        data = stream.read(_MAX_FILE_SIZE + 1)
    if len(data) > _MAX_FILE_SIZE:
        raise ValueError(f"it is larger than {_MAX_FILE_SIZE} bytes")
    return data


def read_rows(file: TableFile, data: bytes, path: str, problems: list[str]) -> list[Any]:
    """Read a file of rows.

    Args:
        file: which table.
        data: the file's content.
        path: its name, for the problems.
        problems: gets one sentence for the file if it is not TOML, else for each row that can not be used.

    Returns:
        The rows that can be used.
    """
    import tomllib

    try:
        content = tomllib.loads(data.decode())
    except RecursionError:
        problems.append(f"{path} can not be used: it is nested too deeply")
        return []
    except ValueError as error:  # so are UnicodeDecodeError and TOMLDecodeError
        problems.append(f"{path} can not be used: {error}")
        return []
    problems += [
        f"{path}: {name!r} is not known; rows stand under [[{file.row}]]" for name in content if name != file.row
    ]
    listed = content.get(file.row, [])
    if not isinstance(listed, list):
        problems.append(f"{path}: rows stand under [[{file.row}]], in double brackets")
        return []
    found: dict[str, Any] = {}
    for number, given in enumerate(listed, 1):
        try:
            row = file.make(**read_row(given, file.fields))
        except RowError as error:
            problems.append(f"{path}: {_called(file, number, given)}: {error}")
            continue
        if found.setdefault(getattr(row, file.key), row) is not row:
            problems.append(f"{path}: {_called(file, number, given)}: field {file.key!r} is that of an earlier row")
    return list(found.values())


def _called(file: TableFile, number: int, given: object) -> str:
    name = given.get(file.key) if isinstance(given, dict) else None
    return f"{file.row} {number} ({name})" if isinstance(name, str) and name.isprintable() else f"{file.row} {number}"
