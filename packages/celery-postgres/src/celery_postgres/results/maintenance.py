"""What a worker does for results now and then: it sends overdue chord bodies and deletes expired results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

from celery_postgres.database.backoff import uniform
from celery_postgres.database.result_store import FIRST, Position, ResultStore
from celery_postgres.results.expiry import Expiry
from celery_postgres.results.persistence import PersistentBackend


class Maintenance:
    """Runs in every worker; concurrent runs share the work and never repeat it."""

    #: Any worker sends the body of a chord that has been due for longer.
    OVERDUE_S = 5.0
    INTERVAL_S = 15.0
    CLEANUP_INTERVAL_S = 3600.0
    #: How long one cleanup works at a time: meanwhile the batch writer stores no results.
    CLEANUP_S = 0.5
    START_OVER_S = 86_400.0

    def __init__(self, backend: PersistentBackend) -> None:
        self._backend = backend
        self._next_cleanup = time.monotonic() + self.CLEANUP_INTERVAL_S * uniform(0, 1)
        self._position: Position = FIRST
        self._start_over = time.monotonic() + self.START_OVER_S

    def run(self) -> float:
        """Do what is due. Returns the seconds until the next run."""
        for chord_id in self._backend.chord_store.overdue(self.OVERDUE_S):
            self._backend.send_body(chord_id)
        if time.monotonic() >= self._next_cleanup:
            self._next_cleanup = time.monotonic() + self.CLEANUP_INTERVAL_S * uniform(0.8, 1.2)
            if not self.clean(self.CLEANUP_S):
                self._next_cleanup = time.monotonic() + self.INTERVAL_S
        return self.INTERVAL_S * uniform(0.8, 1.2)

    def clean(self, seconds: float) -> bool:
        """Delete what has expired, in batches, for at most `seconds`. Returns whether all of it is deleted."""
        until = time.monotonic() + seconds
        for drop_batch in self._drops():
            while drop_batch():
                if time.monotonic() > until:
                    return False
        return True

    def _drops(self) -> Iterator[Callable[[], bool]]:
        """What deletes one batch each, and returns whether there may be more. Chords come before saved groups, which
        stay as long as their chord."""
        expiry, results, chords = self._backend.expiry, self._backend.result_store, self._backend.chord_store
        if expiry.results is not None:
            results.drop_old_waiters(expiry.results)
        if expiry.results is not None and expiry.failures is not None:
            yield partial(results.drop_old_results, max(expiry.results, expiry.failures))
        if expiry.chords is not None:
            yield partial(chords.drop_old, expiry.chords)
        if expiry.results is not None:
            yield partial(results.drop_old_groups, expiry.results)
        if self._backend.claims() is None:  # or the consumers of this database do it
            yield partial(self._backend.result_store.attempts.drop_old, self._backend.kept)
        if expiry.results != expiry.failures:
            yield partial(self._drop_shorter, expiry, results)

    def _drop_shorter(self, expiry: Expiry, results: ResultStore) -> bool:
        """Delete failures before other results, or other results before failures.

        No index has the state. So each row that is old enough is looked at once, and this process remembers how far it
        has come; once a day it starts over, for results that were stored long after their task had ended.
        """
        ages = {True: expiry.failures, False: expiry.results}
        age, failures = min((age, failures) for failures, age in ages.items() if age is not None)
        if time.monotonic() >= self._start_over:
            self._start_over, self._position = time.monotonic() + self.START_OVER_S, FIRST
        before = self._position
        self._position = results.drop_old_of(age, failures=failures, after=before) or before
        return self._position != before
