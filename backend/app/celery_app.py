"""The Celery application: `celery -A app.celery_app.celery_app worker`.

Broker and result store are the one PostgreSQL database of DATABASE_URL. There is no other broker and no fallback.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from celery import Celery

import celery_postgres
from app import tenant_limits
from app.core.settings import ConfigurationError, Settings, get_settings
from app.observability import logging as worker_logging
from app.observability import metrics, worker_monitoring

TASK_MODULES = ("app.tasks.housekeeping", "app.tasks.maintenance", "app.tasks.llm")


def _build_broker_url(settings: Settings | None = None) -> str:
    """`sqla+postgresql://…` for Kombu, from any form of DATABASE_URL."""
    # Kombu splits a broker URL at semicolons; dsn.url() percent-encodes them.
    return "sqla+" + (settings or get_settings()).dsn.url()


def _build_result_backend(settings: Settings | None = None) -> str:
    """`db+postgresql://…` for Celery, from any form of DATABASE_URL."""
    return "db+" + (settings or get_settings()).dsn.url()


def create_app(settings: Settings | None = None) -> Celery:
    """Return a configured application.

    Raises:
        app.core.settings.ConfigurationError: the environment cannot be used; the message has one line per problem.
    """
    settings = settings or get_settings()
    # From here on sqla+postgresql:// is our own transport, and db+postgresql:// our own result backend.
    celery_postgres.install()
    app = Celery(
        "skeldir",
        amqp="app.task_queues:AMQP",
        task_cls="app.tasks.context:ContextTask",
        include=TASK_MODULES,
        set_as_current=True,
    )
    json_only = ["json"]
    app.conf.update(
        broker_url=_build_broker_url(settings),
        result_backend=_build_result_backend(settings),
        # Accept JSON only: a pickle in a message or a result would run code.
        accept_content=json_only,
        result_accept_content=json_only,
        event_serializer="json",
        result_serializer="json",
        task_serializer="json",
        # A task is acknowledged when it has ended, and is delivered again when its process dies.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_prefetch_multiplier=1,
        # A database restart may delay tasks and results but must not lose them.
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={"connect_timeout": settings.database_connect_timeout},
        database_engine_options={"connect_args": {"connect_timeout": settings.database_connect_timeout}},
        result_backend_always_retry=True,
        result_backend_transport_options={"pickle": settings.celery_result_pickle},
        result_expires=settings.celery_result_expires or None,
        # Alembic creates the tables.
        database_create_tables_at_setup=False,
        timezone="UTC",
        task_track_started=True,
        worker_consumer="app.worker:Consumer",
        # Any number of beats may run: each due entry is sent once.
        beat_scheduler="celery_postgres.beat:Scheduler",
    )
    worker_logging.install(app)
    metrics.install(app)
    worker_monitoring.install(app)
    tenant_limits.install(app, settings)
    if settings.tracing_exporter is not None:
        _trace(settings)
    return app


def _trace(settings: Settings) -> None:
    try:
        from app.observability import tracing
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"TRACING_EXPORTER is set, and the package {error.name} is missing: install the extra `otel`"
        ) from error
    tracing.install(settings)


def _create_for_this_process() -> Celery:
    """Return the application. For the `celery` command, print one line per problem instead of the traceback of the
    import.
    """
    try:
        return create_app()
    except ConfigurationError as error:
        if "celery" not in Path(sys.argv[0]).parts[-2:]:  # …/bin/celery, or …/celery/__main__.py
            raise
        sys.stderr.write(f"{error}\n")
        raise SystemExit(os.EX_CONFIG) from None


celery_app = _create_for_this_process()

# Registered at import, for programs that only publish; workers import them through `include` as well.
from app.tasks import housekeeping, llm, maintenance  # noqa: E402, F401
