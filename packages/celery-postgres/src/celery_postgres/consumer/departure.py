"""What a consumer does before its process ends."""

from __future__ import annotations

from celery_postgres.consumer.claims import Claims
from celery_postgres.consumer.counting import Counting
from celery_postgres.database.consumer_store import ConsumerStore
from celery_postgres.database.message_store import MessageStore
from celery_postgres.database.queue_store import QueueStore
from celery_postgres.database.session import Session


def settle_everything(session: Session, consumer: int, claims: Claims, counting: Counting, queues: list[int]) -> None:
    """Send the acks, write the counts, remove the consumer and release what it has claimed.

    Args:
        queues: the ids of those that it consumes.

    Raises:
        psycopg2.Error, SchemaError: something could not be done; the other consumers will do the rest.
    """
    messages = MessageStore(session)
    claims.settle_pending(messages)
    claims.do_postponed(messages)
    counting.write_all(session, consumer)
    if ConsumerStore(session).remove(consumer):
        messages.release_all(consumer, claims.max_failures, failed=False)
        # A program that ends without closing its connection, such as Flower: maintenance may never run after it.
        QueueStore(session).drop_unused(queues)
