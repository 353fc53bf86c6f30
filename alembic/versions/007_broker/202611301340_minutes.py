"""Count by the minute how many tasks start and end, how long they waited and how long they ran."""

from __future__ import annotations

from app.db.scripts import downgrade_package, upgrade_package

revision = "202611301340"
down_revision = "202611301330"
branch_labels = None
depends_on = None


def upgrade() -> None:
    upgrade_package(14)


def downgrade() -> None:
    downgrade_package(13)
