"""Workers, beats and the schedule: what they report, and what the application knows of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from celery_postgres.database.action_store import LostConsumer
from celery_postgres.database.claim_view_store import Claims
from celery_postgres.database.fleet_view_store import Beat, FleetViewStore, Schedule, Worker
from celery_postgres.readmodel.overdue import Lateness


class Fleet:
    """Reads workers, beats and the schedule.

    Args:
        broker: of the broker's database.
        results: of the results' database.
        lateness: knows the application's schedule.
    """

    def __init__(self, broker: FleetViewStore, results: FleetViewStore, lateness: Lateness) -> None:
        self._broker, self._results, self._lateness = broker, results, lateness

    def lost(self) -> list[LostConsumer]:
        """The consumers that were lost in the last day, the last first."""
        return self._broker.lost()

    def workers(self, claims: Claims | None = None, lost: Sequence[LostConsumer] | None = None) -> list[Worker]:
        """The processes that consume, and the workers that were lost in the last day, these first.

        Args:
            claims: what is claimed, where that was read already.
            lost: the consumers that were lost; the same.
        """
        return self._broker.workers(claims, lost)

    def with_messages(self, task_ids: Sequence[str]) -> set[str]:
        """Those of these tasks whose message is in the database: it waits or is claimed."""
        return set(self._broker.waiting_runs(task_ids))

    def beats(self) -> list[Beat]:
        """The beats of the last day, the ones seen last first."""
        return self._broker.beats()

    def schedules(self) -> list[Schedule]:
        """The entries that a beat has seen, by name."""
        return [self._known(one) for one in self._broker.schedules()]

    def _known(self, one: Schedule) -> Schedule:
        """With what the application knows of an entry, where no beat has reported it."""
        task, schedule = self._lateness.describe(one.entry)
        overdue_s = self._lateness.of(one.entry, one.counts_from or one.last_run_at) if one.enabled else None
        return replace(
            one,
            overdue_s=one.overdue_s if overdue_s is None else overdue_s,
            task=one.task or task,
            schedule=one.schedule or schedule,
        )

    def with_last_runs(self, schedules: Sequence[Schedule]) -> list[Schedule]:
        """The same entries, with what became of the task that each has sent last."""
        ids = [one.last_task_id for one in schedules if one.last_task_id is not None]
        # The result after the message: a task that ends in between is found in the second.
        found = self._broker.waiting_runs(ids)
        found |= self._results.ended_runs(ids)
        return [replace(one, last=found.get(one.last_task_id or "")) for one in schedules]
