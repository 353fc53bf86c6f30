"""Errors of the console."""

from __future__ import annotations


class ConsoleError(ValueError):
    """The console cannot be started like this. The message says what to do and quotes no secret."""
