"""Rate limits that refuse at publish.

Publishing to a queue that refuses writes nothing until the messages are admitted. So publishers of other queues pay
nothing. Places are taken in a commit of their own: one that waited for a caller's transaction would make every
publisher of the key wait for it. What is then not published has taken its place all the same.

Messages with unique keys take theirs in the transaction that publishes them, once it is known which are duplicates. In
a caller's transaction they take them in a commit of its own too, after they were published: a refusal undoes that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from celery_postgres.database.envelope import Addressed, Envelope
from celery_postgres.database.keys import MAX_KEY_LENGTH
from celery_postgres.database.limit_store import LimitStore
from celery_postgres.database.queue_store import QueueStore
from celery_postgres.database.store import Runner
from celery_postgres.errors import FlowError, RateLimited


def admit(runner: Runner, messages: Sequence[Addressed]) -> list[Addressed] | None:
    """The same messages, admitted: all of them take their places. None if no queue of theirs refuses.

    Raises:
        FlowError: one of them is in order, and its queue is not fair; or its queue is fair, and its tenant is no key.
        RateLimited: one of them is refused, and none has taken a place.
    """
    queues = that_refuse(runner, messages)
    if not queues:
        return None
    take_places(runner, queues, messages)
    return [(queue, replace(envelope, admitted=True)) for queue, envelope in messages]


def that_refuse(runner: Runner, messages: Sequence[Addressed]) -> dict[str, int]:
    """The queues of these messages that refuse, with their ids.

    Raises:
        FlowError: one of them is in order, and its queue is not fair.
    """
    store = LimitStore(runner)
    _check_fairness(store, messages)
    return store.that_refuse(sorted({queue for queue, _ in messages}))


def take_places(
    runner: Runner, queues: Mapping[str, int], messages: Sequence[Addressed], *, within: bool = False
) -> None:
    """Take a place for each message that is not admitted.

    Args:
        within: the transaction publishes the messages too.

    Raises:
        RateLimited: one of them is refused, and none has taken a place.
    """
    asking = [(queue, envelope) for queue, envelope in messages if not envelope.admitted]
    statement = "admit_within" if within else "admit"
    refusal = LimitStore(runner).admit(
        queues, [(queue, envelope.flow_key or "") for queue, envelope in asking], name=statement
    )
    if refusal is not None:
        queue, envelope = asking[refusal.number]
        raise RateLimited(queue, None if refusal.of_queue else envelope.flow_key or "", refusal.retry_in_s)


def _check_fairness(store: LimitStore, messages: Sequence[Addressed]) -> None:
    without_key = sorted({queue for queue, envelope in messages if envelope.flow_key is None})
    if without_key and (fair := store.that_are(without_key, fair=True)):
        raise FlowError(
            f"not published: the queue {fair[0]!r} is fair, and the tenant_id of a message is no key: give it a text "
            f"of at most {MAX_KEY_LENGTH} characters, an integer or a UUID, or set the header flow_key"
        )
    ordered = sorted({queue for queue, envelope in messages if envelope.in_order})
    if ordered and (unfair := store.that_are(ordered, fair=False)):
        raise FlowError(
            f"the queue {unfair[0]!r} is not fair, and keeps no order of its keys: run `python -m celery_postgres fair "
            'QUEUE on`, or declare it with queue_arguments={"x-fair": True}'
        )


def admit_routed(runner: Runner, exchange: str, routing_key: str, envelope: Envelope) -> Envelope | None:
    """The same for a message to all queues of an exchange; None if none of them refuses.

    Only for tasks: events and broadcasts, which often have no queue at all, are not asked for unless they have no key.

    Raises:
        RateLimited: as above.
    """
    if envelope.flow_key is not None and (envelope.task_id is None or (envelope.admitted and not envelope.in_order)):
        return None
    queues = list(QueueStore(runner).routes(exchange, routing_key))
    admitted = admit(runner, [(queue, envelope) for queue in queues])
    return admitted[0][1] if admitted else None
