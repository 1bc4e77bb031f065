"""``functools.cached_property`` without its lock.

Up to Python 3.11 that lock is one for all instances. A process forked while another thread reads any certificate would
wait for it for ever. What is computed here may be computed twice by two threads, which does no harm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from functools import cached_property as lazy_property
else:

    class lazy_property:  # noqa: N801 - used as property is
        """A property that is computed when it is first read."""

        def __init__(self, compute: Any) -> None:
            self._compute = compute
            self.__doc__ = compute.__doc__

        def __set_name__(self, owner: type, name: str) -> None:
            self._name = name

        def __get__(self, instance: Any, owner: type | None = None) -> Any:
            if instance is None:
                return self
            value = instance.__dict__[self._name] = self._compute(instance)
            return value


__all__ = ["lazy_property"]
