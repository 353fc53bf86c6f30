"""What channels need of the transport that carries them. So a channel does not import the transport."""

from __future__ import annotations

from typing import Any, Protocol

from celery_postgres.broker.bulk import Bulk
from celery_postgres.broker.placing import Placing
from celery_postgres.consumer.prefetch import PrefetchBuffer
from celery_postgres.database.pool import Sessions


class Carrier(Protocol):
    """A transport.

    Attributes:
        client: Kombu's `Connection`.
        bulk: collects messages while a block of `celery_postgres.bulk` is open.
        consumes: whether a channel has begun to consume in this process.
        max_decompressed: the transport option.
        placing: finds the databases of queues; None if there is one database.
    """

    client: Any
    bulk: Bulk | None
    max_decompressed: int
    placing: Placing | None
    _callbacks: dict[str, Any]

    @property
    def sessions(self) -> Sessions: ...

    @property
    def buffer(self) -> PrefetchBuffer: ...

    @property
    def consumes(self) -> bool: ...

    def drain_events(self, connection: Any, timeout: float | None = None) -> None: ...

    def close_channel(self, channel: Any) -> None: ...
