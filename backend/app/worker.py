"""Celery's consumer with two additions: it waits for a usable database, and it can be seen to tick."""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import Any

from celery import signals
from celery.exceptions import WorkerShutdown
from celery.worker import consumer, state
from sqlalchemy.exc import DBAPIError

from app.core.settings import get_settings
from app.db.checks import DatabaseUnfit, check_database, reason

logger = logging.getLogger(__name__)

#: sysexits.h, EX_CONFIG: a supervisor need not start us again before somebody has acted.
EX_CONFIG = 78
FIRST_DELAY_S, LONGEST_DELAY_S = 0.5, 30.0


class Consumer(consumer.Consumer):
    """Celery's consumer.

    Attributes:
        last_tick: `time.monotonic()` of the latest turn of the consumer's loop; 0.0 before the first.
    """

    last_tick = 0.0

    def connect(self) -> Any:
        """Called at start and after each lost connection: return when the database can be worked with.

        The stock transport connects at first use and then fails without waiting, so the back-off is here.

        Raises:
            WorkerShutdown: the database lacks what no waiting brings (tables, a permissible role).
        """
        dsn = get_settings().dsn
        delay = FIRST_DELAY_S
        while True:
            state.maybe_shutdown()
            try:
                check_database(get_settings())
            except DatabaseUnfit as error:
                logger.critical("%s", error)
                raise WorkerShutdown(EX_CONFIG) from None
            except DBAPIError as error:
                logger.error(  # noqa: TRY400  # the cause is in the line; a stack would repeat each few seconds
                    "database %s cannot be reached (%s); next try in %.1f s",
                    dsn.describe(),
                    reason(error),
                    delay,
                )
                self._wait(delay * random.uniform(0.75, 1.25))  # noqa: S311  # jitter, not a secret
                delay = min(delay * 2, LONGEST_DELAY_S)
            else:
                if delay > FIRST_DELAY_S:
                    logger.info("database %s is back", dsn.describe())
                return super().connect()

    def perform_pending_operations(self) -> None:
        """One turn of the blocking loop (`synloop`), which every transport without an event loop runs."""
        self.last_tick = time.monotonic()
        super().perform_pending_operations()

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """As Celery's, which discards such a message without the signal that it gives of other unreadable ones."""
        super().on_decode_error(message, exc)
        signals.task_rejected.send(sender=self, message=message, exc=exc)

    def register_with_event_loop(self, hub: Any) -> None:
        hub.on_tick.add(self._tick)
        super().register_with_event_loop(hub)

    def _tick(self) -> None:
        self.last_tick = time.monotonic()

    def _wait(self, seconds: float) -> None:
        """Wait, but end within 200 ms of a TERM: its handler only sets a flag."""
        deadline = time.monotonic() + seconds
        never = threading.Event()
        while (left := deadline - time.monotonic()) > 0:
            self._tick()
            state.maybe_shutdown()
            never.wait(min(left, 0.2))
