"""Publishing: messages that enter queues, by themselves or in a caller's transaction."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from celery_postgres.database import driver, slow_commits
from celery_postgres.database.admission import admit, admit_routed, take_places, that_refuse
from celery_postgres.database.callers_connection import AsyncCallersConnection, CallersConnection
from celery_postgres.database.envelope import Addressed, Envelope, parameters
from celery_postgres.database.publish_batches import (
    has_unique,
    impatient,
    published,
    queues_of,
    together,
    unique_parameters,
    without,
)
from celery_postgres.database.session import Row
from celery_postgres.database.slow_commits import woken_if_slow
from celery_postgres.database.store import Runner, Store, in_transaction
from celery_postgres.errors import NotPublishedError, SchemaError


class PublishStore(Store):
    """Publish messages. Each call is one statement and one commit, and one more that wakes consumers, if some sleep.

    NOTIFY takes a lock of the whole server until its commit has reached the disk. So it has a commit of its own, which
    does not wait for the disk; and it is sent only if no consumer is about to poll by itself.
    """

    #: From this length on a payload is copied into the table.
    LONG = 1 << 16

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner)
        self._runner = runner

    def _publish(self, name: str, envelope: Envelope, **address: str) -> int:
        """Publish by the named statement, then wake sleepers; returns how many messages were written."""
        begun = time.monotonic()
        rows = self._run(name, **address, **parameters(envelope))
        self._wake(rows, envelope, time.monotonic() - begun)
        return len(rows)

    def _wake(self, rows: Iterable[Row], envelope: Envelope, waited_s: float) -> None:
        """Wake consumers for a message that is committed.

        Args:
            rows: the queue, and for how many seconds, as of `waited_s` ago at most, one of its consumers claims again
                by itself; None if none sleeps.
        """
        if waited_s > slow_commits.POLLS_FOR_S and envelope.is_soon:
            queues = [queue for queue, _ in rows]  # one may have fallen asleep meanwhile, and polled for the last time
        else:
            # A poll that begins after the commit finds the message.
            queues = [one for one, relied_s in rows if relied_s is not None and relied_s <= waited_s]
        if queues:
            # Whatever happens now, the messages are published. Who is not woken polls after 1.2 s at most.
            with contextlib.suppress(driver.Error, SchemaError):
                self._run("wake", queues=queues)

    def _copy(self, queue: str, envelope: Envelope) -> bool:
        """Publish one message with a long payload."""
        begun = time.monotonic()
        rows = self._run(
            "address",
            queue=queue,
            eta=envelope.eta,
            ttl_ms=envelope.ttl_ms,
            flow_key=envelope.flow_key,
            in_order=envelope.in_order or None,
            admitted=envelope.admitted,
            durable=envelope.durable,
        )
        for queue_id, sleep, available_at, expires_at, key, later in rows:
            self._run(
                "copy_message",
                queue_id=queue_id,
                payload=envelope.payload,
                priority=envelope.priority,
                task_id=envelope.task_id,
                tenant_id=envelope.tenant_id,
                available_at=available_at,
                expires_at=expires_at,
                flow_key=key,
                flow_later=later,
                in_order=envelope.in_order or None,
            )
            self._wake([(queue_id, sleep)], envelope, time.monotonic() - begun)
        return bool(rows)

    def publish(self, queue: str, envelope: Envelope) -> bool:
        """Publish one message. Returns whether the queue exists; if not, nothing was published.

        Raises:
            DuplicateTaskError: another task holds its unique key.
            FlowError: it is in order, and the queue is not fair.
            RateLimited: a rate limit refuses it.
        """
        if envelope.unique is not None:
            return not self.publish_many([(queue, envelope)])
        if envelope.in_order and envelope.is_retry and self._retry(queue, envelope):
            return True
        if self._publish_one(queue, envelope):
            return True
        admitted = admit(self._runner, [(queue, envelope)])
        return admitted is not None and self._publish_one(*admitted[0])

    def _retry(self, queue: str, envelope: Envelope) -> bool:
        """Let the message of a task that runs in order become its next attempt, at its place; False if it is gone."""
        given = parameters(envelope)
        for kept in ("priority", "in_order", "admitted"):
            del given[kept]
        begun = time.monotonic()
        rows = self._run("retry_in_order", queue=queue, **given)
        self._wake(rows, envelope, time.monotonic() - begun)
        return bool(rows)

    def _publish_one(self, queue: str, envelope: Envelope) -> bool:
        # A transient message is one statement, with a commit that does not wait.
        if len(envelope.payload) >= self.LONG and envelope.durable == "yes" and driver.can_copy():
            return self._copy(queue, envelope)
        return bool(self._publish("publish", envelope, queue=queue))

    def publish_to_exchange(self, exchange: str, routing_key: str, envelope: Envelope) -> int:
        """Publish one message to all queues that the exchange routes it to. Returns the number of queues.

        Raises:
            RateLimited: a rate limit of one of them refuses it.
        """
        address = {"exchange": exchange, "routing_key": routing_key}
        if envelope.unique is not None:
            return _to_each(self._run("routes", **address), envelope, self.publish_many)
        if envelope.in_order and envelope.is_retry:
            return _to_each(self._run("routes", **address), envelope, lambda each: self.publish(*each[0]))
        count = self._publish("publish_to_exchange", envelope, **address)
        if not count and (admitted := admit_routed(self._runner, exchange, routing_key, envelope)):
            count = self._publish("publish_to_exchange", admitted, **address)
        return count

    def publish_many(self, messages: Sequence[Addressed]) -> list[str]:
        """Publish all messages, in their order, or none. Returns the queues that do not exist; with one it was none.

        Raises:
            DuplicateTaskError: another task holds the unique key of one; the others were published.
            NotPublishedError: the publish of a unique key did not end in time.
            RateLimited: a rate limit refuses one of them.
        """
        if has_unique(messages):
            refusing = that_refuse(self._runner, messages)
            try:
                with self._woken_if_slow(messages):
                    missing, firsts = self._publish_unique(messages, refusing)
            except driver.Error as error:
                raise impatient(error) or error from None
            return published(messages, missing, firsts)
        untaken = self._publish_all(messages)
        if untaken and (admitted := admit(self._runner, messages)) is not None:
            untaken = self._publish_all(admitted)
        return untaken

    def _publish_unique(self, messages: Sequence[Addressed], refusing: Mapping[str, int]) -> tuple[Any, Any]:
        """The numbers of the messages whose queue is missing, and what other tasks hold the keys of. Only messages that
        are new take a place, in the same transaction."""
        if not refusing:
            ((missing, firsts, _),) = self._run("publish_unique", **unique_parameters(messages))
            return missing, firsts
        with in_transaction(self._runner) as session:
            ((missing, firsts, _),) = session.run("publish_unique", **unique_parameters(messages))
            if not missing:
                take_places(session, refusing, without(messages, firsts), within=True)
        return missing, firsts

    def _publish_all(self, messages: Sequence[Addressed]) -> list[str]:
        with self._woken_if_slow(messages):
            ((untaken, _),) = self._run("publish_many", **together(messages))
        return queues_of(messages, untaken)

    def _woken_if_slow(self, messages: Sequence[Addressed]) -> contextlib.AbstractContextManager[None]:
        soon = {queue for queue, envelope in messages if envelope.is_soon}
        return woken_if_slow(self._run, "wake_by_name", queues=sorted(soon))

    def catch_up(self, table: str) -> None:
        """Advance the sequence of a table's ids beyond the greatest id."""
        self._run("catch_up", relation=table)


