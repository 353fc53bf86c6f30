"""Django drops a test database only if nobody is connected to it: the connections of this process are closed first.

A publish leaves an idle connection behind, as with any pool. `DROP DATABASE` refuses while there is one, and the tests
of a project would end with an error. Unnecessary once Django drops test databases WITH (FORCE).
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from celery_postgres.database import pool


def install() -> None:
    """Wrap Django's `destroy_test_db`. Calling it again changes nothing."""
    from django.db.backends.base.creation import BaseDatabaseCreation

    if not hasattr(BaseDatabaseCreation.destroy_test_db, "celery_postgres"):
        BaseDatabaseCreation.destroy_test_db = _closing(BaseDatabaseCreation.destroy_test_db)


def _closing(original: Any) -> Any:
    @wraps(original)
    def destroy_test_db(self: Any, *arguments: Any, **options: Any) -> Any:
        if self.connection.vendor == "postgresql":
            pool.close_all()
        return original(self, *arguments, **options)

    destroy_test_db.celery_postgres = True  # type: ignore[attr-defined]
    return destroy_test_db
