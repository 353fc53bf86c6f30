"""Tasks that end in every way a task can end, quoting what they were given; loaded into test workers with `-I`."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from pathlib import Path
from typing import Any

from celery import shared_task
from celery.exceptions import Ignore, Reject
from celery.utils.log import get_task_logger
from celery.worker import state
from prometheus_client import Counter, Gauge, Histogram
from sqlalchemy import text

from app.db.engine import get_engine
from app.tasks.context import tenant_task

logger = get_task_logger(__name__)
stranger = logging.getLogger("some.library")

CALLS = Counter("observed_calls_total", "Calls of observed.counts.", ["parity"])
SIZES = Histogram("observed_sizes", "Numbers given to observed.counts.", buckets=(1, 10, 100))
BUSY = Gauge("observed_busy", "Processes in observed.counts.", multiprocess_mode="livesum")


class ExpectedError(Exception):
    pass


@shared_task(bind=True, name="observed.returns")
def returns(self: Any, value: Any, **more: Any) -> Any:
    return value


@shared_task(bind=True, name="observed.tenant")
@tenant_task
def tenant(self: Any, tenant_id: str, correlation_id: str | None = None) -> None:
    logger.info("for a tenant")


@shared_task(bind=True, name="observed.nobody")
def nobody(self: Any) -> None:
    logger.info("for nobody")


@shared_task(bind=True, name="observed.fails")
def fails(self: Any, value: str) -> None:
    try:
        {}[value]
    except KeyError as error:
        problem = ValueError(f"cannot use {value}")
        problem.add_note(value)
        raise problem from error


@shared_task(bind=True, name="observed.fails_as_expected", throws=(ExpectedError,))
def fails_as_expected(self: Any, value: str) -> None:
    raise ExpectedError(value)


@shared_task(bind=True, name="observed.fails_in_the_database")
def fails_in_the_database(self: Any, value: str) -> None:
    with get_engine().begin() as connection:
        connection.execute(text("CREATE TEMPORARY TABLE things (name text CONSTRAINT one_of_each UNIQUE)"))
        connection.execute(text("INSERT INTO things VALUES (:value), (:value)"), {"value": value})


@shared_task(bind=True, name="observed.retries")
def retries(self: Any, value: str) -> str:
    if self.request.retries == 0:
        raise self.retry(exc=ValueError(value), countdown=0.1, max_retries=1)
    return value


@shared_task(bind=True, name="observed.gives_up")
def gives_up(self: Any, value: str) -> None:
    raise self.retry(max_retries=0)


@shared_task(bind=True, name="observed.rejects")
def rejects(self: Any, value: str) -> None:
    raise Reject(value, requeue=False)


@shared_task(bind=True, name="observed.ignores")
def ignores(self: Any, value: str) -> None:
    raise Ignore(value)


@shared_task(bind=True, name="observed.returns_an_object")
def returns_an_object(self: Any, value: str) -> Any:
    class Thing:
        def __repr__(self) -> str:
            return value

    return Thing()


@shared_task(bind=True, name="observed.says")
def says(self: Any, value: str) -> None:
    """Everything that writes: what is ours to log is logged, what may quote is not."""
    logger.info("own line", extra={"password": value, "api_key": value, "things": [value], "prompt_tokens": 7})
    logger.error("went wrong: %s", ValueError(value))
    logger.info("at postgresql://me:%s@host/db", value)
    stranger.warning("got %s and %r after %d tries", value, {"a": value}, 3)
    stranger.error("went wrong", exc_info=ValueError(value))
    warnings.warn(value, stacklevel=1)
    warnings.warn("old way", FutureWarning, stacklevel=1)

    def die() -> None:
        raise ValueError(value)

    thread = threading.Thread(target=die, name="short-lived")
    thread.start()
    thread.join()
    print("printed")  # noqa: T201


@shared_task(bind=True, name="observed.revokes")
def revokes(self: Any, task_id: str) -> None:
    """Where the pool shares the worker's process."""
    state.revoked.add(task_id)


@shared_task(bind=True, name="observed.waits_for")
def waits_for(self: Any, path: str, value: str = "") -> int:
    """Hold the slot until `path` is removed."""
    Path(path).touch()
    pause = threading.Event()
    while Path(path).exists():
        pause.wait(0.02)
    return os.getpid()


@shared_task(bind=True, name="observed.dies_once")
def dies_once(self: Any, path: str) -> int:
    try:
        Path(path).open("x").close()
    except FileExistsError:
        return os.getpid()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@shared_task(bind=True, name="observed.takes_too_long", time_limit=0.5)
def takes_too_long(self: Any, value: str) -> None:
    threading.Event().wait(60)


@shared_task(bind=True, name="observed.counts")
def counts(self: Any, number: int) -> int:
    CALLS.labels("even" if number % 2 == 0 else "odd").inc()
    SIZES.observe(number)
    BUSY.set(1)
    return os.getpid()
