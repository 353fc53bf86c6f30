"""Checks of messages for the code of Celery and Kombu that gets them.

That code checks little. A task whose `chain` is a number fails while its failure is stored; an event without a type
ends the worker that gossips; a reply that is a number ends the program that called `inspect()`. So each message is
checked before it is delivered. The checks refuse what would fail there: a field that is not known is let through.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from celery_postgres.consumer.broadcast_checks import check_control, check_event, check_reply, is_whole
from celery_postgres.consumer.field_rules import FlawError
from celery_postgres.consumer.task_checks import check_task

if TYPE_CHECKING:
    from celery_postgres.consumer.outlet import Subscription

__all__ = ["CONTROL", "EVENT", "REPLY", "TASK", "FlawError", "check", "is_whole", "kind_for", "kind_of"]

TASK, CONTROL, REPLY, EVENT = "task", "remote control", "reply", "event"

_KINDS = {
    ("celery.worker.consumer.consumer", "Consumer.create_task_handler.<locals>.on_task_received"): TASK,
    ("celery.worker.pidbox", "Pidbox.on_message"): CONTROL,
    ("kombu.pidbox", "Node.handle_message"): CONTROL,
    ("kombu.pidbox", "Mailbox._collect.<locals>.on_message"): REPLY,
    ("celery.worker.consumer.gossip", "Gossip.on_message"): EVENT,
    ("celery.events.receiver", "EventReceiver._receive"): EVENT,
}


def kind_for(subscription: Subscription) -> str | None:
    """`kind_of` the callback of a subscription, found out once for each handler that its consumer has."""
    consumer = getattr(subscription.callback, "__self__", None)
    handler = getattr(consumer, "on_message", None)
    if handler is None:
        return kind_of(subscription.callback)  # its list of callbacks may change
    if handler is not subscription.handler:
        subscription.kind, subscription.handler = kind_of(subscription.callback), handler
    return subscription.kind


def kind_of(callback: Any) -> str | None:
    """Which part of Celery or Kombu a consumer's callback belongs to; None for one of the program's own."""
    consumer = getattr(callback, "__self__", None)
    on_message = getattr(consumer, "on_message", None)
    for handler in [on_message] if on_message else getattr(consumer, "callbacks", None) or ():
        function = handler.func if isinstance(handler, partial) else handler
        kind = _KINDS.get((getattr(function, "__module__", ""), getattr(function, "__qualname__", "")))
        if kind is not None:
            return kind
        receiver = getattr(sys.modules.get("celery.events.receiver"), "EventReceiver", None)
        if receiver is not None and isinstance(getattr(function, "__self__", None), receiver):
            return EVENT
    return None


def check(kind: str, message: Any) -> None:
    """Check a message for a consumer of this kind.

    Raises:
        FlawError: it has a form that its consumer does not know.
        Exception: its body cannot be decoded.
    """
    if message.errors:
        raise message.errors[0][1]
    _CHECKS[kind](message)


_CHECKS: dict[str, Callable[[Any], None]] = {
    TASK: check_task,
    CONTROL: check_control,
    REPLY: check_reply,
    EVENT: check_event,
}
