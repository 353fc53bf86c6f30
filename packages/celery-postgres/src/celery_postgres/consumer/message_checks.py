"""What a message must look like for the code of Celery and Kombu that gets it.

They check little of it. A task whose `chain` is a number fails while its failure is stored; an event without a type
ends the worker that gossips; a reply that is a number ends whoever called `inspect()`. So each message is looked at
before it is handed over. What is refused here is what would fail there: a field that is not known is let through.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

TASK, CONTROL, REPLY, EVENT = "task", "remote control", "reply", "event"

#: Numbers beyond these overflow where they are added to a clock, or are kept in a column of 4 bytes.
_LONGEST_S = 10.0**10
_HIGHEST_CLOCK = 2**63 - 1
_MOST_RETRIES = 2**31 - 1


class FlawError(ValueError):
    """What is wrong with a message, in words for a dead letter: it quotes nothing."""


def kind_of(callback: Any) -> str | None:
    """Which part of Celery or Kombu a consumer's callback belongs to; None for one of the program's own."""
    consumer = getattr(callback, "__self__", None)
    handlers = [getattr(consumer, "on_message", None)] if getattr(consumer, "on_message", None) else None
    for handler in handlers or getattr(consumer, "callbacks", None) or ():
        function = handler.func if isinstance(handler, partial) else handler
        kind = _KINDS.get((getattr(function, "__module__", ""), getattr(function, "__qualname__", "")))
        if kind is not None:
            return kind
        receiver = getattr(sys.modules.get("celery.events.receiver"), "EventReceiver", None)
        if receiver is not None and isinstance(getattr(function, "__self__", None), receiver):
            return EVENT
    return None


_KINDS = {
    ("celery.worker.consumer.consumer", "Consumer.create_task_handler.<locals>.on_task_received"): TASK,
    ("celery.worker.pidbox", "Pidbox.on_message"): CONTROL,
    ("kombu.pidbox", "Node.handle_message"): CONTROL,
    ("kombu.pidbox", "Mailbox._collect.<locals>.on_message"): REPLY,
    ("celery.worker.consumer.gossip", "Gossip.on_message"): EVENT,
    ("celery.events.receiver", "EventReceiver._receive"): EVENT,
}


def check(kind: str, message: Any) -> None:
    """Look at a message for a consumer of this kind.

    Raises:
        FlawError: it has a form that its consumer does not know.
        Exception: its body cannot be decoded.
    """
    if message.errors:
        raise message.errors[0][1]
    _CHECKS[kind](message)


# -- fields


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_LONGEST_S < value < _LONGEST_S


def _count(most: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _moment(value: Any) -> bool:
    return _number(value) and value >= 0


def _pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(one is None or _number(one) for one in value)


def _texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)


def _named(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _shown(value: Any) -> bool:
    """Logs and terminals show it, where a line break is another line, and half a surrogate pair an error."""
    return isinstance(value, str) and value.isprintable()


def _a(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


_text, _mapping, _listed = _a(str), _a(dict), _a(list, tuple)


def _check_fields(values: dict[str, Any], rules: dict[str, tuple[Callable[[Any], bool], str]], where: str) -> None:
    """Each field that has a rule is absent, None, or what the rule says."""
    for name, (fits, wanted) in rules.items():
        value = values.get(name)
        if value is not None and not fits(value):
            raise FlawError(f"{where} {name} is not {wanted}")


# -- tasks

_HEADERS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("shadow", "root_id", "parent_id", "group", "argsrepr", "kwargsrepr"), (_text, "text")),
    **dict.fromkeys(("eta", "expires"), (_text, "a time")),
    "timelimit": (_pair, "a pair of numbers"),
    "retries": (_count(_MOST_RETRIES), "a number of times"),
    "replaced_task_nesting": (_count(_MOST_RETRIES), "a number of times"),
    "group_index": (_count(_MOST_RETRIES), "a position"),
    "stamped_headers": (_texts, "a list of names"),
    "stamps": (_mapping, "an object"),
    "headers": (_mapping, "an object"),
}
_PROPERTIES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "reply_to": (_text, "text"),
    "correlation_id": (_text, "text"),
    "priority": (_number, "a number"),
}
_DELIVERY: dict[str, tuple[Callable[[Any], bool], str]] = {"exchange": (_text, "text"), "routing_key": (_text, "text")}
#: What a task is followed by, and whether it is a list.
_EMBEDDED = {"callbacks": True, "errbacks": True, "chain": True, "chord": False}


@lru_cache(maxsize=1)
def _names_of_context() -> frozenset[str]:
    """Celery makes every header an attribute of the request. One that has the name of a method takes its place."""
    context: Any = sys.modules["celery.app.task"].Context
    return frozenset(name for name in dir(context) if name.startswith("_") or callable(getattr(context, name)))


def _check_task(message: Any) -> None:
    headers, body = message.headers, message.decode()
    if "task" in headers and not (isinstance(body, dict) and "args" in body):
        if not (isinstance(body, (list, tuple)) and len(body) == 3):
            raise FlawError("its body is not a list of arguments, keyword arguments and what follows")
        args, kwargs, embedded = body
        fields = headers
    else:  # protocol 1, or headers of 2 with a body of 1
        if not isinstance(body, dict) or not isinstance(headers, dict):
            raise FlawError("it is not a task")
        args, kwargs = body.get("args", ()), body.get("kwargs", {})
        embedded, fields = {name: body.get(name) for name in _EMBEDDED}, {**body, **headers}
    if not isinstance(fields.get("task"), str):
        raise FlawError("the name of its task is not text")
    if not _shown(fields.get("id")):
        raise FlawError("its id is not printable text")
    _check_fields(fields, _HEADERS, "its")
    _check_fields(message.properties, _PROPERTIES, "its")
    _check_fields(message.delivery_info, _DELIVERY, "its")
    if not _names_of_context().isdisjoint(fields):
        raise FlawError("a header has the name of a method of Celery's")
    if not isinstance(args, (list, tuple)):
        raise FlawError("its arguments are not a list")
    if not isinstance(kwargs, dict) or not all(isinstance(name, str) for name in kwargs):
        raise FlawError("its keyword arguments are not an object")
    if embedded is not None:
        if not isinstance(embedded, dict):
            raise FlawError("what follows it is not an object")
        unknown = embedded.keys() - _EMBEDDED
        if unknown and not unknown.isdisjoint(dir(sys.modules["celery.app.task"].Context)):
            raise FlawError("what follows it has the name of something else")
    # Celery takes what the body does not say from the headers.
    _check_embedded({**{name: fields.get(name) for name in _EMBEDDED}, **(embedded or {})})


def _check_embedded(embedded: dict[str, Any]) -> None:
    left: list[Any] = []
    for name, several in _EMBEDDED.items():
        value = embedded.get(name)
        if value is None:
            continue
        if several and not isinstance(value, (list, tuple)):
            raise FlawError(f"its {name} are not a list")
        left += value if several else [value]
    while left:
        left += _parts_of(left.pop())


#: A signature's parts. Celery's own always has them.
_SIGNATURE: dict[str, tuple[Callable[[Any], bool], str]] = {
    "task": (_text, "text"),
    "args": (_listed, "a list"),
    "kwargs": (_mapping, "an object"),
    "options": (_mapping, "an object"),
}
_OPTIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("task_id", "group_id", "root_id", "parent_id", "reply_to"), (_text, "text")),
    "headers": (_mapping, "an object"),
    "stamped_headers": (_texts, "a list of names"),
    "group_index": (_count(_MOST_RETRIES), "a position"),
}


def _parts_of(signature: Any) -> list[Any]:
    """The signatures in a signature.

    Raises:
        FlawError: it is not one.
    """
    if not isinstance(signature, dict) or any(signature.get(name) is None for name in _SIGNATURE):
        raise FlawError("what follows it is not a signature")
    _check_fields(signature, _SIGNATURE, "what follows it is not a signature:")
    kwargs, options, kind = signature["kwargs"], signature["options"], signature.get("subtask_type")
    if kind and (not isinstance(kind, str) or kind not in sys.modules["celery.canvas"].Signature.TYPES):
        raise FlawError("what follows it is a signature of a kind that is not known")
    _check_fields(options, _OPTIONS, "what follows it is not a signature:")
    parts: list[Any] = []
    for value in (options.get("link"), options.get("link_error"), options.get("chord")):
        parts += value if isinstance(value, (list, tuple)) else [value] if value is not None else []
    if kind in ("chain", "group"):
        if not isinstance(kwargs.get("tasks"), (list, tuple)):
            raise FlawError(f"what follows it is a {kind} without a list of tasks")
        parts += kwargs["tasks"]
    elif kind == "chord":
        header = kwargs.get("header")
        parts += header if isinstance(header, (list, tuple)) else [header]
        parts.append(kwargs.get("body"))
    elif kind in ("xmap", "xstarmap", "chunks"):
        parts.append(kwargs.get("task"))
        if not isinstance(kwargs.get("it"), (list, tuple)):
            raise FlawError(f"what follows it is a {kind} of nothing")
    return parts


# -- remote control

_ORDER: dict[str, tuple[Callable[[Any], bool], str]] = {
    "arguments": (_mapping, "an object"),
    "destination": (_texts, "a list of names"),
    "pattern": (_text, "text"),
    "matcher": (_text, "text"),
    "ticket": (_text, "text"),
    "reply_to": (
        # The default exchange would make a queue for whatever the routing key says.
        lambda value: isinstance(value, dict) and all(map(_named, (value.get("exchange"), value.get("routing_key")))),
        "an exchange and a routing key",
    ),
}
_IDS: tuple[Callable[[Any], bool], str] = (lambda value: isinstance(value, str) or _texts(value), "an id or a list")
#: What would stay in the worker and fail its tasks later. Everything else fails in the command alone.
_ARGUMENTS: dict[str, dict[str, tuple[Callable[[Any], bool], str]]] = {
    "revoke": {"task_id": _IDS},
    "terminate": {"task_id": _IDS},
    "hello": {"revoked": (_a(dict, list), "a list of ids")},
    "rate_limit": {"task_name": (_text, "text"), "rate_limit": (_a(str, int, float), "a rate")},
    "time_limit": {"task_name": (_text, "text"), "hard": (_number, "a number"), "soft": (_number, "a number")},
    "revoke_by_stamped_headers": {"headers": (_a(dict, list), "an object")},
}


def _check_control(message: Any) -> None:
    order = message.decode()
    if not isinstance(order, dict) or not isinstance(order.get("method"), str):
        raise FlawError("it is not a command")
    _check_fields(order, _ORDER, "its")
    _check_fields(order.get("arguments") or {}, _ARGUMENTS.get(order["method"], {}), "its")
    _check_clock(message.headers)


_REPLY: dict[str, tuple[Callable[[Any], bool], str]] = {"ticket": (_text, "text"), "expires": (_number, "a number")}


def _check_reply(message: Any) -> None:
    reply = message.decode()
    if not reply or not isinstance(reply, dict) or not all(isinstance(name, str) for name in reply):
        raise FlawError("it is not what a worker replies")
    # Kombu takes a reply without a ticket for the answer to whatever was asked last.
    if message.headers.get("ticket") is None:
        raise FlawError("it does not say what it replies to")
    _check_fields(message.headers, _REPLY, "its")
    _check_clock(message.headers)


# -- events

_EVENT: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("hostname", "uuid", "name", "state", "root_id", "parent_id"), (_shown, "printable text")),
    "timestamp": (_moment, "a time"),
    "local_received": (_moment, "a time"),
    "utcoffset": (lambda value: _number(value) and abs(value) <= 24, "a number of hours"),
    "freq": (_number, "a number of seconds"),
}


def _check_event(message: Any) -> None:
    body = message.decode()
    for event in body if isinstance(body, list) else (body,):
        if not isinstance(event, dict) or not _shown(event.get("type")):
            raise FlawError("it is not an event")
        _check_fields(event, _EVENT, "its")
        _check_clock(event)
    _check_fields(message.headers, {"hostname": (_shown, "printable text")}, "its")


def is_whole(message: Any) -> bool:
    """Whether an event has everything that Celery's own have. Of a reply there is nothing to ask."""
    body = message.decode()
    for event in body if isinstance(body, list) else (body,):
        needed = ["hostname", "timestamp", "clock", "utcoffset", "pid"]
        needed += ["uuid"] if event["type"].startswith("task-") else []
        if any(event.get(name) is None for name in needed):
            return False
    return True


def _check_clock(values: dict[str, Any]) -> None:
    """One that is no number, or higher than any, stays in each process that has seen it."""
    _check_fields(values, {"clock": (_count(_HIGHEST_CLOCK), "a logical clock")}, "its")


_CHECKS: dict[str, Callable[[Any], None]] = {
    TASK: _check_task,
    CONTROL: _check_control,
    REPLY: _check_reply,
    EVENT: _check_event,
}
