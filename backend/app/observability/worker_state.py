"""The phase of the worker's life, and whether its loop turns."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from celery.worker import state

#: Seconds without a turn of the consumer's loop (which turns every 2 s when idle, and at least about every 5 s while it
#: tries to reach its database), or of a pool that has a task to take.
LONGEST_TURN_S = 60.0


@dataclass(slots=True)
class WorkerState:
    """What a worker's main process knows about itself.

    Attributes:
        worker: Celery's WorkController.
        ready: it takes tasks, or took them until it began to drain.
        signalled: TERM, QUIT or INT was received.
        untaken_since: monotonic time since when the pool has been given tasks and runs none; None if it runs one.
    """

    worker: Any
    ready: bool = False
    signalled: bool = False
    untaken_since: float | None = None
    born: float = field(default_factory=time.monotonic)

    @property
    def draining(self) -> bool:
        """Whether it takes no new tasks, because of a signal or of a remote `shutdown`."""
        # Celery's flags hold an exit status, 0 included; None and False mean that nothing was requested.
        asked = any(flag is not None and flag is not False for flag in (state.should_stop, state.should_terminate))
        return self.signalled or asked

    @property
    def since_tick(self) -> float:
        """Seconds since the consumer's loop turned, or since the worker was created if it has not turned yet."""
        tick = getattr(getattr(self.worker, "consumer", None), "last_tick", 0.0)
        return time.monotonic() - max(tick, self.born)

    def look(self) -> None:
        """Check whether the pool takes its tasks; call it every few seconds."""
        # Lengths of weak sets: safe while other threads add and discard.
        untaken = len(state.reserved_requests) > 0 and len(state.active_requests) == 0
        self.untaken_since = (self.untaken_since or time.monotonic()) if untaken else None

    def stuck(self, database_well_since: float | None) -> str | None:
        """Why only a restart would help; None if it would not, or nothing is wrong.

        A running task counts as life, however long it takes: time limits exist to end it. While the database is
        unreachable, the loop may hang in a connection to it, and a restart would not help. If a new connection has
        worked all the time, the loop hangs in a dead one, and a restart would help.

        A pool that takes no task is stuck whatever the state of the database. This happens to billiard's blocking pool,
        which transports without an event loop get, when an idle child is killed: all children read one pipe in turn,
        and the dead child keeps the lock (billiard.queues.SimpleQueue.get_payload).
        """
        if self.untaken_since is not None and time.monotonic() - self.untaken_since > LONGEST_TURN_S:
            return f"the pool has taken no task for {time.monotonic() - self.untaken_since:.0f} s, while some wait"
        since_tick = self.since_tick
        if since_tick <= LONGEST_TURN_S or state.active_requests or self.draining:
            return None
        if database_well_since is None or time.monotonic() - database_well_since <= LONGEST_TURN_S:
            return None
        return f"the consumer's loop has not turned for {since_tick:.0f} s"
