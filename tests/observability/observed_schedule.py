"""A schedule for a beat; loaded into test workers with `-I`."""

from __future__ import annotations

from app.celery_app import celery_app

celery_app.conf.beat_schedule = {"observed-hourly": {"task": "observed.returns", "schedule": 3600, "args": ["x"]}}
