"""Where the worker is in its life, and whether its loop turns."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from celery.worker import state

#: Seconds without a turn of the consumer's loop (which turns every 2 s when there is nothing to do, and at least every
#: 5 s or so while it looks for its database), or of a pool that has a task to take.
LONGEST_TURN_S = 60.0


@dataclass(slots=True)
class WorkerState:
    """What a worker's main process knows of itself.

    Attributes:
        worker: Celery's WorkController.
        ready: it takes tasks, or took them until it began to drain.
        signalled: TERM, QUIT or INT was received.
        untaken_since: monotonic time since when tasks were handed to the pool and it runs none; None if it does.
    """

    worker: Any
    ready: bool = False
    signalled: bool = False
    untaken_since: float | None = None
    born: float = field(default_factory=time.monotonic)

    @property
    def draining(self) -> bool:
        """It takes no new tasks, because of a signal or of a remote `shutdown`."""
        # Celery's flags hold an exit status, 0 included; None and False mean that nobody asked.
        asked = any(flag is not None and flag is not False for flag in (state.should_stop, state.should_terminate))
        return self.signalled or asked

    @property
    def since_tick(self) -> float:
        """Seconds since the consumer's loop turned, or since the worker was made if it has not yet."""
        tick = getattr(getattr(self.worker, "consumer", None), "last_tick", 0.0)
        return time.monotonic() - max(tick, self.born)

    def look(self) -> None:
        """See whether the pool takes what it is given; to be called every few seconds."""
        # Lengths of weak sets: safe while other threads add and discard.
        untaken = len(state.reserved_requests) > 0 and len(state.active_requests) == 0
        self.untaken_since = (self.untaken_since or time.monotonic()) if untaken else None

    def stuck(self, database_well_since: float | None) -> str | None:
        """Why only a restart would help; None if it would not, or nothing is wrong.

        A running task is life, however long it takes: time limits are there to end it. While the database is
        away the loop may hang in a connection to it, and a restart would change nothing; if a new connection has
        worked all the while, the loop hangs in a dead one, and it would.

        A pool that takes no task is stuck whatever the database does. billiard's blocking pool, which transports
        without an event loop get, is so when an idle child is killed: all read one pipe in turn, and the dead child
        keeps the lock (billiard.queues.SimpleQueue.get_payload).
        """
        if self.untaken_since is not None and time.monotonic() - self.untaken_since > LONGEST_TURN_S:
            return f"the pool has taken no task for {time.monotonic() - self.untaken_since:.0f} s, and some wait for it"
        since_tick = self.since_tick
        if since_tick <= LONGEST_TURN_S or state.active_requests or self.draining:
            return None
        if database_well_since is None or time.monotonic() - database_well_since <= LONGEST_TURN_S:
            return None
        return f"the consumer's loop has not turned for {since_tick:.0f} s"
