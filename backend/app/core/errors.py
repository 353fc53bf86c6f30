"""Which exception texts may be shown in public."""

from __future__ import annotations


class LoggableError(Exception):
    """Base of the exceptions whose text may appear in a log line and on a health page.

    Each subclass promises that its text names fields, rules, limits and places, and never quotes a value, a payload, a
    password or the text of another exception. The text of every other exception is withheld there
    (`app.observability.faults`).
    """
