"""Keep a hostile or absurd row from stopping the broker: limits on columns, claims that cannot repeat, fewer rights.

The scripts of two earlier revisions again (`alembic/frozen/broker_up.sql`, `results_up.sql`; what exists stays).
There is nothing to undo here: the downgrades of 202512131200 and 202512141200, whose scripts they are, drop it all.
"""

from __future__ import annotations

from app.db.scripts import run_frozen

revision = "202611291900"
down_revision = "202512171200"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_frozen("broker_up")
    run_frozen("results_up")


def downgrade() -> None:
    """The limits and columns go with the downgrades of the scripts' own revisions."""
