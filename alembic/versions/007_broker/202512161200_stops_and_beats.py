"""Tasks that an operator has stopped by name, and when each entry of a beat was last sent.

The broker's script again (`celery_postgres/sql/broker_up.sql`; what is there already stays): it makes both tables.
There is nothing to undo here: the downgrade of 202512131200, whose script it is, drops them.
"""

from __future__ import annotations

from alembic import op

from celery_postgres.statements import script

revision = "202512161200"
down_revision = "202512151200"
branch_labels = None
depends_on = None

#: What a worker under app_user needs on what was made for it by another role.
GRANT_TO_APP_USER = """
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'app_user') AND EXISTS (
        SELECT FROM pg_class WHERE oid = 'public.kombu_stopped_task'::regclass AND relowner <> 'app_user'::regrole
    ) THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON public.kombu_stopped_task, public.celery_beat_entry TO app_user;
    END IF;
END
$$
"""


def upgrade() -> None:
    for statements in ("SET LOCAL search_path = public", script("broker_up"), GRANT_TO_APP_USER):
        # As one string without parameters: a % stays a %.
        op.get_bind().exec_driver_sql(statements, execution_options={"no_parameters": True})


def downgrade() -> None:
    """The tables go with the downgrade of 202512131200."""
