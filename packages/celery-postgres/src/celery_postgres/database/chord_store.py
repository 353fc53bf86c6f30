"""Chords. `ResultStore.record` counts their parts; everything else that happens to a chord is here."""

from __future__ import annotations

from dataclasses import dataclass

from celery_postgres.database.envelope import Envelope, columns
from celery_postgres.database.slow_commits import woken_if_slow
from celery_postgres.database.store import Store


@dataclass(frozen=True, slots=True)
class ChordPart:
    """A part of a chord that is due. `result` is serialized; None if the result was deleted."""

    task_id: str
    status: str
    result: bytes | None


@dataclass(frozen=True, slots=True)
class DueChord:
    """A chord all of whose parts have returned.

    Attributes:
        body: the signature of its body, as JSON.
        shaped: the shape of the header is saved, as a group under the chord's id.
        parts: in the order of the header.
    """

    body: str
    shaped: bool
    parts: list[ChordPart]


class ChordStore(Store):
    """Size, read, finish and delete chords."""

    #: Rows that one statement deletes at most.
    BATCH = 1000

    def size(self, chord_id: str, size: int) -> bool:
        """Record the number of parts; the first one recorded wins. Returns whether the body is due now."""
        ((_, due),) = self._run("size_chord", chord=chord_id, size=size)
        return bool(due)

    def enlarge(self, chord_id: str) -> None:
        """Add one part."""
        self._run("enlarge_chord", chord=chord_id)

    def due(self, chord_id: str) -> DueChord | None:
        """The chord with the results of its parts; None if it is not due, or another process has ended it."""
        rows = self._run("chord_parts", chord=chord_id)
        if not rows:
            return None
        return DueChord(
            body=rows[0][0],
            shaped=rows[0][1],
            parts=[
                ChordPart(task_id, status, None if result is None else bytes(result))
                for _, _, task_id, status, result in rows
            ],
        )

    def overdue(self, seconds: float) -> list[str]:
        """The ids of up to 100 chords that have been due for longer than `seconds`."""
        return [chord_id for (chord_id,) in self._run("overdue_chords", seconds=seconds)]

    def finish(self, chord_id: str, messages: list[tuple[str, Envelope]]) -> list[str]:
        """Publish the messages of the body and delete the chord, in one commit. Of several processes one does it.

        Args:
            messages: each with the name of its queue.

        Returns:
            The queues that do not exist; if there is one, nothing has happened.
        """
        queues = [queue for queue, _ in messages]
        soon = [queue for queue, envelope in messages if envelope.is_soon]
        with woken_if_slow(self._run, "wake_by_name", queues=soon):
            ((missing, _),) = self._run(
                "finish_chord", chord=chord_id, queues=queues, **columns([envelope for _, envelope in messages])
            )
        return missing or []

    def end(self, chord_id: str) -> bool:
        """Delete a chord whose body was published in another database. Returns whether it was still there."""
        ((ended,),) = self._run("end_chord", chord=chord_id)
        return bool(ended)

    def drop_old(self, seconds: float) -> bool:
        """Delete one batch of the chords older than `seconds`. Returns whether there may be more."""
        ((count,),) = self._run("drop_old_chords", seconds=seconds, batch=self.BATCH)
        return bool(count == self.BATCH)
