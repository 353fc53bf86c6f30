"""What a worker does for results now and then: it sends overdue chord bodies and deletes expired results."""

from __future__ import annotations

import time

from celery_postgres.database.backoff import uniform
from celery_postgres.results.persistence import PersistentBackend


class Maintenance:
    """Runs in every worker; concurrent runs share the work and never repeat it."""

    #: Any worker sends the body of a chord that has been due for longer.
    OVERDUE_S = 5.0
    INTERVAL_S = 15.0
    CLEANUP_INTERVAL_S = 3600.0
    #: How long one cleanup works at a time: meanwhile the batch writer stores no results.
    CLEANUP_S = 0.5

    def __init__(self, backend: PersistentBackend) -> None:
        self._backend = backend
        self._next_cleanup = time.monotonic() + self.CLEANUP_INTERVAL_S * uniform(0, 1)

    def run(self) -> float:
        """Do what is due. Returns the seconds until the next run."""
        for chord_id in self._backend.chord_store.overdue(self.OVERDUE_S):
            self._backend.send_body(chord_id)
        if self._backend.expires and time.monotonic() >= self._next_cleanup:
            self._next_cleanup = time.monotonic() + self.CLEANUP_INTERVAL_S * uniform(0.8, 1.2)
            if not self.clean(self.CLEANUP_S):
                self._next_cleanup = time.monotonic() + self.INTERVAL_S
        return self.INTERVAL_S * uniform(0.8, 1.2)

    def clean(self, seconds: float) -> bool:
        """Delete what is older than `result_expires`, in batches, for at most `seconds`. Returns whether all of it is
        deleted."""
        until = time.monotonic() + seconds
        age = self._backend.expires.total_seconds()
        results, chords = self._backend.result_store, self._backend.chord_store
        results.drop_old_waiters(age)
        for drop in (results.drop_old_results, results.drop_old_groups, chords.drop_old):
            while drop(age):
                if time.monotonic() > until:
                    return False
        return True
