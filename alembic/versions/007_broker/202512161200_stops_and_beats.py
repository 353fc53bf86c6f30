"""Tasks that an operator has stopped by name, and when each entry of a beat was last sent.

The broker's script again (`alembic/frozen/broker_up.sql`; what exists stays): it makes both tables.
There is nothing to undo here: the downgrade of 202512131200, whose script it is, drops them.
"""

from __future__ import annotations

from app.db.scripts import grant_to_app_user, run_frozen

revision = "202512161200"
down_revision = "202512151200"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_frozen("broker_up")
    grant_to_app_user(("kombu_stopped_task", "celery_beat_entry"))


def downgrade() -> None:
    """The tables go with the downgrade of 202512131200."""
