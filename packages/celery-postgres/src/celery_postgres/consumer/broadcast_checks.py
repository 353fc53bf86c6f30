"""What remote control commands, replies and events must look like for the parts of Celery and Kombu that get them."""

from __future__ import annotations

from typing import Any

from celery_postgres.consumer.field_rules import (
    FlawError,
    Rule,
    are_texts,
    check_fields,
    is_a,
    is_count,
    is_mapping,
    is_moment,
    is_name,
    is_number,
    is_printable,
    is_text,
)

#: A higher clock overflows where Celery adds to it.
_HIGHEST_CLOCK = 2**63 - 1

# -- remote control

_ORDER: dict[str, Rule] = {
    "arguments": (is_mapping, "an object"),
    "destination": (are_texts, "a list of names"),
    "pattern": (is_text, "text"),
    "matcher": (is_text, "text"),
    "ticket": (is_text, "text"),
    "reply_to": (
        # The default exchange would create a queue that is named as the routing key.
        lambda value: isinstance(value, dict) and all(map(is_name, (value.get("exchange"), value.get("routing_key")))),
        "an exchange and a routing key",
    ),
}
_IDS: Rule = (lambda value: isinstance(value, str) or are_texts(value), "an id or a list")
#: Arguments that would stay in the worker and make its tasks fail later. Others only make the command fail.
_ARGUMENTS: dict[str, dict[str, Rule]] = {
    "revoke": {"task_id": _IDS},
    "terminate": {"task_id": _IDS},
    "hello": {"revoked": (is_a(dict, list), "a list of ids")},
    "rate_limit": {"task_name": (is_text, "text"), "rate_limit": (is_a(str, int, float), "a rate")},
    "time_limit": {"task_name": (is_text, "text"), "hard": (is_number, "a number"), "soft": (is_number, "a number")},
    "revoke_by_stamped_headers": {"headers": (is_a(dict, list), "an object")},
}


def check_control(message: Any) -> None:
    order = message.decode()
    if not isinstance(order, dict) or not isinstance(order.get("method"), str):
        raise FlawError("it is not a command")
    check_fields(order, _ORDER, "its")
    check_fields(order.get("arguments") or {}, _ARGUMENTS.get(order["method"], {}), "its")
    _check_clock(message.headers)


_REPLY: dict[str, Rule] = {"ticket": (is_text, "text"), "expires": (is_number, "a number")}


def check_reply(message: Any) -> None:
    reply = message.decode()
    if not reply or not isinstance(reply, dict) or not all(isinstance(name, str) for name in reply):
        raise FlawError("it is not what a worker replies")
    # Kombu takes a reply without a ticket for the reply to the latest command.
    if message.headers.get("ticket") is None:
        raise FlawError("it does not say what it replies to")
    check_fields(message.headers, _REPLY, "its")
    _check_clock(message.headers)


# -- events

_EVENT: dict[str, Rule] = {
    **dict.fromkeys(("hostname", "uuid", "name", "state", "root_id", "parent_id"), (is_printable, "printable text")),
    "timestamp": (is_moment, "a time"),
    "local_received": (is_moment, "a time"),
    "utcoffset": (lambda value: is_number(value) and abs(value) <= 24, "a number of hours"),
    "freq": (is_number, "a number of seconds"),
}


def check_event(message: Any) -> None:
    body = message.decode()
    for event in body if isinstance(body, list) else (body,):
        if not isinstance(event, dict) or not is_printable(event.get("type")):
            raise FlawError("it is not an event")
        check_fields(event, _EVENT, "its")
        _check_clock(event)
    check_fields(message.headers, {"hostname": (is_printable, "printable text")}, "its")


def is_whole(message: Any) -> bool:
    """Whether an event has every field that Celery's own have."""
    body = message.decode()
    for event in body if isinstance(body, list) else (body,):
        needed = ["hostname", "timestamp", "clock", "utcoffset", "pid"]
        needed += ["uuid"] if event["type"].startswith("task-") else []
        if any(event.get(name) is None for name in needed):
            return False
    return True


def _check_clock(values: dict[str, Any]) -> None:
    """Each process keeps the highest clock that it has seen, so one that is no number or too high stays there."""
    check_fields(values, {"clock": (is_count(_HIGHEST_CLOCK), "a logical clock")}, "its")
