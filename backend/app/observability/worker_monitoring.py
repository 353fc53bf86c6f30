"""The worker's HTTP server: /metrics, /health, /livez, /readyz."""

from __future__ import annotations

from celery import Celery


def install(app: Celery) -> None:
    """Make `app`'s workers serve metrics and health over HTTP."""
