"""A Kombu client with deadlines: publish, consume, take."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from kombu import Connection, Consumer, Message, Producer, Queue

DEADLINE_S = 25
#: Seconds without a message that count as "no message arrives": several times what a delivery takes.
QUIET_S = 0.25


class Client:
    """One Kombu connection, and a channel to publish and declare on.

    Args:
        url: ``postgresql://…``; the scheme ``sqla+`` is added.
        options: Kombu's transport options.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self.connection = Connection("sqla+" + url, transport_options=options)
        self._inboxes: list[Inbox] = []

    @property
    def channel(self) -> Any:
        """The connection's default channel."""
        return self.connection.default_channel

    def declare(self, *entities: Any) -> None:
        """Declare queues (with their exchanges and bindings) and exchanges."""
        for entity in entities:
            entity(self.channel).declare()

    def publish(self, body: Any, to: Queue | str = "", **properties: Any) -> None:
        """To a queue, declared first, or, with ``exchange`` and ``routing_key``, to an exchange."""
        if isinstance(to, str) and to:
            to = Queue(to)
        if isinstance(to, Queue):
            self.declare(to)
            properties = {"exchange": "", "routing_key": to.name, **properties}
        Producer(self.channel, auto_declare=False).publish(body, **properties)

    def consume(self, *queues: Queue | str, **options: Any) -> Inbox:
        """Consume from now on; ``options`` are those of :class:`Inbox`."""
        inbox = Inbox(self.connection, [Queue(q) if isinstance(q, str) else q for q in queues], **options)
        self._inboxes.append(inbox)
        return inbox

    def get(self, queue: str, **options: Any) -> Message | None:
        """``basic.get``: return a message, or None if none is ready."""
        message: Message | None = Queue(queue)(self.channel).get(**options)
        return message

    def count(self, queue: str) -> int:
        """How many messages are ready, by a passive declare."""
        return int(self.channel.queue_declare(queue, passive=True).message_count)

    def exists(self, queue: str) -> bool:
        """Whether a passive declare finds it."""
        try:
            self.channel.queue_declare(queue, passive=True)
        except self.connection.channel_errors as error:
            assert str(error.reply_code) == "404", error  # noqa: PT017
            return False
        return True

    def close(self) -> None:
        """Close the connection and with it every channel."""
        self.connection.release()


class Inbox:
    """A consumer on a channel of its own.

    Args:
        prefetch: how many messages may be unacknowledged; 0 for any number.
    """

    def __init__(
        self,
        connection: Connection,
        queues: Sequence[Queue],
        *,
        prefetch: int = 0,
        no_ack: bool = False,
        accept: Sequence[str] = ("json", "pickle", "application/data", "text/plain"),
    ) -> None:
        self.connection = connection
        self.channel = connection.channel()
        self.channel.basic_qos(0, prefetch, False)
        self.messages: list[Message] = []
        self.consumer = Consumer(
            self.channel, queues, on_message=self.messages.append, no_ack=no_ack, accept=accept, auto_declare=True
        )
        self.consumer.consume()

    def take(self, count: int = 1, deadline_s: float = DEADLINE_S) -> list[Message]:
        """The next ``count`` messages, in the order of their delivery.

        Raises:
            TimeoutError: when they do not come in time.
        """
        end = time.monotonic() + deadline_s
        while len(self.messages) < count:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{len(self.messages)} of {count} messages came in {deadline_s:g} s")
            self.drain(min(left, 1))
        taken = self.messages[:count]
        del self.messages[:count]
        return taken

    def take_acked(self, count: int = 1, deadline_s: float = DEADLINE_S) -> list[Any]:
        """The payloads of the next ``count`` messages, each acknowledged before the next is waited for."""
        payloads = []
        for _ in range(count):
            (message,) = self.take(1, deadline_s)
            payloads.append(message.payload)
            message.ack()
        return payloads

    def take_until(self, done: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
        """Drain until ``done()``."""
        end = time.monotonic() + deadline_s
        while not done():
            if time.monotonic() > end:
                raise TimeoutError(f"not done after {deadline_s:g} s")
            self.drain(0.2)

    def drain(self, timeout: float) -> None:
        """Wait for ``timeout`` seconds at most, and let the connection deliver what arrives."""
        with contextlib.suppress(TimeoutError):
            self.connection.drain_events(timeout=timeout)

    def nothing(self) -> bool:
        """Whether no message is here and none arrives for ``QUIET_S`` seconds."""
        self.drain(QUIET_S)
        return not self.messages

    def close(self) -> None:
        """Cancel the consumer and close its channel."""
        self.consumer.cancel()
        self.channel.close()
