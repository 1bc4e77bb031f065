"""Named tuples that cost next to nothing to define.

``typing.NamedTuple`` compiles code for each class, about 0.1 ms; this package has some forty of them, and that would be
a fifth of what it may add to the start of a short script. ``Record`` is used exactly like it, and to type checkers it
is it. What it makes are tuples: frozen, comparable, hashable, to be unpacked.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import NamedTuple as Record
else:

    class Record(tuple):
        """The base of a named tuple: ``class Point(Record): x: int; y: int = 0``."""

        __slots__ = ()

        def __init_subclass__(cls) -> None:
            cls._fields = cls.__match_args__ = tuple(cls.__annotations__)
            cls._field_defaults = {name: cls.__dict__[name] for name in cls._fields if name in cls.__dict__}
            for position, name in enumerate(cls._fields):
                setattr(cls, name, property(itemgetter(position)))

        def __new__(cls, *values: Any, **named: Any) -> Record:
            if named or len(values) != len(cls._fields):
                values = cls._in_order(values, named)
            return tuple.__new__(cls, values)

        @classmethod
        def _in_order(cls, values: tuple[Any, ...], named: dict[str, Any]) -> list[Any]:
            given = dict(zip(cls._fields, values, strict=False))
            wrong = [name for name in named if name not in cls._fields or name in given]
            found = {**cls._field_defaults, **given, **named}
            missing = [name for name in cls._fields if name not in found]
            if len(values) > len(cls._fields) or wrong or missing:
                raise TypeError(f"{cls.__name__}() takes {', '.join(cls._fields)}; wrong: {wrong}, missing: {missing}")
            return [found[name] for name in cls._fields]

        def __getnewargs__(self) -> tuple[Any, ...]:
            return tuple(self)

        def __repr__(self) -> str:
            shown = ", ".join(f"{name}={value!r}" for name, value in zip(self._fields, self, strict=True))
            return f"{type(self).__name__}({shown})"

        def _asdict(self) -> dict[str, Any]:
            return dict(zip(self._fields, self, strict=True))

        def _replace(self, **changes: Any) -> Record:
            return type(self)(**{**self._asdict(), **changes})


__all__ = ["Record"]