class CallersPublishStore(Store):
    """Publish messages in the transaction of a caller.

    A queue that refuses takes nothing but admitted messages, `admission.admit` makes them so beforehand, and what has a
    unique key, which takes its place with `publish_new`.
    """

    def __init__(self, connection: CallersConnection) -> None:
        super().__init__(connection)
        self._all_or_nothing = connection.all_or_nothing

    def publish_new(
        self, messages: Sequence[Addressed], take_places: Callable[[Sequence[Addressed]], None]
    ) -> list[str]:
        """Publish messages with unique keys to queues that refuse, in the order of their keys, or none. Returns the
        queues that do not exist.

        Args:
            take_places: for those that are new. What it raises undoes the publish, and leaves the transaction usable.
        """
        try:
            with self._all_or_nothing():
                ((missing, firsts, _),) = self._run("publish_unique_within", **unique_parameters(messages))
                if not missing:
                    take_places(without(messages, firsts))
        except NotPublishedError as error:
            raise impatient(error) or error from None
        return published(messages, missing, firsts)

    def publish(self, queue: str, envelope: Envelope) -> bool:
        """Publish one message. Returns whether the queue took it: this transaction sees it, and it does not refuse."""
        if envelope.unique is not None:
            return not self._publish_unique([(queue, envelope)])
        return bool(self._run("publish_within", queue=queue, **parameters(envelope)))

    def routes(self, exchange: str, routing_key: str) -> list[str]:
        """The queues that the exchange routes a message to, as far as this transaction can see."""
        return [queue for (queue,) in self._run("routes", exchange=exchange, routing_key=routing_key)]

    def publish_to_exchange(self, exchange: str, routing_key: str, envelope: Envelope) -> int:
        """Publish one message, without a unique key, to all queues that the exchange routes it to. Returns the number
        of queues."""
        ((taken, _),) = self._run(
            "publish_to_exchange_within", exchange=exchange, routing_key=routing_key, **parameters(envelope)
        )
        return int(taken)

    def publish_many(self, messages: Sequence[Addressed]) -> list[str]:
        """Publish all messages, in their order, or none. Returns the queues that did not take theirs."""
        if len(messages) == 1:
            ((queue, envelope),) = messages
            return [] if self.publish(queue, envelope) else [queue]
        if has_unique(messages):
            return self._publish_unique(messages)
        ((untaken, _),) = self._run("publish_many_within", **together(messages))
        return queues_of(messages, untaken)

    def _publish_unique(self, messages: Sequence[Addressed]) -> list[str]:
        try:
            ((missing, firsts, _),) = self._run("publish_unique_within", **unique_parameters(messages))
        except NotPublishedError as error:
            raise impatient(error) or error from None
        return published(messages, missing, firsts)


