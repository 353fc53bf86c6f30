"""The tasks in whose results Celery's chains, groups and chords end."""

from __future__ import annotations

from typing import Any

from celery import canvas
from celery.app.task import Context
from celery.canvas import _chain, group, maybe_signature
from celery.utils.functional import maybe_list

_chord: Any = canvas._chord  # type: ignore[attr-defined]


def is_compound(signature: Any) -> bool:
    """Whether it is a chain or a chord."""
    return isinstance(signature, (_chain, _chord))


def last_of(signature: Any) -> Any:
    """The task, or the group, whose result is that of a chain or a chord; it gets the errbacks of what contains it."""
    while is_compound(signature):
        inner = signature.tasks[-1] if isinstance(signature, _chain) else signature.body
        last: Any = maybe_signature(inner, app=signature.app)
        last = last.clone()
        own = errbacks_of(last)
        last.options["link_error"] = [*own, *without(errbacks_of(signature), own)]
        signature = last
    return signature


def contexts_of(signature: Any) -> list[Any]:
    """Placeholder request contexts for the tasks of `last_of(signature)`, which will never be sent."""
    tasks = signature.tasks if isinstance(signature, group) else [signature]
    options = [last_of(maybe_signature(task, app=signature.app)).options for task in tasks]
    return [
        Context({**one, "id": one["task_id"], "group": one.get("group_id")}) for one in options if one.get("task_id")
    ]


def errbacks_of(signature: Any) -> list[Any]:
    """The errbacks that are linked to the signature itself."""
    return list(maybe_list(signature.options.get("link_error")) or [])


def without(errbacks: list[Any], others: list[Any]) -> list[Any]:
    """Those of `errbacks` that are not among `others`."""
    return [one for one in errbacks if one not in others]
