"""The views of the console, in the order of the navigation."""

from __future__ import annotations

from datetime import datetime

from celery_postgres.console.action import OPERATORS
from celery_postgres.console.looking import ACTORS, EVERYONE, STAFF, Look, View
from celery_postgres.console.views.actions import actions
from celery_postgres.console.views.dead import dead
from celery_postgres.console.views.finding import find
from celery_postgres.console.views.limits import limit, limits
from celery_postgres.console.views.overview import overview
from celery_postgres.console.views.planning import plan
from celery_postgres.console.views.queues import queue, queues
from celery_postgres.console.views.schedules import is_late, schedules
from celery_postgres.console.views.task import task
from celery_postgres.console.views.tasks import tasks
from celery_postgres.console.views.workers import workers
from celery_postgres.readmodel import Worker
from celery_postgres.readmodel.thresholds import LOST_WITHIN_S

VIEWS = (
    View("", "Overview", "o", STAFF, overview),
    View("queues", "Queues", "q", STAFF, queues),
    View("queue", None, "", STAFF, queue, "queues"),
    View("tasks", "Tasks", "t", EVERYONE, tasks),
    View("task", None, "", EVERYONE, task, "tasks"),
    View("dead", "Dead letters", "d", EVERYONE, dead),
    View("workers", "Workers", "w", STAFF, workers),
    View("limits", "Limits", "l", EVERYONE, limits),
    View("limit", None, "", OPERATORS, limit, "limits", live=False),
    View("schedules", "Schedules", "s", STAFF, schedules),
    View("actions", None, "", STAFF, actions, ""),
    View("act", None, "", ACTORS, plan, "", live=False),
    View("find", None, "", EVERYONE, find, "", live=False),
)


def marks(look: Look) -> dict[str, dict[str, str]]:
    """What the navigation says beside the names of views, from the overview that is read once a second."""
    now = look.source.model.overview()
    troubled = len({problem.subject for problem in now.problems if problem.view == "queue" and problem.subject})
    lost, late = sum(_needs_attention(one, now.read_at) for one in now.workers), sum(map(is_late, now.schedules))
    found = {}
    if troubled:
        found["queues"] = {"count": str(troubled), "tone": "bad", "meaning": "need attention"}
    if now.dead.count:
        tone = "bad" if now.dead.recent else ""
        found["dead"] = {"count": str(now.dead.count), "tone": tone, "meaning": "in all"}
    if lost:
        found["workers"] = {"count": str(lost), "tone": "bad", "meaning": "lost"}
    if late:
        found["schedules"] = {"count": str(late), "tone": "warn", "meaning": "late"}
    return found


def _needs_attention(worker: Worker, now: datetime) -> bool:
    """Whether a worker was lost, and not long ago."""
    return worker.lost and (worker.lost_at is None or (now - worker.lost_at).total_seconds() < LOST_WITHIN_S)


__all__ = ["VIEWS", "marks"]
