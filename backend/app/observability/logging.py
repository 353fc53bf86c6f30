"""Structured logs of the worker."""

from __future__ import annotations

from celery import Celery


def install(app: Celery) -> None:
    """Make `app`'s workers log one JSON object a line."""
