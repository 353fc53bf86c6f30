"""Publishing many at once, by whatever the installed packages offer."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from celery import Celery


def is_offered() -> bool:
    """Whether there is a way at all."""
    return bool(os.environ.get("BENCH_INSTALL")) and hasattr(importlib.import_module("celery_postgres"), "bulk")


@contextmanager
def together(app: Celery) -> Iterator[Any]:
    """A producer whose publishes within the block go out together."""
    bulk: Any = importlib.import_module("celery_postgres").bulk
    sending: AbstractContextManager[Any]
    with app.producer_or_acquire() as producer, bulk(producer) as sending:
        yield sending
