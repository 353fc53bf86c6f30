"""What a process asks about the schema: which migrations are recorded."""

from __future__ import annotations

from celery_postgres.database.store import Store


class SchemaStore(Store):
    """The tables as a whole."""

    def version(self) -> int | None:
        """The number up to which every migration is applied; None if no migration is recorded."""
        ((recorded,),) = self._run("find_migrations")
        if not recorded:
            return None
        ((number,),) = self._run("migrated_to")
        return int(number)
