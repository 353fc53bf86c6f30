"""Mingle and gossip on this transport.

Celery runs both only for the transports in `Mingle.compatible_transports` and `Gossip.compatible_transports`, by name.
Unnecessary once Celery asks the transport itself, as it does for fanout (`implements.exchange_type`).
"""

from __future__ import annotations

import sys


def install(name: str) -> None:
    """Add a transport's `driver_type` to the steps of Celery's worker that are loaded. May be called again."""
    for module, step in (("mingle", "Mingle"), ("gossip", "Gossip")):
        loaded = sys.modules.get(f"celery.worker.consumer.{module}")
        if loaded is not None:
            getattr(loaded, step).compatible_transports.add(name)
