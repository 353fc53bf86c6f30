"""The contents of the broker's tables."""

from __future__ import annotations

from typing import Any

from environment.testkit.databases import rows, run

__all__ = ["backends", "dead_letters", "rows_of", "run", "scalar", "terminate"]


def scalar(url: str, statement: str, **parameters: Any) -> Any:
    """Return the first column of the only row."""
    ((value,),) = rows(url, statement, **parameters)
    return value


def rows_of(url: str, queue: str | None = None) -> int:
    """Return how many messages of a queue (or of all) are in the table, in any state."""
    statement = "SELECT count(*) FROM kombu_message AS m"
    if queue is not None:
        statement += " JOIN kombu_queue AS q ON q.id = m.queue_id WHERE q.name = :queue"
        return int(scalar(url, statement, queue=queue))
    return int(scalar(url, statement))


def dead_letters(url: str, mark: str = "") -> int:
    """Return how many dead letters contain a text in any column."""
    return int(
        scalar(url, "SELECT count(*) FROM kombu_dead_letter AS d WHERE position(:mark IN d::text) > 0", mark=mark)
    )


def backends(url: str, application_name: str) -> list[int]:
    """Return the backends of a program's connections."""
    return [
        pid
        for (pid,) in rows(
            url,
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = :name"
            " ORDER BY backend_start",
            name=application_name,
        )
    ]


def terminate(url: str, pid: int) -> None:
    """``pg_terminate_backend``; the role must be the same or a superuser."""
    rows(url, "SELECT pg_terminate_backend(:pid)", pid=pid)
