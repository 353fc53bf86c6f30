"""Find: a task by the beginning of its id, a queue by its name, else tasks by a part of their name."""

from __future__ import annotations

from celery_postgres.console.looking import STAFF, Elsewhere, Look
from celery_postgres.console.views.tasks import ID, only_task


def find(look: Look) -> Elsewhere:
    """The view that shows what was typed."""
    text = look.asked("q")
    if ID.fullmatch(text) and (task_id := only_task(look, text)) is not None:
        return Elsewhere(look.link("task", id=task_id))
    if look.viewer.role in STAFF and text and look.source.model.has_queue(text):
        return Elsewhere(look.link("queue", name=text))
    if look.viewer.role in STAFF and text:
        for one in look.source.model.workers():
            if one.name == text:
                return Elsewhere(look.link("tasks", state="running", worker=str(one.id)))
    if text and look.owns(text) and look.source.model.task(text) is not None:  # an id that a program made up
        return Elsewhere(look.link("task", id=text))
    return Elsewhere(look.link("tasks", q=text))
