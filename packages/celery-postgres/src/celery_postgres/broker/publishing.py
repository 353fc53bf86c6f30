"""The verbs of a channel that publish."""

from __future__ import annotations

import json
import os
from typing import Any

from celery_postgres.broker.bulk import PublishBatch
from celery_postgres.broker.callers_transaction import Aside
from celery_postgres.broker.collecting import collecting
from celery_postgres.broker.declaring import DeclaringChannel
from celery_postgres.broker.destinations import AtOnce, Collecting, Destination, WithinTransaction
from celery_postgres.broker.firsts import current_first
from celery_postgres.broker.flow import check_flow
from celery_postgres.broker.placing import note_part
from celery_postgres.broker.transaction import callers_transaction, is_within_block
from celery_postgres.database.driver import Error
from celery_postgres.database.envelope import Envelope
from celery_postgres.database.message_store import MessageStore
from celery_postgres.errors import NotPublishedError, SchemaError

#: How the exchanges of remote control end. Their messages are neither collected nor part of a transaction.
REMOTE_CONTROL = ".pidbox"


class PublishingChannel(DeclaringChannel):
    """Publish messages, each to a queue or to an exchange."""

    #: Text stays text; bytes become base64. Stock reads both by `body_encoding` in the message.
    body_encoding: str | None = None

    def basic_publish(self, message: dict[str, Any], exchange: str, routing_key: str, **_: Any) -> None:
        """Publish a message. To the default exchange the routing key is the queue, which is declared if need be.

        It is one statement and one commit, or part of the transaction of `publishing_on`, or kept by an open bulk.

        Raises:
            psycopg2.OperationalError: it may or may not have been published; Celery tries again.
            FlowError: a key or a `Flow` of it is none.
            NotPublishedError: it was not published; or, of a revoke, some databases of the fleet were not told.
        """
        headers = message.get("headers") or {}
        if not headers.get("retries"):  # its task would be lost
            check_flow(headers.get("task"))
        exchange, routing_key = exchange or "", routing_key or ""
        self._inplace_augment_message(message, exchange, routing_key)
        envelope = Envelope.of(message, self._get_message_priority(message))
        if envelope.unique is not None:
            if (first := current_first()) is not None:
                envelope.unique.found = first.found
            elif envelope.unique.conflict == "return" and "unique_conflict" not in message["headers"]:
                envelope.unique.conflict = "raise"  # else Celery returns an id whose result never comes
        revoked = _revoked(message) if exchange.endswith(REMOTE_CONTROL) else None
        if revoked:  # in the database, because workers forget a revoke after three hours
            MessageStore(self.sessions).mark_revoked(revoked)
        destination = self._destination(exchange, routing_key, message)
        if not exchange:
            destination.to_queue(routing_key, envelope)
        elif not destination.to_exchange(exchange, routing_key, envelope) and self.deadletter_queue:
            if (name := self._elsewhere(self.deadletter_queue)) is not None:
                destination = self._destination_at(name, self.deadletter_queue)
            destination.to_queue(self.deadletter_queue, envelope)
        if revoked is not None:
            self._revoke_elsewhere(revoked, exchange, routing_key, envelope)

    def _destination(self, exchange: str, queue: str, message: dict[str, Any]) -> Destination:
        if exchange.endswith(REMOTE_CONTROL):
            return AtOnce(self.sessions, self._new_queue)
        if self._transport.placing is not None:
            name = None if exchange else self._elsewhere(queue)
            note_part((message.get("headers") or {}).get("group"), name)
            if name is not None:
                return self._destination_at(name, queue)
        sessions, bulk = self.sessions, self._transport.bulk
        transaction = callers_transaction(sessions)
        # A bulk that began outside of the transaction is not part of it.
        if not exchange and bulk is not None and bulk.transaction == transaction:
            return Collecting(bulk, self._routes)
        collected = collecting()
        if collected is not None:
            return Collecting(collected, self._routes)
        if transaction is not None:
            return WithinTransaction(transaction, Aside(sessions, self._declare_here), self.deadletter_queue)
        return AtOnce(sessions, self._new_queue)

    def _destination_at(self, name: str, queue: str) -> Destination:
        """Another database of the fleet, in a transaction of its own: whatever collects messages collects those of this
        channel's database."""
        if is_within_block():
            raise _in_another(queue, name)
        sessions = self._placing.sessions(name)
        transaction = callers_transaction(sessions)
        if transaction is not None:
            return WithinTransaction(transaction, Aside(sessions, self._new_queue), None)
        return AtOnce(sessions, self._new_queue)

    def _declare_here(self, queue: str) -> None:
        """For a caller's transaction in this channel's database."""
        if (name := self._elsewhere(queue)) is not None:
            raise _in_another(queue, name)
        self._new_queue(queue)

    def _routes(self, exchange: str, routing_key: str) -> list[str]:
        return list(self.queues.routes(exchange, routing_key))

    def create_publish_batch(self, max_size: int) -> PublishBatch:
        return PublishBatch(self, max_size)

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        envelope = Envelope.of(message, self._get_message_priority(message))
        name = self._elsewhere(queue)
        sessions = self.sessions if name is None else self._placing.sessions(name)
        AtOnce(sessions, self._new_queue).to_queue(queue, envelope)

    def _next_delivery_tag(self) -> str:
        # Only stock's consumers use it, and need a unique one; a UUID takes 2.2 us, of the 13 us of a publish that are
        # this package's.
        return os.urandom(16).hex()

    def _inplace_augment_message(self, message: dict[str, Any], exchange: str, routing_key: str) -> None:
        encoding = self.body_encoding or ("base64" if isinstance(message["body"], bytes) else "utf-8")
        message["body"], encoding = self.encode_body(message["body"], encoding)
        properties = message["properties"]
        properties.update(body_encoding=encoding, delivery_tag=self._next_delivery_tag())
        properties["delivery_info"].update(exchange=exchange, routing_key=routing_key)

    def _revoke_elsewhere(self, revoked: list[str], exchange: str, routing_key: str, envelope: Envelope) -> None:
        """Mark the waiting messages of revoked tasks in the other databases too, and tell their workers: it is not
        known which database has the task. One that cannot be reached keeps it from no other.

        Raises:
            NotPublishedError: some of them could not be told. The text names them.
        """
        if self._transport.placing is None:
            return
        untold: dict[str, Exception] = {}
        for name, sessions in self._placing.others():
            try:
                if revoked:
                    MessageStore(sessions).mark_revoked(revoked)
                AtOnce(sessions, self._new_queue).to_exchange(exchange, routing_key, envelope)
            except (Error, SchemaError) as error:
                untold[name] = error
        if untold:
            raise NotPublishedError(
                f"the revoke did not reach the database {', '.join(untold)}: it is marked everywhere else. Revoke the "
                "task again when that can be reached"
            ) from next(iter(untold.values()))


def _revoked(message: dict[str, Any]) -> list[str] | None:
    """The ids of the tasks that a command of remote control revokes; None if it is another command."""
    try:
        command = json.loads(message["body"])
    except ValueError:
        return None
    if not isinstance(command, dict) or command.get("method") != "revoke":
        return None
    arguments = command.get("arguments")
    ids = arguments.get("task_id") if isinstance(arguments, dict) else None
    ids = [ids] if isinstance(ids, str) else ids
    return [str(one) for one in ids] if isinstance(ids, list) else []


def _in_another(queue: str, name: str) -> NotPublishedError:
    return NotPublishedError(
        f"the queue {queue!r} is in the database {name}, and the transaction of publishing_on is in another: publish "
        "when it has committed",
        lasting=True,
    )
