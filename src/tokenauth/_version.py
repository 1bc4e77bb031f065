"""The one place that knows the version."""

__version__ = "0.1.0"

#: A day before this version was made; a clock that is behind it is wrong.
MADE_AFTER = "2025-10-01"
