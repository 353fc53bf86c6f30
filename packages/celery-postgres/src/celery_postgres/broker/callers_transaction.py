"""A caller's transaction, and the messages that are part of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from celery_postgres.database.admission import admit, admit_routed, take_places, that_refuse
from celery_postgres.database.callers_connection import AsyncCallersConnection, CallersConnection
from celery_postgres.database.driver import SERIALIZATION_FAILURE, Error
from celery_postgres.database.envelope import Addressed, Envelope
from celery_postgres.database.publish_batches import has_unique
from celery_postgres.database.publish_store import AsyncCallersPublishStore, CallersPublishStore, PublishStore
from celery_postgres.database.store import Runner
from celery_postgres.errors import NotPublishedError, primary

_Result = TypeVar("_Result")

#: What one statement carries at most, when a block ends: messages, and characters of their payloads.
MESSAGES, CHARACTERS = 5000, 1 << 25


@dataclass(frozen=True, slots=True)
class Aside:
    """What is done beside a caller's transaction, on the broker's own connections.

    Attributes:
        declare: declares a queue that the transaction does not see.
    """

    runner: Runner
    declare: Callable[[str], None]

    def catch_up(self, table: str) -> None:
        """Advance a sequence whose lag has failed the caller's transaction, so that the next attempt succeeds."""
        PublishStore(self.runner).catch_up(table)


class Transaction(Protocol):
    """Takes the messages of a block of `publishing_on`."""

    def publish(self, messages: Sequence[Addressed], aside: Aside) -> None:
        """Publish to queues by name, all messages or none."""
        ...

    def publish_to_exchange(
        self, exchange: str, routing_key: str, envelope: Envelope, fallback: str | None, aside: Aside
    ) -> None:
        """Publish to the queues that the exchange routes the message to; without one, to the queue `fallback`."""
        ...

    def end(self) -> None:
        """Refuse every later publish: the block has ended."""
        ...


class WrittenAtOnce:
    """A transaction on a synchronous connection: a message is written as it is published."""

    def __init__(self, connection: CallersConnection) -> None:
        self._store = CallersPublishStore(connection)
        self._ended = False

    def end(self) -> None:
        self._ended = True

    def publish(self, messages: Sequence[Addressed], aside: Aside) -> None:
        """
        Raises:
            NotPublishedError: nothing was published, and the caller's transaction can only be rolled back, or, under
                REPEATABLE READ, is older than the queue.
        """
        self.check()
        try:
            publish = self._store.publish_many
            if has_unique(messages):
                publish = partial(self._publish_unique, aside)
            untaken = publish(messages)
            if untaken and not has_unique(messages) and (admitted := admit(aside.runner, messages)) is not None:
                messages = admitted
                untaken = publish(messages)
            for queue in untaken:
                aside.declare(queue)
            if untaken and publish(messages):
                raise _older_than_queue()
        except NotPublishedError as error:
            _catch_up(error, aside)
            raise

    def publish_to_exchange(
        self, exchange: str, routing_key: str, envelope: Envelope, fallback: str | None, aside: Aside
    ) -> None:
        self.check()
        try:
            if envelope.unique is not None:
                queues = self._store.routes(exchange, routing_key)
                taken = len(queues)
                if queues:
                    self._publish_unique(aside, [(queue, envelope) for queue in queues])
            else:
                taken = self._store.publish_to_exchange(exchange, routing_key, envelope)
            if (
                not taken
                and envelope.unique is None
                and (admitted := admit_routed(aside.runner, exchange, routing_key, envelope))
            ):
                taken = self._store.publish_to_exchange(exchange, routing_key, admitted)
        except NotPublishedError as error:
            _catch_up(error, aside)
            raise
        if not taken and fallback:
            self.publish([(fallback, envelope)], aside)

    def _publish_unique(self, aside: Aside, messages: Sequence[Addressed]) -> list[str]:
        """What is no duplicate takes its place, in a commit of its own, before anybody else sees it."""
        refusing = that_refuse(aside.runner, messages)
        if not refusing:
            return self._store.publish_many(messages)
        return self._store.publish_new(messages, lambda new: take_places(aside.runner, refusing, new))

    def check(self) -> None:
        if self._ended:
            raise _has_ended()


@dataclass(frozen=True, slots=True)
class _ToExchange:
    exchange: str
    routing_key: str
    envelope: Envelope
    fallback: str | None


