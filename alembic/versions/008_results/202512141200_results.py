"""What celery_postgres adds to stock Celery's result tables: chords that are counted, and who waits for what.

The statements are frozen in `alembic/frozen/results_up.sql` and `results_down.sql`. Stock backends
go on reading and writing the results.

The downgrade refuses while chords are under way, whose bodies would never run, unless told
`alembic -x discard-chords downgrade …`.
"""

from __future__ import annotations

from alembic import context, op
from alembic.util import CommandError

from app.db.scripts import grant_to_app_user, run_frozen

revision = "202512141200"
down_revision = "202512131300"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_frozen("results_up")
    grant_to_app_user(("celery_chord", "celery_chord_part", "celery_waiter"), ("celery_listener_sequence",))


def downgrade() -> None:
    if "discard-chords" not in context.get_x_argument(as_dictionary=True):
        waiting = op.get_bind().exec_driver_sql("SELECT count(*) FROM public.celery_chord").scalar_one()
        if waiting:
            raise CommandError(
                f"{waiting} chords are under way in celery_chord: let their tasks end, or throw the chords away with "
                "`alembic -x discard-chords downgrade …`"
            )
    run_frozen("results_down")
