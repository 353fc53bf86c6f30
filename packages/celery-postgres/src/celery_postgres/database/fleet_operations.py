"""What an application does with workers and schedules: a part of `celery_postgres.operations`."""

from __future__ import annotations

from celery_postgres.database.fleet_store import FleetStore
from celery_postgres.database.pool import Sessions


class FleetOperations:
    """Drain workers, and change what beats send, while everything runs."""

    _sessions: Sessions

    def drain(self, consumer: int) -> bool:
        """Have a worker end as after SIGTERM: within 1.3 s it takes no new task, and it ends when its tasks have ended.

        Returns:
            False if there is no worker of this id; a worker of a release that does not report itself is none.
        """
        return FleetStore(self._sessions).drain(consumer)

    def forget_worker(self, consumer: int) -> bool:
        """Remove a worker from the list of those that were lost. Returns False if it is not there."""
        return FleetStore(self._sessions).forget(consumer)

    def enable_schedule(self, entry: str) -> bool:
        """Have beats send an entry again, within 5 s. Its next run counts from now: what was due is not made up for.

        Returns:
            False if there is no such entry, or it is enabled.
        """
        return FleetStore(self._sessions).enable(entry)

    def disable_schedule(self, entry: str) -> bool:
        """Let no beat send an entry, from now on; beats of a release before do.

        Returns:
            False if there is no such entry, or it is disabled.
        """
        return FleetStore(self._sessions).disable(entry)

    def run_schedule(self, entry: str) -> bool:
        """Have a beat send an entry once, within 5 s, also if it is disabled. Its schedule stays as it is.

        Returns:
            False if there is no such entry.
        """
        return FleetStore(self._sessions).request(entry)
