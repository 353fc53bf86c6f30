"""What an exception may say in public."""

from __future__ import annotations


class LoggableError(Exception):
    """Base of the exceptions whose text may stand in a log line and on a health page.

    The promise of each subclass: the text names fields, rules, limits and places, and never quotes a value, a
    payload, a password or what somebody else's exception said. The text of every other exception is withheld
    there (`app.observability.faults`).
    """
