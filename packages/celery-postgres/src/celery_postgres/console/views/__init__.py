"""The views of the console, in the order of the navigation."""

from __future__ import annotations

from celery_postgres.console.action import OPERATORS
from celery_postgres.console.looking import ACTORS, EVERYONE, STAFF, Look, View
from celery_postgres.console.views.actions import actions
from celery_postgres.console.views.dead import dead
from celery_postgres.console.views.finding import find
from celery_postgres.console.views.limits import limit, limits
from celery_postgres.console.views.overview import overview
from celery_postgres.console.views.planning import plan
from celery_postgres.console.views.queues import queue, queues
from celery_postgres.console.views.task import task
from celery_postgres.console.views.tasks import tasks
from celery_postgres.console.views.workers import workers

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
    View("actions", None, "", STAFF, actions, ""),
    View("act", None, "", ACTORS, plan, "", live=False),
    View("find", None, "", EVERYONE, find, "", live=False),
)


def marks(look: Look) -> dict[str, dict[str, str]]:
    """What the navigation says beside the names of views, from the overview that is read once a second."""
    now = look.source.model.overview()
    troubled = len({problem.subject for problem in now.problems if problem.view == "queue" and problem.subject})
    lost = sum(worker.lost for worker in now.workers)
    found = {}
    if troubled:
        found["queues"] = {"count": str(troubled), "tone": "bad", "meaning": "need attention"}
    if now.dead.count:
        tone = "bad" if now.dead.recent else ""
        found["dead"] = {"count": str(now.dead.count), "tone": tone, "meaning": "in all"}
    if lost:
        found["workers"] = {"count": str(lost), "tone": "bad", "meaning": "lost"}
    return found


__all__ = ["VIEWS", "marks"]
