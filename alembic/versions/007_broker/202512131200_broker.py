"""What celery_postgres adds to stock Kombu's tables: claims, leases, bindings, dead letters, wider ids.

The statements are frozen in `alembic/frozen/broker_up.sql` and `broker_down.sql`. Stock producers and
consumers go on working; they see ready messages only. On
tables with rows the wider ids mean a rewrite under an exclusive lock.

The downgrade makes claimed messages visible again, so that they run again. It refuses while there are dead letters,
for which stock has no table, unless told `alembic -x discard-dead-letters downgrade …`. Ids stay bigint, because there
may be one that int4 cannot hold.
"""

from __future__ import annotations

from alembic import context, op
from alembic.util import CommandError

from app.db.scripts import grant_to_app_user, run_frozen

revision = "202512131200"
down_revision = "202512121000"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_frozen("broker_up")
    grant_to_app_user(("kombu_consumer", "kombu_binding", "kombu_subscription", "kombu_dead_letter"))


def downgrade() -> None:
    if "discard-dead-letters" not in context.get_x_argument(as_dictionary=True):
        dead = op.get_bind().exec_driver_sql("SELECT count(*) FROM public.kombu_dead_letter").scalar_one()
        if dead:
            raise CommandError(
                f"{dead} dead letters are in kombu_dead_letter: publish them again, or throw them away with "
                "`alembic -x discard-dead-letters downgrade …`"
            )
    run_frozen("broker_down")
