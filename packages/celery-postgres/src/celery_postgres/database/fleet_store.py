"""What operators do with workers and schedules."""

from __future__ import annotations

from celery_postgres.database.store import Store


class FleetStore(Store):
    """Drain workers; enable, disable and send entries of the schedule."""

    def drain(self, consumer: int) -> bool:
        """Have a worker end when its tasks have ended. Returns False if none of this id reports itself."""
        return bool(self._run("drain_worker", consumer=consumer))

    def forget(self, consumer: int) -> bool:
        """Remove a worker from those that were lost. Returns False if it was none."""
        return bool(self._run("forget_worker", consumer=consumer))

    def enable(self, entry: str) -> bool:
        """Have an entry sent again; its next run counts from now. Returns False if it is not disabled."""
        return bool(self._run("enable_entry", entry=entry))

    def disable(self, entry: str) -> bool:
        """Have an entry no longer sent. Returns False if it is not enabled."""
        return bool(self._run("disable_entry", entry=entry))

    def request(self, entry: str) -> bool:
        """Have an entry sent once, now. Returns False if there is none."""
        return bool(self._run("request_entry", entry=entry))
