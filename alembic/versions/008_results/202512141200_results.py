"""What celery_postgres adds to stock Celery's result tables: chords that are counted, and who waits for what.

The statements are the package's own (`celery_postgres/sql/results_up.sql` and `results_down.sql`), which other projects
run through `celery_postgres.create_schema(engine)`. Stock backends go on reading and writing the results.

The downgrade refuses while chords are under way, whose bodies would never run, unless told
`alembic -x discard-chords downgrade …`.
"""

from __future__ import annotations

from alembic import context, op
from alembic.util import CommandError

from celery_postgres.statements import script

revision = "202512141200"
down_revision = "202512131300"
branch_labels = None
depends_on = None

#: What a worker under app_user needs on what was made for it by another role.
GRANT_TO_APP_USER = """
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'app_user') AND EXISTS (
        SELECT FROM pg_class WHERE oid = 'public.celery_chord'::regclass AND relowner <> 'app_user'::regrole
    ) THEN
        GRANT SELECT, INSERT, UPDATE, DELETE
        ON public.celery_chord, public.celery_chord_part, public.celery_waiter
        TO app_user;
        GRANT USAGE ON SEQUENCE public.celery_listener_sequence TO app_user;
    END IF;
END
$$
"""


def upgrade() -> None:
    _run("SET LOCAL search_path = public")
    _run(script("results_up"))
    _run(GRANT_TO_APP_USER)


def downgrade() -> None:
    if "discard-chords" not in context.get_x_argument(as_dictionary=True):
        waiting = op.get_bind().exec_driver_sql("SELECT count(*) FROM public.celery_chord").scalar_one()
        if waiting:
            raise CommandError(
                f"{waiting} chords are under way in celery_chord: let their tasks end, or throw the chords away with "
                "`alembic -x discard-chords downgrade …`"
            )
    _run("SET LOCAL search_path = public")
    _run(script("results_down"))


def _run(statements: str) -> None:
    # As one string without parameters: a % stays a %.
    op.get_bind().exec_driver_sql(statements, execution_options={"no_parameters": True})