class WrittenAtTheEnd:
    """A transaction on an asynchronous connection, for which publishing cannot wait: messages are collected, and
    written when the block ends."""

    def __init__(self, connection: AsyncCallersConnection) -> None:
        self._connection = connection
        self._collected: list[Addressed | _ToExchange] = []
        self._asides: dict[str, Aside] = {}
        self._aside: Aside | None = None
        #: The one that was open when a message was published.
        self._transaction: object = None
        self._ended = False

    def end(self) -> None:
        self._ended = True

    def publish(self, messages: Sequence[Addressed], aside: Aside) -> None:
        self._begin(aside)
        self._collected += messages
        self._asides.update((queue, aside) for queue, _ in messages)

    def publish_to_exchange(
        self, exchange: str, routing_key: str, envelope: Envelope, fallback: str | None, aside: Aside
    ) -> None:
        self._begin(aside)
        self._collected.append(_ToExchange(exchange, routing_key, envelope, fallback))
        if fallback:
            self._asides[fallback] = aside

    async def write(self) -> None:
        """Write what was collected: all of it, or nothing, and then the transaction remains usable.

        Raises:
            NotPublishedError: nothing was published.
            RateLimited: a rate limit refuses one of them.
            SchemaError: the tables or the rights are missing.
        """
        import asyncio  # who writes here has loaded it

        if not self._collected:
            return
        store = AsyncCallersPublishStore(self._connection)
        try:
            await self._connection.check_transaction(self._transaction)
            async with self._connection.all_or_nothing():
                for portion in _portions(await self._addressed(store)):
                    # Others' statements are on connections of psycopg2, which would stop the event loop.
                    publish = store.publish_many
                    if has_unique(portion):
                        publish = partial(self._publish_unique, store)
                    untaken = await publish(portion)
                    if untaken and not has_unique(portion):
                        admitted = await asyncio.to_thread(self._admit, portion)
                        if admitted is not None:
                            portion = admitted
                            untaken = await publish(portion)
                    if untaken:
                        await asyncio.to_thread(self._declare, untaken)
                        if await publish(portion):
                            raise _older_than_queue()
        except NotPublishedError as error:
            if self._aside is not None:
                await asyncio.to_thread(_catch_up, error, self._aside)
            raise
        finally:
            self._collected = []

    async def _addressed(self, store: AsyncCallersPublishStore) -> list[Addressed]:
        """All messages in their order, each with its queue."""
        routes: dict[tuple[str, str], list[str]] = {}
        found: list[Addressed] = []
        for one in self._collected:
            if not isinstance(one, _ToExchange):
                found.append(one)
                continue
            key = one.exchange, one.routing_key
            if key not in routes:
                routes[key] = await store.routes(*key)
            queues = routes[key] or ([one.fallback] if one.fallback else [])
            found += [(queue, one.envelope) for queue in queues]
        return found

    async def _publish_unique(self, store: AsyncCallersPublishStore, messages: Sequence[Addressed]) -> list[str]:
        import asyncio

        refusing = await asyncio.to_thread(self._beside, that_refuse, messages)
        if not refusing:
            return await store.publish_many(messages)

        async def take(new: Sequence[Addressed]) -> None:
            await asyncio.to_thread(self._beside, lambda runner, new: take_places(runner, refusing, new), new)

        return await store.publish_new(messages, take)

    def _admit(self, messages: Sequence[Addressed]) -> list[Addressed] | None:
        return self._beside(admit, messages)

    def _beside(
        self, function: Callable[[Runner, Sequence[Addressed]], _Result], messages: Sequence[Addressed]
    ) -> _Result:
        assert self._aside is not None  # noqa: S101  something was published
        try:
            return function(self._aside.runner, messages)
        except Error as error:
            raise NotPublishedError(f"not published, because its limits cannot be read: {primary(error)}") from None

    def _declare(self, queues: Sequence[str]) -> None:
        try:
            for queue in queues:
                self._asides[queue].declare(queue)
        except Error as error:
            raise NotPublishedError(f"not published, because its queue cannot be declared: {primary(error)}") from None

    def _begin(self, aside: Aside) -> None:
        if self._ended:
            raise _has_ended()
        self._aside = aside
        if self._transaction is None:
            self._transaction = self._connection.transaction()


def _portions(messages: Sequence[Addressed]) -> Iterator[Sequence[Addressed]]:
    """The messages in as few statements as possible."""
    begin = characters = 0
    for at, (_, envelope) in enumerate(messages):
        characters += len(envelope.payload)
        if at > begin and (at - begin >= MESSAGES or characters > CHARACTERS):
            yield messages[begin:at]
            begin, characters = at, len(envelope.payload)
    if messages:
        yield messages[begin:]


def _catch_up(error: NotPublishedError, aside: Aside) -> None:
    if error.lagging is not None:
        aside.catch_up(error.lagging)


def _has_ended() -> NotPublishedError:
    return NotPublishedError("the block of publishing_on has ended, and with it its use of the transaction")


def _older_than_queue() -> NotPublishedError:
    return NotPublishedError(
        "the queue was declared just now, and the snapshot of this transaction (REPEATABLE READ or SERIALIZABLE) is "
        "older: roll back and try again, or declare the queue beforehand",
        SERIALIZATION_FAILURE,
    )
