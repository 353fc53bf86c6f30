"""Which transactions a statement could see."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Snapshot:
    """PostgreSQL's `pg_snapshot`. A transaction has a number from its first write on; one that only reads has none.

    Attributes:
        next_id: the number after the greatest of those that had ended (`xmax`). Transactions with this number and
            greater ones may run, too.
        running: the lower numbers of transactions that had not ended.
    """

    next_id: int
    running: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """From PostgreSQL's text, `xmin:xmax:running,…`."""
        _, next_id, running = text.split(":")
        return cls(int(next_id), tuple(map(int, running.split(","))) if running else ())
