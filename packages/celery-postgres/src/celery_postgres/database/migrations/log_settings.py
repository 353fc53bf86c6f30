"""Whether PostgreSQL writes statements into its log, and with them payloads: the driver writes parameters into them."""

from __future__ import annotations

from typing import Any

#: For people: what `check` reports.
LOGGED = (
    "PostgreSQL's log gets payloads and results of this database ({}): `python -m celery_postgres roles --run` as a "
    "superuser ends what log_min_error_statement and log_error_verbosity log; turn off the others, or let "
    "only those read the log who may read the tables"
)
_SETTINGS = """
    SELECT setting.name || ' = ' || setting.setting
    FROM unnest(%s, %s) WITH ORDINALITY AS quiet (name, allowed, number)
    JOIN pg_settings AS setting ON setting.name = quiet.name
    WHERE setting.setting <> ALL (string_to_array(quiet.allowed, ' '))
    ORDER BY quiet.number
"""
_QUIET = {
    "log_min_error_statement": "log fatal panic",
    "log_error_verbosity": "terse",
    "log_statement": "none ddl",
    "log_min_duration_statement": "-1",
}


def logged(cursor: Any) -> list[str]:
    """The settings of this session by which a statement gets into the log, each with its value."""
    cursor.execute(_SETTINGS, (list(_QUIET), list(_QUIET.values())))
    return [found for (found,) in cursor.fetchall()]
