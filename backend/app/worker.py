"""Celery's consumer with four additions: it waits for a usable database, it can be seen to tick, a cold shutdown gives
tasks back that cannot be cancelled, and HUP finds the way back to where the worker was started."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from typing import Any

from celery.concurrency.base import BasePool
from celery.exceptions import WorkerShutdown, WorkerTerminate
from celery.worker import consumer, state
from sqlalchemy.exc import DBAPIError

from app.core.settings import ConfigurationError, get_settings
from app.db.checks import DatabaseReadOnly, DatabaseUnfit, check_database, reason
from app.tasks.llm_provider import provider_class
from celery_postgres import observer
from celery_postgres.database.backoff import Backoff

logger = logging.getLogger(__name__)


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
        """Called at start and after each lost connection: return when the database can be worked with.

        Whether the database is fit is asked here, in words of the application, before the transport connects.

        Raises:
            WorkerShutdown: LLM_PROVIDER cannot be imported, or the database lacks what no waiting brings (tables, a
                permissible role).
        """
        try:
            provider_class(get_settings().llm_provider)
        except ConfigurationError as error:
            logger.critical("%s", error)
            raise WorkerShutdown(os.EX_CONFIG) from None
        dsn = get_settings().dsn
        retry = Backoff()
        while True:
            state.maybe_shutdown()
            try:
                check_database(get_settings())
            except DatabaseUnfit as error:
                logger.critical("%s", error)
                # EX_CONFIG: a supervisor need not start us again before somebody has acted.
                raise WorkerShutdown(os.EX_CONFIG) from None
            except (DBAPIError, DatabaseReadOnly) as error:
                pause = retry.failed()
                what, why = ("reached", reason(error)) if isinstance(error, DBAPIError) else ("used", str(error))
                logger.error(  # noqa: TRY400  # the cause is in the line; a stack would repeat each few seconds
                    "database %s cannot be %s (%s); next try in %.2f s",
                    dsn.describe(),
                    what,
                    why,
                    pause,
                )
                observer.claim_failed()  # nothing can be taken, for an alert as for us
                self._wait(pause)
            else:
                if retry.failing:
                    logger.info("database %s is back", dsn.describe())
                return super().connect()

    def perform_pending_operations(self) -> None:
        """One turn of the blocking loop (`synloop`), which every transport without an event loop runs."""
        self.last_tick = time.monotonic()
        super().perform_pending_operations()

    def register_with_event_loop(self, hub: Any) -> None:
        hub.on_tick.add(self._tick)
        super().register_with_event_loop(hub)

    def cancel_active_requests(self) -> None:
        """Called for a cold shutdown (QUIT, a second Ctrl-C) to end the running tasks.

        Solo and threads cannot end a task from outside: Celery's own attempt raises NotImplementedError, in solo
        inside the task's body, and the task would count as failed. There the worker ends instead, and what was
        not acknowledged comes back.

        Raises:
            WorkerTerminate: the pool cannot cancel.
        """
        if type(self.pool).terminate_job is BasePool.terminate_job:
            raise WorkerTerminate(os.EX_TEMPFAIL)
        super().cancel_active_requests()

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


def _settle_command_line() -> None:
    """Make the paths absolute with which Celery begins again on HUP: it executes its own command line once more, and is
    by then in the folder of `--workdir`, from where `--workdir backend` leads nowhere."""
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
