"""A channel: AMQP's verbs on PostgreSQL."""

from __future__ import annotations

from celery_postgres.broker.consuming import ConsumingChannel
from celery_postgres.broker.publishing import PublishingChannel


class Channel(PublishingChannel, ConsumingChannel):
    """Kombu's virtual channel, with everything that is shared in the database: queues, bindings, messages, claims."""

    supports_fanout = True
    closed: bool

    def close(self) -> None:
        """Cancel the consumers; release delivered messages whose tasks have not begun."""
        if self.closed:
            return
        self.closed = True
        for tag in list(self._consumers):
            self.basic_cancel(tag)
        if self._qos is not None:
            self._qos.restore_unacked_once()
        if self.connection is not None:
            self.connection.close_channel(self)
        self.exchange_types = None
