"""Prometheus metrics of the worker."""

from __future__ import annotations

from celery import Celery


def install(app: Celery) -> None:
    """Make `app`'s workers count what they do."""
