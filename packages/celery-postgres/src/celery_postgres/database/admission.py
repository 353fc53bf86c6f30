"""Rate limits that refuse at publish.

Publishing to a queue that refuses writes nothing until the messages are admitted. So publishers of other queues pay
nothing. Places are taken in a commit of their own: one that waited for a caller's transaction would make every
publisher of the key wait for it. What is then not published has taken its place all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from celery_postgres.database.envelope import Addressed, Envelope
from celery_postgres.database.limit_store import LimitStore
from celery_postgres.database.queue_store import QueueStore
from celery_postgres.database.store import Runner
from celery_postgres.errors import FlowError, RateLimited


def admit(runner: Runner, messages: Sequence[Addressed]) -> list[Addressed] | None:
    """The same messages, admitted: all of them take their places. None if no queue of theirs refuses.

    Raises:
        FlowError: one of them is in order, and its queue is not fair.
        RateLimited: one of them is refused, and none has taken a place.
    """
    store = LimitStore(runner)
    _check_order(store, messages)
    asking = [(queue, envelope) for queue, envelope in messages if not envelope.admitted]
    queues = store.that_refuse(sorted({queue for queue, _ in messages}))
    if not queues:
        return None
    refusal = store.admit(queues, [(queue, envelope.flow_key) for queue, envelope in asking])
    if refusal is not None:
        queue, envelope = asking[refusal.number]
        raise RateLimited(queue, envelope.flow_key, refusal.retry_in_s)
    return [(queue, replace(envelope, admitted=True)) for queue, envelope in messages]


def _check_order(store: LimitStore, messages: Sequence[Addressed]) -> None:
    ordered = sorted({queue for queue, envelope in messages if envelope.in_order})
    if ordered and (unfair := store.that_are_unfair(ordered)):
        raise FlowError(
            f"the queue {unfair[0]!r} is not fair, and keeps no order of its keys: run `python -m celery_postgres fair "
            'QUEUE on`, or declare it with queue_arguments={"x-fair": True}'
        )


def admit_routed(runner: Runner, exchange: str, routing_key: str, envelope: Envelope) -> Envelope | None:
    """The same for a message to all queues of an exchange; None if none of them refuses.

    Only for tasks: events and broadcasts, which often have no queue at all, are not asked for.

    Raises:
        RateLimited: as above.
    """
    if envelope.task_id is None or (envelope.admitted and not envelope.in_order):
        return None
    queues = list(QueueStore(runner).routes(exchange, routing_key))
    admitted = admit(runner, [(queue, envelope) for queue in queues])
    return admitted[0][1] if admitted else None
