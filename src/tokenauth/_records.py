"""Named tuples that cost next to nothing to define.

``typing.NamedTuple`` compiles code for each class, about 0.1 ms; this package has some forty of them, and that would be
a fifth of what it may add to the start of a short script. ``Record`` is used exactly like it, and to type checkers it
is it. What it makes are tuples: frozen, comparable, hashable, to be unpacked.
"""

from __future__ import annotations

from functools import cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import NamedTuple as Record
else:

    @cache
    def _field(position: int) -> property:
        """What reads a field; one serves all classes, in the same position."""
        return property(itemgetter(position))

    class Record(tuple):
        """The base of a named tuple: ``class Point(Record): x: int; y: int = 0``."""

        __slots__ = ()

        def __init_subclass__(cls) -> None:
            cls._fields = cls.__match_args__ = tuple(cls.__annotations__)
            cls._field_defaults = {name: cls.__dict__[name] for name in cls._fields if name in cls.__dict__}
            for position, name in enumerate(cls._fields):
                setattr(cls, name, _field(position))

        def __new__(cls, *values: Any, **named: Any) -> Record:
            if named or len(values) != len(cls._fields):
                values = cls._in_order(values, named)
            return tuple.__new__(cls, values)

        @classmethod
        def _in_order(cls, values: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
            names = cls._fields[len(values) :]
            found = {**cls._field_defaults, **named}
            try:
                rest = tuple([found[name] for name in names])
            except KeyError as error:
                raise TypeError(f"{cls.__name__}() takes {', '.join(cls._fields)}; missing: {error}") from None
            if len(values) > len(cls._fields) or not named.keys() <= set(names):
                raise TypeError(
                    f"{cls.__name__}() takes {', '.join(cls._fields)}, not {len(values)} values and {[*named]}"
                )
            return values + rest

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
