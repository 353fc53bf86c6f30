"""Mingle and gossip on this transport.

Celery runs both only for the transports in `Mingle.compatible_transports` and `Gossip.compatible_transports`, by name.
Unnecessary once Celery asks the transport itself, as it does for fanout (`implements.exchange_type`).

With gossip each worker receives the heartbeat of every other, every 2 s: 40 idle workers cost 1,574 transactions a
second and 1.2 cores. What it is for, the database knows without it: which workers live, and which tasks are revoked. So
it is an option. Mingle asks the others once, at a worker's start.
"""

from __future__ import annotations

import sys


def install(name: str, *, gossip: bool) -> None:
    """Say in the steps of Celery's worker that are loaded whether they run on a transport.

    May be called again: a worker decides when its transport has just been made.

    Args:
        name: its `driver_type`.
    """
    for module, step, runs in (("mingle", "Mingle", True), ("gossip", "Gossip", gossip)):
        loaded = sys.modules.get(f"celery.worker.consumer.{module}")
        if loaded is not None:
            transports = getattr(loaded, step).compatible_transports
            (transports.add if runs else transports.discard)(name)
