"""Everything that PostgreSQL would dump of the package's tables, to compare databases of different histories."""

from __future__ import annotations

from typing import Any

from environment.testkit.databases import rows

#: By part, the query. The order of columns is that of a table's history, and no part of it. Nor is `stamps`, a column
#: that Celery 5.7 creates and nothing here reads: adoption keeps it.
_PARTS = {
    "columns": """
        SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity::text,
               pg_get_expr(d.adbin, d.adrelid), a.attstorage::text, a.attcompression::text
        FROM pg_class AS c
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
        WHERE c.relnamespace = CAST(:schema AS regnamespace) AND c.relkind = 'r' AND c.relname ~ '^(kombu|celery)_'
          AND a.attname <> 'stamps'
        ORDER BY 1, 2
    """,
    "constraints": """
        SELECT c.relname, k.conname, pg_get_constraintdef(k.oid), k.convalidated
        FROM pg_class AS c JOIN pg_constraint AS k ON k.conrelid = c.oid
        WHERE c.relnamespace = CAST(:schema AS regnamespace) AND c.relname ~ '^(kombu|celery)_' AND k.contype <> 'n'
        ORDER BY 1, 2
    """,
    "indexes": """
        SELECT c.relname, pg_get_indexdef(i.indexrelid), i.indisvalid
        FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
        WHERE c.relnamespace = CAST(:schema AS regnamespace) AND c.relname ~ '^(ix_)?(kombu|celery)_'
        ORDER BY 1
    """,
    "storage": """
        SELECT relname, relkind::text, relpersistence::text, reloptions FROM pg_class
        WHERE relnamespace = CAST(:schema AS regnamespace) AND relname ~ '^(kombu|celery)_|_id_sequence$'
          AND relkind IN ('r', 'S')
        ORDER BY 1
    """,
    "triggers": """
        SELECT c.relname, t.tgname, pg_get_triggerdef(t.oid), t.tgenabled::text
        FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
        WHERE c.relnamespace = CAST(:schema AS regnamespace) AND c.relname ~ '^(kombu|celery)_' AND NOT t.tgisinternal
        ORDER BY 1, 2
    """,
    "functions": """
        SELECT oid::regprocedure::text, prosrc, prosecdef, proconfig, proacl::text FROM pg_proc
        WHERE pronamespace = CAST(:schema AS regnamespace) AND proname ~ '^(kombu|celery)_' ORDER BY 1
    """,
}


def catalogue(url: str, schema: str = "public") -> dict[str, list[tuple[Any, ...]]]:
    """The parts by name."""
    return {part: rows(url, query, schema=schema) for part, query in _PARTS.items()}


def difference(one: dict[str, list[tuple[Any, ...]]], other: dict[str, list[tuple[Any, ...]]]) -> list[tuple[Any, ...]]:
    """The entries that only one of them has: nothing, or what an assertion should show."""
    return [
        (part, "first" if entry in one[part] else "second", *entry)
        for part in one
        for entry in [*one[part], *other[part]]
        if (entry in one[part]) != (entry in other[part])
    ]
