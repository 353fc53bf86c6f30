"""Celery's consumer with four additions: it waits for a usable database, shows when its loop last turned, releases
tasks that a cold shutdown cannot cancel, and restarts on HUP from the folder in which the worker was started."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from random import SystemRandom
from typing import Any

from celery.concurrency.base import BasePool
from celery.exceptions import WorkerShutdown, WorkerTerminate
from celery.worker import consumer, state
from sqlalchemy.exc import DBAPIError

from app.core.settings import ConfigurationError, get_settings
from app.db.checks import DatabaseReadOnly, DatabaseUnfit, check_database, reason
from app.observability import metrics
from app.tasks.llm_provider import provider_class

logger = logging.getLogger(__name__)

#: The pauses between two attempts to use the database double from the first to the longest.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0


class Consumer(consumer.Consumer):
    """Celery's consumer.

    Attributes:
        last_tick: `time.monotonic()` of the latest turn of the consumer's loop; 0.0 before the first.
    """

    last_tick = 0.0

    def __init__(self, *args: Any, **options: Any) -> None:
        _settle_command_line()
        super().__init__(*args, **options)

    def connect(self) -> Any:
        """Return when the database can be used. Celery calls it at start and after each lost connection.

        The database is checked here, before the transport connects, so that the error has the application's words.

        Raises:
            WorkerShutdown: LLM_PROVIDER cannot be imported, or the database lacks what waiting does not bring (tables,
                a permitted role).
        """
        try:
            provider_class(get_settings().llm_provider)
        except ConfigurationError as error:
            logger.critical("%s", error)
            raise WorkerShutdown(os.EX_CONFIG) from None
        dsn = get_settings().dsn
        pauses = _pauses()
        failing = False
        while True:
            state.maybe_shutdown()
            try:
                check_database(get_settings())
            except DatabaseUnfit as error:
                logger.critical("%s", error)
                # EX_CONFIG: a supervisor need not start us again before somebody has acted.
                raise WorkerShutdown(os.EX_CONFIG) from None
            except (DBAPIError, DatabaseReadOnly) as error:
                failing = True
                pause = next(pauses)
                what, why = ("reached", reason(error)) if isinstance(error, DBAPIError) else ("used", str(error))
                logger.error(  # noqa: TRY400  # the cause is in the line; a stack would repeat each few seconds
                    "database %s cannot be %s (%s); next try in %.2f s",
                    dsn.describe(),
                    what,
                    why,
                    pause,
                )
                metrics.count_failed_claim()  # no task can be claimed, which the alert is about
                self._wait(pause)
            else:
                if failing:
                    logger.info("database %s is reachable again", dsn.describe())
                return super().connect()

    def perform_pending_operations(self) -> None:
        """One turn of the blocking loop (`synloop`), which every transport without an event loop runs."""
        self.last_tick = time.monotonic()
        super().perform_pending_operations()

    def register_with_event_loop(self, hub: Any) -> None:
        hub.on_tick.add(self._tick)
        super().register_with_event_loop(hub)

    def cancel_active_requests(self) -> None:
        """End the running tasks. Celery calls it for a cold shutdown (QUIT, a second Ctrl-C).

        Solo and threads cannot end a task from outside: Celery's own attempt raises NotImplementedError, in solo
        inside the task's body, and the task would count as failed. There the worker ends instead, and the messages
        that it had not acknowledged are released.

        Raises:
            WorkerTerminate: the pool cannot cancel.
        """
        if type(self.pool).terminate_job is BasePool.terminate_job:
            raise WorkerTerminate(os.EX_TEMPFAIL)
        super().cancel_active_requests()

    def _tick(self) -> None:
        self.last_tick = time.monotonic()

    def _wait(self, seconds: float) -> None:
        """Wait, but return within 200 ms of a TERM: its handler only sets a flag."""
        deadline = time.monotonic() + seconds
        never = threading.Event()
        while (left := deadline - time.monotonic()) > 0:
            self._tick()
            state.maybe_shutdown()
            never.wait(min(left, 0.2))


def _pauses() -> Iterator[float]:
    """Doubling, and uneven, so that a hundred workers do not come back to a server at the same moment."""
    pause_s = FIRST_PAUSE_S
    while True:
        yield pause_s * SystemRandom().uniform(0.75, 1)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _settle_command_line() -> None:
    """Make the paths of the command line absolute. On HUP Celery executes it once more, from the folder of `--workdir`,
    where a relative `--workdir backend` does not exist."""
    here = os.getcwd()
    for place, word in enumerate(sys.argv):
        if word == "--workdir" and place + 1 < len(sys.argv):
            sys.argv[place + 1] = here
        elif word.startswith("--workdir="):
            sys.argv[place] = f"--workdir={here}"
    if "CELERY_WORKDIR" in os.environ:  # Celery's own name for the option
        os.environ["CELERY_WORKDIR"] = here
    script = getattr(sys.modules["__main__"], "__file__", None) or ""
    if os.path.isabs(script) and os.path.basename(script) == os.path.basename(sys.argv[0]):
        sys.argv[0] = script
