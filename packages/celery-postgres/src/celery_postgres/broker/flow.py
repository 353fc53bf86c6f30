"""`Flow`: the key of a task's calls, and which of them are the same."""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

from kombu.utils import json as kombu_json

from celery_postgres.broker.firsts import finding_first
from celery_postgres.compat.upstream import task_of
from celery_postgres.database.keys import checked_own_key
from celery_postgres.database.unique import CONFLICTS, UNTIL, checked_debounce, checked_unique_key
from celery_postgres.errors import FlowError

logger = logging.getLogger(__name__)

#: Returns a key of a call, or None for none: of its positional and its keyword arguments.
KeyOf = Callable[[tuple[Any, ...], dict[str, Any]], str | None]


class Flow:
    """The task option `flow`: whose turn a call of the task takes, and which calls are one.

    The functions get the positional and the keyword arguments of each call, where it is published, and return a text,
    or None for no key. Whatever a call's own `headers` set is left as it is.

    Args:
        key: the `flow_key` of a call, in fair queues: a text, or a function.
        unique: the unique key of a call: a text, a function, or True for all of its arguments. Of the calls of one task
            with the same key, in the same queue and of the same tenant, one waits.
        until: the key is free again when the call is `started`, which is when a worker has fetched it, or when it is
            `done`, for which the task needs `acks_late`.
        on_conflict: what a call does whose key is taken: `return` the result of the one that holds it, `raise`
            `DuplicateTaskError`, or `replace` that one's arguments and return its result.
        ordered: the calls of a key run one after another, in the order in which they were published, in all workers
            together; a retry keeps its place. The task needs `acks_late`, and its queue is fair.
        debounce: seconds after the last call of the same unique key to start; or a pair, whose second number is the
            longest time after the first call. It is 10 times the first by default.

    Raises:
        FlowError: an argument is wrong.

    Example::

        @app.task(acks_late=True, flow=Flow(unique=lambda args, kwargs: f"customer {args[0]}", until="done"))
        def synchronize(customer): ...
    """

    def __init__(
        self,
        *,
        key: str | KeyOf | None = None,
        unique: str | KeyOf | bool | None = None,
        until: str = "started",
        on_conflict: str = "return",
        debounce: float | Sequence[float] | None = None,
        ordered: bool = False,
    ) -> None:
        if until not in tuple(UNTIL):
            raise FlowError(f"until is {' or '.join(UNTIL)}")
        if on_conflict not in CONFLICTS:
            raise FlowError(f"on_conflict is {', '.join(CONFLICTS)}")
        if key is not None and not isinstance(key, str) and not callable(key):
            raise FlowError("key is a text or a function of the arguments")
        if unique is not None and not isinstance(unique, str | bool) and not callable(unique):
            raise FlowError("unique is a text, a function of the arguments, or True")
        if isinstance(key, str):
            checked_own_key(key)
        if isinstance(unique, str):
            checked_unique_key(unique)
        if not unique and (until != "started" or on_conflict != "return" or debounce is not None):
            raise FlowError("until, on_conflict and debounce need unique")
        if not isinstance(ordered, bool):
            raise FlowError("ordered is True or False")
        if ordered and unique:
            raise FlowError("a task is ordered or unique, and not both: limit the key to a concurrency of 1 instead")
        checked_debounce(debounce)
        if debounce is not None and (until != "started" or on_conflict not in ("return", "replace")):
            raise FlowError("a debounced task replaces the one that waits, until that is started")
        self.key, self.unique, self.until, self.ordered = key, unique or None, until, ordered
        self.on_conflict = "replace" if debounce is not None else on_conflict
        self.debounce = list(debounce) if isinstance(debounce, tuple | list) else debounce

    def __set_name__(self, owner: Any, name: str) -> None:
        """The task's class is made: its calls, and no other task's, ask this `Flow`."""
        original = vars(owner).get("apply_async")
        if original is None or not hasattr(original, "celery_postgres"):
            owner.apply_async = _flowing(owner, original)

    def headers(self, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any], options: Mapping[str, Any]) -> Any:
        """The headers of a call of this task: those of its options, and what they do not set.

        Raises:
            FlowError: a function has raised, or returned no key; or the task is acknowledged too early for `done`.
        """
        given = dict(options.get("headers") or {})
        if options.get("retries"):
            return given  # a retry is published with the headers of its task
        found: dict[str, Any] = {}
        if self.key is not None and "flow_key" not in given:
            found["flow_key"] = _asked(task, "key", self.key, args, kwargs)
        if self.ordered and given.get("flow_ordered", True):
            if not task.acks_late:
                raise FlowError(
                    f"the task {task.name} is ordered, and acknowledged when it starts, so that the next one would run "
                    "beside it: set acks_late=True"
                )
            found["flow_ordered"] = True
        if self.unique is not None and "unique_key" not in given:
            found["unique_key"] = (
                _all_arguments(task, args, kwargs)
                if self.unique is True
                else _asked(task, "unique", self.unique, args, kwargs)
            )
            if found["unique_key"] is not None:
                found |= self._how(task, options)
        headers = {name: value for name, value in found.items() if value is not None} | given
        if "unique_key" in headers and _is_part(options):
            # What follows would else be dropped or replaced with the call, and its result waited for without end.
            headers |= {"unique_conflict": "raise", "unique_part": True}
        return headers

    def _how(self, task: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        if self.until == "done" and not task.acks_late:
            raise FlowError(
                f"the task {task.name} is unique until it is done, and acknowledged when it starts: set acks_late=True"
            )
        if self.debounce is not None and _is_part(options):
            raise FlowError(
                f"the task {task.name} is debounced, and cannot be part of a group, a chord or a chain, or have a "
                "link: another call would replace it"
            )
        return {"unique_until": self.until, "unique_conflict": self.on_conflict, "debounce": self.debounce}


def check_flow(name: object) -> None:
    """Before a task is published for the first time, if this process knows it.

    A program that knew nothing of `Flow` may have its own attribute of this name: it goes on, with a warning.

    Raises:
        FlowError: its `flow` is meant for a `Flow` and is none, or was set after its class was made, so that no call
            would ask it.
    """
    if not isinstance(name, str) or name in _checked or (task := task_of(name)) is None:
        return
    flow = getattr(task, "flow", None)
    if flow is not None and not isinstance(flow, Flow):
        if flow is Flow or (isinstance(flow, Mapping) and flow and flow.keys() <= _arguments()):
            what = "the class: write Flow(…)" if flow is Flow else f"{type(flow).__name__}: write flow=Flow(…)"
            raise FlowError(f"the flow of the task {name} is no Flow but {what}")
        if "flow" in vars(type(task)):
            logger.warning("The flow of the task %s is no Flow of celery_postgres, and is ignored", name)
    if isinstance(flow, Flow) and not hasattr(type(task).apply_async, "celery_postgres"):
        raise FlowError(
            f"the flow of the task {name} was set too late: give it where the task is defined, as flow=Flow(…)"
        )
    _checked.add(name)


def _arguments() -> set[str]:
    return set(inspect.signature(Flow).parameters)


#: The names of tasks whose flows are.
_checked: set[str] = set()


def _flowing(owner: Any, original: Any) -> Any:
    """`apply_async` of a task's class."""

    def apply_async(
        self: Any,
        args: Any = None,
        kwargs: Any = None,
        task_id: Any = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: Any = None,
        **options: Any,
    ) -> Any:
        publish = super(owner, self).apply_async if original is None else original.__get__(self)
        named = {"task_id": task_id, "producer": producer, "link": link, "link_error": link_error, "shadow": shadow}
        options |= {name: value for name, value in named.items() if value is not None}
        flow, app = self.flow, self._get_app()
        if not isinstance(flow, Flow) or app.conf.task_always_eager:
            return publish(args, kwargs, **options)
        options["headers"] = flow.headers(self, tuple(args or ()), dict(kwargs or {}), options)
        add_to_parent = options.pop("add_to_parent", True)
        with finding_first() as first:
            result = publish(args, kwargs, add_to_parent=False, **options)
        if first.task_id is not None:
            ignored = result.ignored
            result = self.AsyncResult(first.task_id)
            result.ignored = ignored
        else:
            first.result = result
        if add_to_parent and (parent := app.current_worker_task):
            parent.add_trail(result)
        return result

    if original is not None:
        apply_async = wraps(original)(apply_async)
    apply_async.celery_postgres = True  # type: ignore[attr-defined]
    return apply_async


def _is_part(options: Mapping[str, Any]) -> bool:
    """Whether a call is part of a canvas, whose result has the id that the call would have had, and goes on after it: a
    group, a chord, a chain (which Celery passes even if it is empty, so that the last part is found too), a link."""
    return options.get("chain") is not None or any(options.get(name) for name in ("group_id", "chord", "link"))


def _asked(task: Any, name: str, key: str | KeyOf, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    if isinstance(key, str):
        return key
    try:
        found = key(args, kwargs)
    except Exception as error:
        if task.typing and hasattr(task, "__header__"):
            task.__header__(*args, **kwargs)  # Celery's own TypeError, for arguments that the task does not take
        raise FlowError(
            f"the function `{name}` in the flow of {task.name} has raised {type(error).__name__}; nothing was published"
        ) from error
    if found is not None and not isinstance(found, str):
        raise FlowError(
            f"the function `{name}` in the flow of {task.name} has returned {type(found).__name__}: return a text, "
            "or None"
        )
    return found


def _all_arguments(task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """A key of all arguments, which is the same whether they are given by place or by name."""
    try:
        bound = inspect.signature(task.run).bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = dict(bound.arguments)
    except (TypeError, ValueError):  # Celery says what is wrong with them
        arguments = {"args": args, "kwargs": kwargs}
    try:
        text = kombu_json.dumps(arguments, sort_keys=True)
    except Exception as error:
        raise FlowError(
            f"the arguments of {task.name} are no JSON, and its flow has unique=True: give it a function instead"
        ) from error
    return hashlib.sha256(text.encode()).hexdigest()