class AsyncCallersPublishStore:
    """Publish messages in the transaction of an asynchronous caller."""

    def __init__(self, connection: AsyncCallersConnection) -> None:
        self._run = connection.run

    async def publish_many(self, messages: Sequence[Addressed]) -> list[str]:
        """Publish all messages, in their order, or none. Returns the queues that did not take theirs."""
        if has_unique(messages):
            try:
                ((missing, firsts, _),) = await self._run("publish_unique_within", **unique_parameters(messages))
            except NotPublishedError as error:
                raise impatient(error) or error from None
            return published(messages, missing, firsts)
        ((untaken, _),) = await self._run("publish_many_within", **together(messages))
        return queues_of(messages, untaken)

    async def publish_new(
        self, messages: Sequence[Addressed], take_places: Callable[[Sequence[Addressed]], Awaitable[None]]
    ) -> list[str]:
        """As `CallersPublishStore.publish_new`, in a block that is undone as a whole."""
        try:
            ((missing, firsts, _),) = await self._run("publish_unique_within", **unique_parameters(messages))
        except NotPublishedError as error:
            raise impatient(error) or error from None
        if not missing:
            await take_places(without(messages, firsts))
        return published(messages, missing, firsts)

    async def routes(self, exchange: str, routing_key: str) -> list[str]:
        """The queues that the exchange routes a message to, as far as this transaction can see."""
        return [queue for (queue,) in await self._run("routes", exchange=exchange, routing_key=routing_key)]


def _to_each(routes: Sequence[Row], envelope: Envelope, publish: Callable[[Sequence[Addressed]], object]) -> int:
    """Publish to each of these queues; returns how many there are."""
    if routes:
        publish([(queue, envelope) for (queue,) in routes])
    return len(routes)
