"""Publishing many at once, by whatever the installed packages offer."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from celery import Celery

#: The names that were agreed upon; the first that exists is used.
_NAMES = ("batch", "bulk", "publish_batch", "batch_publish", "publishing")


def find(app: Celery) -> Callable[[], AbstractContextManager[Any]] | None:
    """A context manager inside which ``apply_async`` is collected; None where there is none."""
    if not os.environ.get("BENCH_INSTALL"):
        return None
    package = importlib.import_module("celery_postgres")
    for name in _NAMES:
        found = getattr(package, name, None)
        if callable(found):
            return _bound(found, app)
    return None


def _bound(found: Callable[..., Any], app: Celery) -> Callable[[], AbstractContextManager[Any]]:
    def manager() -> AbstractContextManager[Any]:
        try:
            opened: AbstractContextManager[Any] = found(app)
        except TypeError:
            opened = found()
        return opened

    return manager
