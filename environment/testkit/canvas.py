"""Waiting for tasks, chords and their rows."""

from __future__ import annotations

from typing import Any

from environment.testkit.databases import rows
from environment.testkit.probe import DEADLINE_S, Probe
from environment.testkit.tables import rows_of, scalar
from environment.waiting import wait_until


def answer(result: Any, **options: Any) -> Any:
    return result.get(timeout=DEADLINE_S, **options)


def drained(probe: Probe, queue: str = "celery") -> None:
    """Wait until a queue is empty."""
    wait_until(lambda: rows_of(probe.url, queue) == 0, DEADLINE_S, f"{queue} to be empty")


def stored(url: str, task_id: str) -> str | None:
    """Return the state in a task's row, or None without a row."""
    found = rows(url, "SELECT status FROM celery_taskmeta WHERE task_id = :t", t=task_id)
    return found[0][0] if found else None


def ended(url: str, *task_ids: str) -> None:
    """Wait until each task has a final state, read from the table and not through the backend."""
    statement = "SELECT count(*) FROM celery_taskmeta WHERE task_id = ANY(:ids)"
    statement += " AND status IN ('SUCCESS', 'FAILURE', 'REVOKED')"
    wait_until(lambda: scalar(url, statement, ids=list(task_ids)) == len(task_ids), DEADLINE_S, "the tasks to end")


def count(url: str, table: str) -> int:
    return int(scalar(url, f"SELECT count(*) FROM {table}"))  # noqa: S608  # our own words


def chords_gone(url: str) -> None:
    """Wait until every chord has ended and its rows are gone.

    One row may stay: Celery 5.7 announces the size of a group at the end of a chain in a header, whose parts count for
    the chord around it.  Such a row has no part and no body, and expires with the results of its day.
    """
    under_way = "SELECT count(*) FROM celery_chord WHERE done > 0 OR body IS NOT NULL"
    wait_until(lambda: scalar(url, under_way) + count(url, "celery_chord_part") == 0, DEADLINE_S, "the chords to end")
