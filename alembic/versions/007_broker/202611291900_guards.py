"""Keep a hostile or absurd row from stopping the broker: limits on columns, claims that cannot repeat, fewer rights.

The package's own scripts again (`sql/broker_up.sql`, `results_up.sql`; what is there already stays).
There is nothing to undo here: the downgrades of 202512131200 and 202512141200, whose scripts they are, drop it all.
"""

from __future__ import annotations

from app.db.scripts import run_in_public
from celery_postgres.database.statements import script

revision = "202611291900"
down_revision = "202512171200"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_in_public(script("broker_up"))
    run_in_public(script("results_up"))


def downgrade() -> None:
    """The limits and columns go with the downgrades of the scripts' own revisions."""
