"""The limit that each tenant has by a setting, as the row that a queue has it by."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import psycopg2
from celery import Celery, signals

from app.core.settings import Settings
from celery_postgres import operations
from celery_postgres.errors import CeleryPostgresError, loggable

logger = logging.getLogger(__name__)

#: The key of a limit that holds for each key of a queue.
EACH = "*"


def install(app: Celery, settings: Settings) -> None:
    """Let a worker that is ready give its queues the limit of each tenant, if there is one."""
    if settings.tenant_concurrency:

        def ready(sender: Any, **_: Any) -> None:
            if sender.app is app:
                limit_tenants(app, app.amqp.queues.consume_from, settings.tenant_concurrency)

        signals.worker_ready.connect(ready, weak=False)


def limit_tenants(app: Celery, queues: Iterable[str], concurrency: int) -> None:
    """Set the concurrency of each tenant in those of these queues that have no limit of each key.

    A row that is there counts for more than the setting: an operator has changed it, while everything ran.
    """
    with operations.of(app) as broker:
        for queue in queues:
            try:
                found = broker.limits(queue, key=EACH, cap=1)
                if not found:
                    broker.set_limit(queue, key=EACH, concurrency=concurrency)
                    logger.info("queue %s: each tenant runs %d tasks at once", queue, concurrency)
                elif found[0].concurrency != concurrency:
                    logger.warning(
                        "queue %s: each tenant runs %s tasks at once, by the limit of '*', and not %d, by "
                        "TENANT_CONCURRENCY",
                        queue,
                        "any number of" if found[0].concurrency is None else found[0].concurrency,
                        concurrency,
                    )
            except (CeleryPostgresError, psycopg2.Error) as error:
                logger.warning(
                    "queue %s: TENANT_CONCURRENCY is not set (%s); as the tables' owner: python -m celery_postgres "
                    "limits set %s --key '*' --concurrency %d",
                    queue,
                    loggable(error),
                    queue,
                    concurrency,
                )
