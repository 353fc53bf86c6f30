"""What the maintenance tasks work on: customers' events, the tenants' policies, the audit.

The statements are in the two .sql files beside this one. The downgrade drops the tables with the tenants' data.
"""

from __future__ import annotations

from app.db.scripts import run_beside

revision = "202512121000"
down_revision = "202512120900"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_beside(__file__, ".up.sql")


def downgrade() -> None:
    run_beside(__file__, ".down.sql")
