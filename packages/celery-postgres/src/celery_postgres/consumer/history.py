"""How long this process keeps attempts at tasks; the result backend sets it."""

from __future__ import annotations

from celery_postgres.database.attempt_store import AttemptStore, Retention
from celery_postgres.database.per_process import PerProcess
from celery_postgres.database.store import Runner


class _Kept:
    retention = Retention()


_kept = PerProcess(_Kept)


def keep(retention: Retention) -> None:
    """Keep attempts for so long from now on."""
    _kept.value.retention = retention


def drop_old(runner: Runner) -> None:
    """Delete what is no longer kept."""
    while AttemptStore(runner).drop_old(_kept.value.retention):
        pass
