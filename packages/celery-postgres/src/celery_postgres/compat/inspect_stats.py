"""`celery inspect stats` without the broker's password.

Celery removes the password from the parameters of the connection; but for a transport that parses its own URL, Kombu
keeps the whole URL as the host, with the password in it. Celery's issue 5637 is the same for the banner, and its issue
10484 was the same for the URLs of a failover. Unnecessary once Celery masks each value of this answer that is a URL.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

Broker = dict[str, Any]


def install(shown: Callable[[Broker], Broker]) -> None:
    """Patch Celery's worker, if it is loaded. Calling it again changes nothing.

    Args:
        shown: returns what may be shown of a broker.
    """
    loaded: Any = sys.modules.get("celery.worker.consumer.connection")
    if loaded is not None and not hasattr(loaded.Connection.info, "celery_postgres"):
        loaded.Connection.info = _masking(loaded.Connection.info, shown)


def _masking(original: Any, shown: Callable[[Broker], Broker]) -> Any:
    @wraps(original)
    def info(self: Any, consumer: Any, **options: Any) -> dict[str, Any]:
        stats: dict[str, Any] = original(self, consumer, **options)
        if isinstance(stats.get("broker"), dict):
            stats["broker"] = shown(stats["broker"])
        return stats

    info.celery_postgres = True  # type: ignore[attr-defined]
    return info
