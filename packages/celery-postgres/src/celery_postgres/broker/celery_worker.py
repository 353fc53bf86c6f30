"""Fitting Celery's worker to this transport: which patches of `compat` apply, and what they need to know."""

from __future__ import annotations

from typing import Any

from celery import signals

from celery_postgres.broker.transaction import at_once
from celery_postgres.compat import (
    error_isolation,
    eta,
    green_kills,
    inspect_stats,
    prefork_messages,
    prefork_pipes,
    prefork_shutdown,
    prompt_acks,
    publish_patience,
    task_continuation,
    task_progress,
    task_start,
    transport_names,
)
from celery_postgres.consumer import poison, worker_report
from celery_postgres.database.address import is_postgresql, masked
from celery_postgres.database.backoff import Backoff
from celery_postgres.database.options import Options
from celery_postgres.errors import is_temporary, loggable


def fit(transport: Any, options: Options) -> None:
    """Patch the parts of Celery's worker that are loaded. Calling it again changes nothing.

    Args:
        transport: the class.
        options: those of this connection.
    """
    error_isolation.install(poison.settle)
    publish_patience.install(transport, is_temporary, loggable, Backoff)
    task_continuation.install(at_once)
    transport_names.install(transport.driver_type, gossip=options.gossip)
    inspect_stats.install(_shown)
    eta.install()
    prefork_shutdown.install()
    prefork_pipes.install()
    prefork_messages.install()
    task_start.install()
    task_progress.install()
    prompt_acks.install()
    green_kills.install()
    worker_report.note_version(options.app_version)


@signals.worker_ready.connect(weak=False)
def _note_worker(sender: Any, **_: Any) -> None:
    worker_report.note_worker(sender.controller)


def _shown(broker: dict[str, Any]) -> dict[str, Any]:
    """What `celery inspect stats` may show of a broker."""
    if not is_postgresql(broker.get("hostname")):
        return broker
    options = broker.get("transport_options") or {}
    hidden = dict.fromkeys({"listen_dsn"} & options.keys(), "**")
    return {**broker, "hostname": masked(broker["hostname"]), "transport_options": {**options, **hidden}}
