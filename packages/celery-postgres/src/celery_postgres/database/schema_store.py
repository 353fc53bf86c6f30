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

    def hold(self, key: int) -> int:
        """Hold a lock until the transaction ends. Returns the oid of the messages' table; 0 without one."""
        ((table, _),) = self._run("hold_key", key=key)
        return int(table)

    def sees_held(self, key: int) -> int | None:
        """The same oid, if another session holds this lock in this database; else None."""
        ((table,),) = self._run("sees_held_key", key=key)
        return None if table is None else int(table)
