"""What a signature must look like that follows a task: a callback, an errback, the rest of a chain, a chord's body."""

from __future__ import annotations

import sys
from typing import Any

from celery_postgres.consumer.field_rules import (
    FlawError,
    Rule,
    are_texts,
    check_fields,
    is_count,
    is_list,
    is_mapping,
    is_text,
)

#: Larger numbers do not fit into a column of 4 bytes.
MAX_RETRIES = 2**31 - 1
#: What a task is followed by, and whether it is a list.
EMBEDDED = {"callbacks": True, "errbacks": True, "chain": True, "chord": False}


def check_embedded(embedded: dict[str, Any]) -> None:
    left: list[Any] = []
    for name, several in EMBEDDED.items():
        value = embedded.get(name)
        if value is None:
            continue
        if several and not isinstance(value, (list, tuple)):
            raise FlawError(f"its {name} are not a list")
        left += value if several else [value]
    while left:
        left += _signatures_in(left.pop())


#: A signature's parts. Celery's own always has them.
_SIGNATURE: dict[str, Rule] = {
    "task": (is_text, "text"),
    "args": (is_list, "a list"),
    "kwargs": (is_mapping, "an object"),
    "options": (is_mapping, "an object"),
}
_OPTIONS: dict[str, Rule] = {
    **dict.fromkeys(("task_id", "group_id", "root_id", "parent_id", "reply_to"), (is_text, "text")),
    "headers": (is_mapping, "an object"),
    "stamped_headers": (are_texts, "a list of names"),
    "group_index": (is_count(MAX_RETRIES), "a position"),
}


def _signatures_in(signature: Any) -> list[Any]:
    """The signatures in a signature.

    Raises:
        FlawError: it is not one.
    """
    if not isinstance(signature, dict) or any(signature.get(name) is None for name in _SIGNATURE):
        raise FlawError("what follows it is not a signature")
    check_fields(signature, _SIGNATURE, "what follows it is not a signature:")
    kwargs, options, kind = signature["kwargs"], signature["options"], signature.get("subtask_type")
    if kind and (not isinstance(kind, str) or kind not in sys.modules["celery.canvas"].Signature.TYPES):
        raise FlawError("what follows it is a signature of a kind that is not known")
    check_fields(options, _OPTIONS, "what follows it is not a signature:")
    found: list[Any] = []
    for value in (options.get("link"), options.get("link_error"), options.get("chord")):
        found += value if isinstance(value, (list, tuple)) else [value] if value is not None else []
    return found + (_members_of(kind, kwargs) if kind else [])


def _members_of(kind: str, kwargs: dict[str, Any]) -> list[Any]:
    """The signatures that a signature of this kind combines."""
    if kind in ("chain", "group"):
        if not isinstance(kwargs.get("tasks"), (list, tuple)):
            raise FlawError(f"what follows it is a {kind} without a list of tasks")
        return list(kwargs["tasks"])
    if kind == "chord":
        header = kwargs.get("header")
        return [*(header if isinstance(header, (list, tuple)) else [header]), kwargs.get("body")]
    if kind in ("xmap", "xstarmap", "chunks"):
        if not isinstance(kwargs.get("it"), (list, tuple)):
            raise FlawError(f"what follows it is a {kind} of nothing")
        return [kwargs.get("task")]
    return []
