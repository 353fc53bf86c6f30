"""Fair queues: keys that take turns, and their limits."""

from __future__ import annotations

from app.db.scripts import downgrade_package, upgrade_package

revision = "202611301030"
down_revision = "202611300330"
branch_labels = None
depends_on = None


def upgrade() -> None:
    upgrade_package(11)


def downgrade() -> None:
    downgrade_package(10)
