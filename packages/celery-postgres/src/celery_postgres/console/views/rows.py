"""Rows that several views show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from celery_postgres.console.formatting import duration
from celery_postgres.readmodel import Problem, Queue, State, TaskRow, Worker

#: Rows of one page of a list.
PAGE = 50
#: The first page of a list is there at once. If few tasks meet the conditions it says how far it has searched, and the
#: next pages search for up to a second.
FIRST_SEARCH_S = 0.04

_SAYS = (
    ("expired", "Expired before it ran"),
    ("rejected", "Rejected by its consumer"),
    ("stopped: ", "Blocked by an operator"),
    ("failed ", "Killed its worker, or failed outside the task"),
    ("the payload is not ", "Cannot be read"),
    ("the message cannot be decoded", "Cannot be decoded"),
    ("unpacked it is larger", "Too large"),
    ("its body has more than", "Too many members"),
)


#: The reason of a letter whose task some worker did not know.
UNREGISTERED = "Rejected: the worker knows no task of this name"


def reason_says(reason: str, *, unregistered: bool = False) -> str:
    """The reason of a dead letter for people; the exact reason stays part of it.

    Args:
        unregistered: a worker did not know its task.
    """
    if unregistered and reason == "rejected":
        return UNREGISTERED
    for beginning, says in _SAYS:
        if reason.startswith(beginning):
            return says if reason == beginning else f"{says} ({reason})"
    return reason


def queue_rows(queues: Iterable[Queue], problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """Queues, each with whether a problem names it, and where it goes."""
    troubled = {problem.subject for problem in problems if problem.view == "queue"}
    names = [field.name for field in fields(Queue)]
    return [
        {name: getattr(queue, name) for name in names} | {"late": queue.name in troubled, "trend": _trend(queue)}
        for queue in queues
    ]


def _trend(queue: Queue) -> str:
    """Whether it grows or drains, as far as this process has looked."""
    if queue.growth_per_min is None or abs(queue.growth_per_min) < 1:
        return ""
    if queue.growth_per_min > 0:
        return f"grows by {queue.growth_per_min:,.0f} a minute"
    return f"drains, empty in {duration(queue.empty_in_s)}" if queue.empty_in_s else "drains"


def worker_row(worker: Worker) -> dict[str, Any]:
    """A worker process."""
    return {
        "id": str(worker.id),
        "name": worker.name or worker.hostname or f"consumer {worker.id}",
        "pid": worker.pid if worker.pid is not None else "gone",
        "lost": worker.lost,
        "queues": ", ".join(queue for queue in worker.queues if not queue.endswith(".pidbox")),
        "claimed": worker.claimed,
        "started_at": worker.started_at,
        "oldest_claim_at": worker.oldest_claim_at,
    }


def task_row(row: TaskRow) -> dict[str, Any]:
    """A task in a list."""
    sub, tone = "", ""
    if row.state is State.DEAD:
        sub, tone = reason_says(row.error or ""), "bad"
    elif row.error:
        sub, tone = row.error, "bad" if row.state in (State.FAILED, State.LOST) else "warn"
    elif row.state is State.RUNNING and row.worker:
        sub = f"on {row.worker}"
    return {
        "id": row.task_id,
        "name": row.name,
        "state": str(row.state),
        "queue": row.queue,
        "tenant": row.tenant_id,
        "at": row.changed_at,
        "due": row.due_at,
        "retries": row.failures,
        "waited": duration(row.waited_s),
        "ran": duration(row.ran_s),
        "worker": row.worker or "",
        "sub": sub,
        "tone": tone,
    }
